"""Scores by MLPerf's rule and ThaiSC's."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.run import Run, RunStatus, Throughput
from mlperf_det.results.score import jobs_per_day, scaling_efficiency, score_runs
from tests.results.conftest import log_text


def runs(*minutes: float | None) -> list[Run]:
    return [Run(source=Path('r'), status=RunStatus.CONVERGED if value else RunStatus.ABORTED, reason='',
                time_to_train_seconds=(value or 1) * 60, epochs_to_target=value,
                throughput=Throughput(overall=value)) for value in minutes]


@pytest.mark.parametrize(('minutes', 'olympic'), [
    ((5, 1, 3, 2, 4), 3), ((5, 1, 3, 2, 40), 10 / 3), ((1, 2, 3), 2), ((1, 2, 3, None), 2.5), ((1, 2, None), 2),
    ((4, 3, None, 1, 2), 3), (tuple(range(1, 11)), 5.5), ((1, 2), None), ((1,), None), ((), None),
    ((1, None, None), None), ((5, 4, 3, None, None), None), ((None,) * 5, None)])
def test_fastest_and_slowest_are_dropped_and_one_may_fail(minutes: tuple[float | None, ...],
                                                          olympic: float | None) -> None:
    score = score_runs(runs(*minutes))
    assert score.olympic == (None if olympic is None else pytest.approx(olympic, abs=1e-6))
    assert bool(score.reason) == (olympic is None)
    assert score.epochs == (None if olympic is None else pytest.approx(olympic, abs=1e-6))


def test_the_scaling_factor_multiplies_the_score_alone() -> None:
    score = score_runs(runs(1, 2, 3), 1.5)
    assert (score.olympic, score.minutes, score.mean, score.stdev) == (2, 3, 2, 1)


def test_published_results_in_jobs_a_day() -> None:
    """Seconds of the RESULT lines of published v0.7 Mask R-CNN logs: one DGX-1, and four systems of eight A100."""
    one = jobs_per_day([9186, 9253, 9229, 9331, 9262])
    four = jobs_per_day([1676, 1782, 1767, 1658, 2017])
    assert one is not None
    assert four is not None
    assert (one.seconds, round(one.jobs_per_day, 3)) == (9248, 9.343)
    assert (round(four.seconds, 1), round(four.jobs_per_day, 2)) == (1741.7, 49.61)
    assert jobs_per_day([1.0, None, None, 2.0, 3.0]) is None
    assert jobs_per_day([10.0, None, 20.0]) is not None


def test_scaling_efficiency() -> None:
    assert scaling_efficiency((8, 1000), (64, 6000)) == pytest.approx(0.75)


def test_runs_handed_in_again_are_known_by_the_first_name_of_all(tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    for place, text in (('v3.0/Lab/2xA/ssd', log_text()), ('v3.0/Lab/16xA/ssd', log_text()),
                        ('v3.1/Lab/A/ssd', log_text(epoch_seconds=31))):
        folder = tmp_path / 'tree' / place
        folder.mkdir(parents=True)
        (folder / 'result_0.txt').write_text(text)
        (folder / 'result_1.txt').symlink_to('gone')
    assert main(['score', str(tmp_path / 'tree'), '--csv', '-']) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row['system']: row['shared_run_cluster'] for row in rows} == {
        '2xA': 'v3.0/Lab/16xA/ssd', '16xA': 'v3.0/Lab/16xA/ssd', 'A': ''}
    assert {(row['n_logs'], row['n_logs_not_in_snapshot'], row['half']) for row in rows} == {('2', '1', '')}
