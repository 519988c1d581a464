"""The change-point detector: finds what matters, stays quiet on noise, and says what changed in the machine."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlperf_det.results.change_points import Kind, change_points, hampel
from mlperf_det.results.reading import read_runs
from mlperf_det.results.regressions import Observation, Series, facts_of, find_regressions
from tests.results.conftest import FolderMaker

NIGHTS, NOISE, STEP = 60, 0.01, math.log(1.03)


def noise(seed: int, nights: int = NIGHTS, scale: float = NOISE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, nights)


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize(('at', 'least'), [(15, 47), (20, 48), (30, 49), (40, 48), (45, 47), (50, 30)])
def test_a_step_of_three_per_cent_in_sixty_nights_of_one_per_cent_noise_is_found(at: int, least: int,
                                                                                 sign: int) -> None:
    found, near = 0, 0
    for seed in range(50):
        values = noise(seed)
        values[at:] += sign * STEP
        points = change_points(values)
        found += bool(points)
        near += any(abs(point.index - at) <= 2 and point.kind is Kind.STEP for point in points)
        assert len(points) <= 2
    assert found >= least
    assert near >= 0.85 * found


@pytest.mark.slow
@pytest.mark.parametrize('heavy_tails', [False, True])
def test_a_thousand_quiet_nights_raise_at_most_one_false_alarm(heavy_tails: bool) -> None:
    """Judged anew every night over the history so far, as a nightly run does."""
    for seed in (11, 12, 13):
        generator = np.random.default_rng(seed)
        values = NOISE * (generator.standard_t(3, 1000) if heavy_tails else generator.normal(0, 1, 1000))
        alarms = {point.index for nights in range(1, 1001) for point in change_points(values[:nights])}
        assert len(alarms) <= 1


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, NIGHTS - 1), st.floats(-3, 3), st.booleans())
def test_a_single_outlier_is_no_change(seed: int, at: int, size: float, heavy: bool) -> None:
    values = noise(seed)
    values[at] += size
    assert change_points(values) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(10, 45), st.floats(-3, 3))
def test_an_outlier_does_not_hide_a_step(seed: int, at: int, size: float) -> None:
    values = noise(seed)
    values[30:] += 0.05
    values[at] += size
    assert any(abs(point.index - 30) <= 3 for point in change_points(values))


def test_two_bad_nights_that_pass_are_no_change() -> None:
    for seed in range(30):
        values = noise(seed)
        values[40:42] += 0.3
        assert change_points(values) == []


def test_a_drift_is_told_from_a_step() -> None:
    drifts = 0
    for seed in range(30):
        values = noise(seed, scale=0.004)
        values[20:] += 0.003 * np.arange(NIGHTS - 20)
        points = change_points(values)
        assert points
        drifts += points[0].kind is Kind.DRIFT and abs(points[0].index - 20) <= 8
    assert drifts >= 27


def test_a_level_that_comes_back_is_two_changes() -> None:
    values = noise(3, 90)
    values[30:60] += 0.06
    assert [point.index for point in change_points(values)] == pytest.approx([30, 60], abs=1)


def test_equal_values_and_short_series_have_no_change() -> None:
    assert change_points([5.0] * 100) == []
    assert change_points([1.0] * 10) == []
    assert change_points([]) == []
    assert [point.index for point in change_points([0.0] * 30 + [0.02] * 10)] == [30]


def test_rounding_and_trifles_are_no_change() -> None:
    assert change_points([0.0] * 20 + [0.004] * 20) == []


def test_hampel_keeps_a_step_and_removes_a_spike_even_at_the_end() -> None:
    values = np.array([0.0, 0.01, -0.01] * 5 + [1.0, 1.01, 0.99] * 5)
    assert hampel(values) == pytest.approx(values, abs=0.03)
    values[-1] = 9.0
    assert hampel(values)[-1] == pytest.approx(1.0, abs=0.02)


def series(metric: str, values: list[float], facts: list[dict[str, str]] | None = None) -> Series:
    return Series(case='ssd', metric=metric, observations=tuple(
        Observation(time=1e9 + 86400 * night, value=value, facts=facts[night] if facts else {})
        for night, value in enumerate(values)))


def test_the_first_bad_night_and_what_changed_at_it_are_named() -> None:
    values = list(np.exp(noise(1)) * 100)
    values[40:] = [value * 1.05 for value in values[40:]]
    facts = [{'driver': '550' if night < 40 else '560', 'image': f'sha256:{night // 20}', 'nodes': 'n1',
              **({'NCCL': '2.20'} if night >= 40 else {})} for night in range(NIGHTS)]
    regression, = find_regressions([series('time_to_train', values, facts)])
    assert regression.index == 40
    assert regression.first_bad.time == 1e9 + 86400 * 40
    assert regression.worse
    assert regression.change == pytest.approx(0.05, abs=0.01)
    assert [(cause.name, cause.before, cause.after, cause.lasting) for cause in regression.causes] == [
        ('driver', '550', '560', True), ('NCCL', '', '2.20', True), ('image', 'sha256:1', 'sha256:2', False)]


@pytest.mark.parametrize(('metric', 'worse'), [('time_to_train', True), ('images_per_second', False)])
def test_the_direction_of_the_metric_decides_what_is_worse(metric: str, worse: bool) -> None:
    regression, = find_regressions([series(metric, [100.0] * 30 + [110.0] * 12)])
    assert regression.worse is worse


def test_shares_are_compared_by_difference() -> None:
    regression, = find_regressions([series('data_wait_share', [0.0] * 30 + [0.05] * 12)])
    assert regression.change == pytest.approx(0.05)
    assert find_regressions([series('data_wait_share', [0.001] * 30 + [0.002] * 12)]) == []


def test_facts_of_a_run_folder(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run(software={'torch': '2.14.1', 'driver': '560'}, image={'digest': 'sha256:77'},
             environment={'NCCL_ALGO': 'ring', 'SLURM_JOB_ID': '7'})
    run, = read_runs([tmp_path])
    facts = facts_of(run)
    assert facts['software: driver'] == '560'
    assert (facts['image'], facts['nodes'], facts['environment: NCCL_ALGO']) == ('sha256:77', 'n0', 'ring')
    assert 'environment: SLURM_JOB_ID' not in facts
    assert facts_of(dataclasses.replace(run, record=None)) == {}
