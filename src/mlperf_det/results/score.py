"""Scores: MLPerf's mean without the fastest and the slowest run, and ThaiSC's jobs per day beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlperf_det.results.run import Run, RunStatus
from mlperf_det.tables import counted

#: runs that make a score: one fastest, one slowest, one that remains
LEAST_RUNS = 3
SECONDS_PER_DAY = 86_400
#: Means are taken of the values as the table of logs prints them, so that one table follows from the other.
DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a group of runs. Minutes; None where the runs do not allow one.

    Attributes:
        runs, converged: how many there are.
        best, worst, mean, stdev: of the converged runs (sample standard deviation; None for one run).
        olympic: mean of the remaining times after dropping fastest and slowest.
        scaling_factor: of ``scaling.json``: convergence faster than the reference is normalised.
        epochs: mean epochs to the target of the runs that make up `olympic`.
        throughput, throughput_training: mean over the converged runs.
        reason: why there is no score; empty with one.
    """

    runs: int
    converged: int
    best: float | None
    worst: float | None
    mean: float | None
    stdev: float | None
    olympic: float | None
    scaling_factor: float
    epochs: float | None
    throughput: float | None
    throughput_training: float | None
    reason: str

    @property
    def minutes(self) -> float | None:
        """The official result: `olympic` times `scaling_factor`."""
        return None if self.olympic is None else self.olympic * self.scaling_factor


def score_runs(runs: Sequence[Run], scaling_factor: float = 1.0) -> Score:
    """Score the runs of one group by the MLPerf Training rules, for any number of runs from three on.

    The fastest and the slowest run are dropped. A run that did not converge counts as the slowest; with two such runs
    there is no score.
    """
    converged = sorted((run for run in runs if run.converged and run.time_to_train_seconds is not None),
                       key=lambda run: run.time_to_train_seconds or 0.0)
    minutes = [round((run.time_to_train_seconds or 0.0) / 60, DECIMALS) for run in converged]
    kept = slice(1, len(runs) - 1)
    reason = _no_score(len(runs), len(converged))
    return Score(
        runs=len(runs), converged=len(converged), best=min(minutes, default=None), worst=max(minutes, default=None),
        mean=_mean(minutes), stdev=statistics.stdev(minutes) if len(minutes) > 1 else None,
        olympic=None if reason else olympic_mean(minutes, len(runs)), scaling_factor=scaling_factor,
        epochs=None if reason else _mean_of(converged[kept], lambda run: run.epochs_to_target),
        throughput=_mean_of(converged, lambda run: run.throughput.overall),
        throughput_training=_mean_of(converged, lambda run: run.throughput.training), reason=reason)


def olympic_mean(values: Sequence[float], runs: int) -> float:
    """Return the mean without the fastest and the slowest run, as MLPerf scores times to train.

    Of fewer than three runs it is the plain mean.

    Args:
        values: times of the runs that converged.
        runs: number of all runs; one that did not converge is the slowest.
    """
    return statistics.fmean(sorted(values)[1:runs - 1] if runs >= LEAST_RUNS else values)


def missed_target(run: Run) -> bool:
    """Say whether a run that was to reach the target ended, properly, without it."""
    return run.status in (RunStatus.ABORTED, RunStatus.DIVERGED) and not run.finished_steps


def counted_as_slowest(runs: Sequence[Run]) -> Run | None:
    """Return the one run that MLPerf lets miss the target, which then counts as the slowest; None: there is none.

    It is forgiven among at least three runs to convergence; a second one is not.
    """
    missed = [run for run in runs if missed_target(run)]
    return missed[0] if len(missed) == 1 and len(runs) >= LEAST_RUNS and to_convergence(runs) else None


def to_convergence(runs: Sequence[Run]) -> bool:
    """Say whether MLPerf's rules apply to all runs: published logs have no tier, and of our own it is this one."""
    return all(run.tier in ('', 'convergence') for run in runs)


def _no_score(runs: int, converged: int) -> str:
    if runs < LEAST_RUNS:
        return f'{counted(runs, "run")}; a score needs at least {LEAST_RUNS}'
    if converged < runs - 1:
        return f'{runs - converged} of {runs} runs did not converge; at most one may'
    return ''


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def _mean_of(runs: Iterable[Run], value: Callable[[Run], float | None]) -> float | None:
    return _mean(round(found, DECIMALS) for run in runs if (found := value(run)) is not None)


def scaling_efficiency(small: tuple[int, float], large: tuple[int, float]) -> float:
    """Return how much of the ideal speed-up remains between two geometries.

    Args:
        small, large: (accelerators, images per second of the whole system).
    """
    return (large[1] / large[0]) / (small[1] / small[0])


@dataclass(frozen=True, kw_only=True)
class JobsPerDay:
    """ThaiSC's figures: mean seconds of the remaining runs, and 86,400 divided by them."""

    seconds: float
    jobs_per_day: float


def jobs_per_day(seconds: Sequence[float | None]) -> JobsPerDay | None:
    """Score run times by ThaiSC's rule of October 2020, which is MLPerf's with seconds of the whole job.

    Args:
        seconds: of each run; None for a run that did not converge.
    """
    finished = [value for value in seconds if value is not None]
    if _no_score(len(seconds), len(finished)):
        return None
    mean = olympic_mean(finished, len(seconds))
    return JobsPerDay(seconds=mean, jobs_per_day=SECONDS_PER_DAY / mean)
