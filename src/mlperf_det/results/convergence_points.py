"""Hold epochs to convergence against MLPerf's reference convergence points: nobody may need conspicuously few.

A round's reference points state for some batch sizes how many epochs the reference implementation took. The mean epochs
of a submission (without the fastest and the slowest run) must not lie below what a one-sided t test (two samples of
equal variance, alpha 0.05) still explains by chance. A mean between that bound and the reference mean is normalised:
the score is multiplied by reference mean / mean. The points are the data of the mlperf-logging package; the arithmetic
is that of its checker, which needs every log as a file on disk.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from mlperf_det.results.rules import ruleset_of
from mlperf_det.results.run import Run
from mlperf_det.results.score import LEAST_RUNS
from mlperf_det.results.student_t import student_t_quantile

_ALPHA = 0.05
#: runs of a submission, and of a reference point, that remain without the fastest and the slowest one
_SUBMITTED, _INTERPOLATED = 3, 10
_ROUNDING = 1e-9
#: nothing that a sound log says is larger
_MOST_BATCH = 1e9
#: model -> (first, last) major version of the rules that have its points
_MAJOR_VERSIONS = {'ssd300': (1, 1), 'maskrcnn': (1, 3), 'retinanet': (2, 5)}
#: from these rules on RetinaNet goes by its own name; before it was called ``ssd``
_RETINANET_BY_NAME = 5


class Basis(str, Enum):
    """Which reference point a submission is compared with."""

    FOUND = 'the reference at the same batch size'
    INTERPOLATED = 'the references at the next smaller and larger batch sizes'
    SMALLEST = 'the reference at the smallest batch size'
    MISSING = 'no reference'


@dataclass(frozen=True, kw_only=True)
class ReferencePoint:
    """Epochs that the reference implementation takes at a batch size.

    Attributes:
        mean: without the fastest and the slowest run.
        stdev: population standard deviation of all runs.
        least: smallest mean of a submission that the t test does not reject.
    """

    batch: float
    mean: float
    stdev: float
    least: float


@dataclass(frozen=True, kw_only=True)
class ConvergenceCheck:
    """The outcome of one group.

    Attributes:
        passed: None: there is nothing to compare with, and `sentence` says why.
        epochs: mean epochs of the group without the fastest and the slowest run.
        point: what it was compared with; None without.
        factor: reference mean / `epochs`, at least 1; a passing group's score is multiplied by it.
        sentence: the outcome in words.
    """

    passed: bool | None
    basis: Basis
    epochs: float | None = None
    point: ReferencePoint | None = None
    factor: float = 1.0
    sentence: str


def check_convergence(runs: Sequence[Run]) -> ConvergenceCheck | None:
    """Check a group; None where the rules of convergence do not apply: open division, or another tier of our own."""
    first = runs[0]
    if any(run.division != 'closed' or run.tier not in ('', 'convergence') for run in runs):
        return None
    ruleset, model = ruleset_of(first), first.model
    major = int(ruleset.partition('.')[0]) if ruleset[:1].isdigit() else 0
    lowest, highest = _MAJOR_VERSIONS.get(model, (1, 0))
    if not lowest <= major <= highest:
        return _unchecked(f'the rules {ruleset or "of an unknown round"} have no convergence points for {model}')
    batch = first.batch
    if not batch or not 0 < batch < _MOST_BATCH or any(run.batch != batch for run in runs):
        return _unchecked('the runs have no batch size in common')
    epochs = sorted(run.epochs_to_target or math.inf for run in runs)
    if len(epochs) < LEAST_RUNS or epochs[-2] == math.inf:
        return _unchecked(f'{sum(map(math.isfinite, epochs))} of {len(runs)} runs converged, which is too few')
    name = 'ssd' if model == 'ssd300' or (model == 'retinanet' and major < _RETINANET_BY_NAME) else model
    return _compare(float(batch), statistics.fmean(epochs[1:-1]), reference_points(ruleset, name))


def _unchecked(why: str) -> ConvergenceCheck:
    return ConvergenceCheck(passed=None, basis=Basis.MISSING, sentence=f'convergence is not checked: {why}')


def _compare(batch: float, epochs: float, points: Sequence[ReferencePoint]) -> ConvergenceCheck:
    smaller = [point for point in points if point.batch < batch]
    larger = [point for point in points if point.batch > batch]
    same = next((point for point in points if point.batch == batch), None)
    if same is not None:
        point, basis = same, Basis.FOUND
    elif smaller and larger:
        point, basis = _between(batch, smaller[-1], larger[0]), Basis.INTERPOLATED
    elif larger:
        point, basis = larger[0], Basis.SMALLEST
    else:
        return ConvergenceCheck(passed=None, basis=Basis.MISSING, epochs=epochs, sentence=(
            f'convergence is not checked: the largest batch size with a reference is {points[-1].batch:g}, this is '
            f'{batch:g}; a submission needs reference runs of its own'))
    passed = epochs >= point.least - _ROUNDING
    factor = max(1.0, point.mean / epochs)
    if basis is Basis.SMALLEST and not passed:
        # Fewer epochs are to be expected at a smaller batch size: only reference runs at it can tell how many.
        return ConvergenceCheck(passed=None, basis=Basis.MISSING, epochs=epochs, point=point, factor=factor, sentence=(
            f'convergence is not checked: {epochs:.4g} epochs at batch {batch:g} are fewer than the {point.mean:.4g} '
            f'at {point.batch:g}, the smallest with a reference; a submission needs reference runs of its own'))
    return ConvergenceCheck(passed=passed, basis=basis, epochs=epochs, point=point, factor=factor,
                            sentence=_sentence(passed, batch, epochs, point, factor))


def _sentence(passed: bool, batch: float, epochs: float, point: ReferencePoint, factor: float) -> str:
    against = f'{epochs:.4g} epochs at batch {batch:g}, the reference takes {point.mean:.4g}'
    against += f' at {point.batch:g}' if point.batch != batch else ''
    if not passed:
        return f'convergence is too fast to be explained by chance: {against}, and at least {point.least:.4g} are due'
    if factor > 1:
        return f'convergence is faster than the reference: {against}; the score is normalised by {factor:.4f}'
    return f'convergence is no faster than the reference: {against}'


class _Record(msgspec.Struct, rename={'batch': 'BS', 'epochs': 'Epochs to converge'}):
    """One record of the package's file."""

    batch: float
    epochs: list[float]


@functools.lru_cache(maxsize=32)
def reference_points(ruleset: str, benchmark: str) -> tuple[ReferencePoint, ...]:
    """Return the points that count, by rising batch size.

    Pruned are those at smaller batch sizes than the quickest one, and then, from small to large, each that lies above
    the straight line between its neighbours.

    Args:
        ruleset: e.g. ``3.1.0``.
        benchmark: as the rules of that round call it.
    """
    files = importlib.resources.files('mlperf_logging').joinpath('rcp_checker', f'training_{ruleset}')
    records = msgspec.json.decode(files.joinpath(f'rcps_{benchmark}.json').read_bytes(), type=dict[str, _Record])
    points = sorted((_point(record) for record in records.values()), key=lambda point: point.batch)
    quickest = min(points, key=lambda point: point.mean)
    kept = [point for point in points if point.batch >= quickest.batch]
    place = 1
    while place < len(kept) - 1:
        if kept[place].mean > _between(kept[place].batch, kept[place - 1], kept[place + 1]).mean:
            del kept[place]    # the checker does not look back at the one before
        else:
            place += 1
    return tuple(kept)


def _point(record: _Record) -> ReferencePoint:
    middle = sorted(record.epochs)[1:-1]
    mean, stdev = statistics.fmean(middle), statistics.pstdev(record.epochs)
    return ReferencePoint(batch=record.batch, mean=mean, stdev=stdev, least=_least(mean, stdev, len(middle)))


def _between(batch: float, low: ReferencePoint, high: ReferencePoint) -> ReferencePoint:
    share = (batch - low.batch) / (high.batch - low.batch)
    mean, stdev = (low.mean + share * (high.mean - low.mean), low.stdev + share * (high.stdev - low.stdev))
    return ReferencePoint(batch=batch, mean=mean, stdev=stdev, least=_least(mean, stdev, _INTERPOLATED))


def _least(mean: float, stdev: float, runs: int) -> float:
    """Return the smallest mean of a submission that the test does not reject; both samples share `stdev`."""
    error = stdev * math.sqrt(1 / runs + 1 / _SUBMITTED)
    return mean - student_t_quantile(1 - _ALPHA, runs + _SUBMITTED - 2) * error
