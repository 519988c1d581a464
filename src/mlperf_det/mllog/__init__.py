"""MLPerf logs: writing, reading, compliance."""
