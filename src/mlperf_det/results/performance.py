"""Hold a metric of repeated runs against a reference, with a stated confidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from mlperf_det.results.references import METRICS, Direction, Lookup, Reference
from mlperf_det.results.run import Run
from mlperf_det.results.student_t import student_t_quantile

#: that the mean of the runs lies where we say it lies
CONFIDENCE = 0.95
#: more runs than this are never advised
MOST_RUNS = 30

#: judged metrics -> how a run answers
JUDGED: Mapping[str, Callable[[Run], float | None]] = MappingProxyType({
    'time_to_train': lambda run: run.time_to_train_seconds,
    'images_per_second': lambda run: run.throughput.steady or run.throughput.training,
})


class Standing(str, Enum):
    """Where the runs stand against a reference."""

    GOOD = 'good'              # not worse than the reference value
    SLOW = 'slow'              # worse than the reference value, within its limit
    BEYOND = 'beyond'          # worse than the limit
    UNDECIDED = 'undecided'    # the scatter of the runs does not allow a statement
    NO_LIMIT = 'no limit'      # the reference is too poor to judge by
    NO_REFERENCE = 'no reference'


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One metric against its reference.

    Attributes:
        metric, unit: as in references.yaml.
        mean: of the runs; n: how many.
        reference: None: there is none; `reason` says why.
        limit: worst acceptable value.
        standing: the result.
        sentence: the result in words, with figures and confidence.
        more_runs: runs that would probably settle an undecided metric; None: not undecided, or not within reason.
    """

    metric: str
    unit: str
    mean: float
    n: int
    reference: Reference | None
    limit: float | None
    standing: Standing
    sentence: str
    more_runs: int | None = None


def judge_metric(metric: str, values: Sequence[float], found: Lookup) -> Judgement:
    """Hold the values of a metric, one a run, against what a look-up found.

    One run is held against the limit itself, which is a bound for one run. Of several runs the mean is, by a one-sided
    t interval at 95 %.
    """
    mean, unit = statistics.fmean(values), METRICS[metric][0]
    reference = found.reference
    limit = found.upper if found.upper is not None else found.lower
    standing, more = Standing.NO_REFERENCE, None
    if reference is not None:
        standing, more = _standing(values, reference, limit)
    return Judgement(metric=metric, unit=unit, mean=mean, n=len(values), reference=reference, limit=limit,
                     standing=standing, more_runs=more,
                     sentence=_sentence(metric, unit, mean, len(values), reference, limit, standing, found.reason))


def _standing(values: Sequence[float], reference: Reference, limit: float | None) -> tuple[Standing, int | None]:
    if limit is None:
        return Standing.NO_LIMIT, None
    sign = 1 if reference.direction is Direction.LOWER else -1
    # In these terms larger is worse.
    losses, bound = [sign * value for value in values], sign * limit
    mean, width = statistics.fmean(losses), _half_width(losses)
    if mean - width > bound:
        return Standing.BEYOND, None
    if mean + width > bound:
        return Standing.UNDECIDED, _runs_to_settle(losses, abs(bound - mean))
    return (Standing.SLOW if mean - width > sign * reference.value else Standing.GOOD), None


def _half_width(values: Sequence[float]) -> float:
    """Return the one-sided half width of the interval of the mean; 0 for one value."""
    n = len(values)
    return student_t_quantile(CONFIDENCE, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0


def _runs_to_settle(values: Sequence[float], distance: float) -> int | None:
    """Return how many further runs of the same scatter bring the interval clear of the limit."""
    scatter = statistics.stdev(values)
    for total in range(len(values) + 1, MOST_RUNS + 1):
        if student_t_quantile(CONFIDENCE, total - 1) * scatter / math.sqrt(total) < distance:
            return total - len(values)
    return None


def _sentence(metric: str, unit: str, mean: float, n: int, reference: Reference | None, limit: float | None,
              standing: Standing, reason: str) -> str:
    name = metric.replace('_', ' ')
    measured = f'{name} {mean:.4g} {unit}' + (f' (mean of {n} runs)' if n > 1 else ' (one run)')
    if reference is None or limit is None:
        return f'{measured} is not judged: {reason}'
    against = (f'the {reference.source.kind.value} reference {reference.value:.4g} {unit} '
               f'(limit {limit:.4g} {unit}, n = {reference.n})')
    words = {Standing.GOOD: 'is as good as', Standing.SLOW: 'is worse than, but within the limit of',
             Standing.BEYOND: 'is beyond the limit of',
             Standing.UNDECIDED: f'cannot be told at {CONFIDENCE:.0%} confidence from the limit of'}
    return f'{measured} {words[standing]} {against}'
