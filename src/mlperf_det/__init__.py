"""Acceptance tests for GPU clusters: MLPerf detection training under ReFrame."""

__version__ = '0.1.0'
