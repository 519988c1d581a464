"""Convergence points: the arithmetic of mlperf-logging's checker, held against the checker itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker

from mlperf_det.results.convergence_points import Basis, check_convergence, reference_points
from mlperf_det.results.run import Run, RunStatus


def runs(*epochs: float | None, batch: float = 1024, model: str = 'ssd300', round_name: str = 'v1.1',
         division: str = 'closed') -> list[Run]:
    return [Run(source=Path('r'), status=RunStatus.CONVERGED if each else RunStatus.ABORTED, reason='', model=model,
                round=round_name, division=division, batch=batch, epochs_to_target=each) for each in epochs]


@pytest.mark.parametrize(('ruleset', 'benchmark'), [
    ('1.0.0', 'ssd'), ('1.1.0', 'ssd'), ('1.1.0', 'maskrcnn'), ('2.0.0', 'ssd'), ('2.0.0', 'maskrcnn'),
    ('3.1.0', 'maskrcnn'), ('3.1.0', 'ssd'), ('4.1.0', 'ssd'), ('5.1.0', 'retinanet')])
def test_the_points_are_those_of_the_checker(ruleset: str, benchmark: str) -> None:
    theirs = sorted(RCP_Checker('training', ruleset, benchmark, False).pruned_rcp_data.values(),
                    key=lambda record: record['BS'])
    ours = reference_points(ruleset, benchmark)
    assert [point.batch for point in ours] == [record['BS'] for record in theirs]
    for point, record in zip(ours, theirs, strict=True):
        assert point.mean == pytest.approx(record['RCP Mean'], abs=1e-9)
        assert point.stdev == pytest.approx(record['RCP Stdev'], abs=1e-9)
        assert point.least == pytest.approx(record['Min Epochs'], abs=2e-4)    # they search to 1e-4


@pytest.mark.parametrize(('epochs', 'batch', 'passed', 'basis', 'words'), [
    ((50, 50, 50, 50, 50), 1024, True, Basis.FOUND, 'no faster than the reference: 50 epochs'),
    ((49, 50, 50, 49, 50), 1024, False, Basis.FOUND, 'too fast to be explained by chance: 49.67 epochs'),
    ((85, 85, 85, 85, 85), 4096, True, Basis.FOUND, 'the score is normalised by 1.0235'),
    ((84, 84, 84, 84, 84), 4096, False, Basis.FOUND, 'at least 84.51 are due'),
    ((53, 53, 53, 53, 53), 1280, True, Basis.INTERPOLATED, 'no faster'),
    ((51, 51, 51, 51, 51), 1280, False, Basis.INTERPOLATED, 'too fast'),
    ((50, 50, 50, 50, 50), 456, True, Basis.SMALLEST, 'the reference takes 50 at 1024'),
    ((40, 40, 40, 40, 40), 456, None, Basis.MISSING, 'a submission needs reference runs of its own'),
    ((99, 99, 99, 99, 99), 8192, None, Basis.MISSING, 'the largest batch size with a reference is 4096'),
    ((50, 50, 50, 50, None), 1024, True, Basis.FOUND, 'no faster'),
    ((50, 50, 50, None, None), 1024, None, Basis.MISSING, '3 of 5 runs converged'),
    ((50, 50), 1024, None, Basis.MISSING, '2 of 2 runs converged, which is too few')])
def test_outcomes(epochs: tuple[float | None, ...], batch: int, passed: bool | None, basis: Basis, words: str) -> None:
    check = check_convergence(runs(*epochs, batch=batch))
    assert check is not None
    assert (check.passed, check.basis) == (passed, basis)
    assert words in check.sentence


def test_the_rules_of_another_model_are_never_used() -> None:
    check = check_convergence(runs(4, 4, 4, batch=256, round_name='v3.1'))
    assert check is not None
    assert check.passed is None
    assert 'no convergence points for ssd300' in check.sentence
    assert check_convergence(runs(50, 50, 50, division='open')) is None


def test_different_batch_sizes_are_not_compared() -> None:
    mixed = [*runs(50, 50), *runs(50, batch=2048)]
    check = check_convergence(mixed)
    assert check is not None
    assert check.passed is None
    assert 'no batch size in common' in check.sentence


@pytest.mark.parametrize('batch', [None, 0, -8, float('inf'), 10 ** 400])
def test_a_batch_size_that_is_none_is_not_compared(batch: float | None) -> None:
    check = check_convergence(runs(50, 50, 50, batch=batch))    # type: ignore[arg-type]
    assert check is not None
    assert check.passed is None
