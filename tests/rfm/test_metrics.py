"""Metrics: one table of units and directions, and what several runs amount to."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from mlperf_det.results.references.table import METRICS
from mlperf_det.results.run import Run, RunStatus
from mlperf_det.rfm import metrics
from mlperf_det.rfm.metrics import Metric, olympic_mean

ALL = [value for value in vars(metrics).values() if isinstance(value, Metric)]


@pytest.mark.parametrize('metric', ALL, ids=lambda metric: metric.name)
def test_units_and_directions_are_those_of_references(metric: Metric) -> None:
    assert METRICS[metric.name] == (metric.unit, metric.better.value)


def run(seconds: float | None) -> Run:
    return Run(source=PurePath('run_x'), status=RunStatus.CONVERGED, reason='', time_to_train_seconds=seconds)


def test_time_to_train_of_five_runs_drops_the_fastest_and_the_slowest() -> None:
    assert metrics.TIME_TO_TRAIN.measure([run(t) for t in (10, 1000, 12, 14, 1)]) == 12
    assert olympic_mean([1, 2]) == 1.5


def test_a_run_without_the_metric_is_named() -> None:
    with pytest.raises(LookupError, match='run_x does not yield time_to_train'):
        metrics.TIME_TO_TRAIN.measure([run(1), run(None)])
    with pytest.raises(LookupError, match='no run at all'):
        metrics.TIME_TO_TRAIN.measure([])
