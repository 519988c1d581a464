"""Hold a metric of repeated runs against a reference, with a stated confidence.

Times and rates scatter by factors rather than by amounts, so the runs are judged on the logarithm: of several runs the
one-sided t interval of the mean logarithm, which is that of their geometric mean, must lie on one side of the limit.
The t interval is exact for normal logarithms at any number of runs from two, and wide for few. (A bootstrap would need
some ten runs before its coverage comes near to what it states.) One run is held against the limit itself, which of
measured and published references is a bound for one run; no confidence can be stated for it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from mlperf_det.results.references.table import METRICS, Direction, Lookup, Reference, SourceKind
from mlperf_det.results.run import Run
from mlperf_det.results.student_t import student_t_cdf, student_t_quantile

#: that the mean of the runs lies where we say it lies
CONFIDENCE = 0.95
#: probability with which the advised number of runs settles an undecided metric
POWER = 0.8
#: more runs than this, in all, are never advised
MOST_RUNS = 1000
#: from this number on, Student's t is as good as normal
_MANY_RUNS = 60
#: of logarithms: a value that equals its limit is not beyond it
_ROUNDING = 1e-12
#: of logarithms: half an interval that says nothing any more, and whose bounds are still finite numbers
_WIDEST = 50.0

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
        mean: geometric mean of the runs; n: how many.
        reference: None: there is none; `reason` says why.
        limit: worst acceptable value.
        standing: the result.
        sentence: the result in words, with figures and confidence.
        sure: how sure it is that the mean lies on the good side of the limit, from 0 to 1; None: one run, or no limit.
        interval: lowest and highest mean that are not excluded, each at the confidence asked for; None: one run.
        more_runs: runs that settle an undecided metric with `POWER`; None: not undecided, or not within reason.
    """

    metric: str
    unit: str
    mean: float
    n: int
    reference: Reference | None
    limit: float | None
    standing: Standing
    sentence: str
    sure: float | None = None
    interval: tuple[float, float] | None = None
    more_runs: int | None = None


def amount_text(metric: str, value: float) -> str:
    """Return a value with its unit as people say it: times to train in minutes, rates from 100 on as whole numbers."""
    unit = METRICS[metric][0]
    if metric == 'time_to_train':
        return f'{value / 60:.4g} min'
    return f'{value:,.0f} {unit}' if value >= 100 else f'{value:.4g} {unit}'


def judge_metric(metric: str, values: Sequence[float], found: Lookup, *, confidence: float = CONFIDENCE) -> Judgement:
    """Hold the values of a metric, one a run and positive, against what a look-up found."""
    mean, unit = statistics.geometric_mean(values), METRICS[metric][0]
    reference = found.reference
    limit = found.upper if found.upper is not None else found.lower
    standing, sure, more = Standing.NO_REFERENCE if reference is None else Standing.NO_LIMIT, None, None
    if reference is not None and limit is not None and limit > 0:
        sign = 1 if reference.direction is Direction.LOWER else -1
        # In these terms larger is worse.
        losses = [sign * math.log(value) for value in values]
        bound, aim = sign * math.log(limit), sign * math.log(reference.value)
        standing, sure = _standing(losses, bound, aim, confidence), _sureness(losses, bound)
        more = _runs_to_settle(losses, bound, confidence) if standing is Standing.UNDECIDED else None
    width = math.exp(min(_half_width([math.log(value) for value in values], confidence), _WIDEST))
    return Judgement(metric=metric, unit=unit, mean=mean, n=len(values), reference=reference, limit=limit,
                     standing=standing, sure=sure, interval=(mean / width, mean * width) if len(values) > 1 else None,
                     more_runs=more, sentence=_sentence(
                         metric, mean, values, found, standing, sure, more, confidence))


def _standing(losses: Sequence[float], bound: float, aim: float, confidence: float) -> Standing:
    mean, width = statistics.fmean(losses), _half_width(losses, confidence)
    if mean - width > bound + _ROUNDING:
        return Standing.BEYOND
    if mean + width > bound + _ROUNDING:
        return Standing.UNDECIDED
    return Standing.SLOW if mean - width > aim + _ROUNDING else Standing.GOOD


def _half_width(values: Sequence[float], confidence: float) -> float:
    """Return the one-sided half width of the interval of the mean; 0 for one value."""
    n = len(values)
    return student_t_quantile(confidence, n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0


def _sureness(losses: Sequence[float], bound: float) -> float | None:
    """Return the confidence at which the interval of the mean just reaches the limit; None for one run."""
    n = len(losses)
    if n < 2:
        return None
    error = statistics.stdev(losses) / math.sqrt(n)
    distance = bound - statistics.fmean(losses)
    if error == 0:
        return 1.0 if distance >= -_ROUNDING else 0.0
    return student_t_cdf(distance / error, n - 1)


def _runs_to_settle(losses: Sequence[float], bound: float, confidence: float) -> int | None:
    """Return how many further runs bring the interval clear of the limit with `POWER`, if mean and scatter stay.

    The usual sample size of a t test: the distance must be both quantiles' sum of standard errors. None: too many.
    """
    scatter, distance = statistics.stdev(losses), abs(bound - statistics.fmean(losses))

    def needed(degrees: int) -> float:
        quantiles = student_t_quantile(confidence, degrees) + student_t_quantile(POWER, degrees)
        return (quantiles * scatter / distance) ** 2 if distance > _ROUNDING else math.inf

    for total in range(len(losses) + 1, _MANY_RUNS + 1):
        if needed(total - 1) < total:
            return total - len(losses)
    # With so many runs the quantiles change no more.
    total_needed = needed(_MANY_RUNS)
    return math.ceil(total_needed) - len(losses) if total_needed < MOST_RUNS else None


def _sentence(metric: str, mean: float, values: Sequence[float], found: Lookup, standing: Standing,
              sure: float | None, more: int | None, confidence: float) -> str:
    n, reference = len(values), found.reference
    measured = f'{metric.replace("_", " ")} {amount_text(metric, mean)}' + (
        f' (geometric mean of {n} runs)' if n > 1 else ' (one run)')
    limit = found.upper if found.upper is not None else found.lower
    if reference is None or limit is None or standing is Standing.NO_LIMIT:
        reason = found.reason or 'the reference scatters so much that it excludes nothing; measure it again'
        return f'{measured} is not judged: {reason}'
    standing_on = 'as promised' if reference.source.kind is SourceKind.PROMISED else f'n = {reference.n}'
    against = (f'the {reference.source.kind.value} reference {amount_text(metric, reference.value)} '
               f'(limit {amount_text(metric, limit)}, {standing_on})')
    worse = (reference.direction is Direction.LOWER and mean > reference.value) or (
        reference.direction is Direction.HIGHER and mean < reference.value)
    words = {Standing.GOOD: 'cannot be told from, and is within the limit of,' if worse else 'is as good as',
             Standing.SLOW: 'is worse than, but within the limit of', Standing.BEYOND: 'is beyond the limit of',
             Standing.UNDECIDED: f'cannot be told at {100 * confidence:g} % confidence from the limit of'}
    certainty = '; one run, so no confidence can be stated'
    if sure is not None:
        side, share = ('within', sure) if sure >= 0.5 else ('beyond', 1 - sure)
        certainty = f'; {"more than 99.9" if share > 0.999 else format(100 * share, ".1f")} % sure that it is {side} it'
    advice = ''
    if standing is Standing.UNDECIDED:
        runs = 'run' if more == 1 else 'runs'
        advice = (f'; {more} more {runs} would settle it with {100 * POWER:g} % probability' if more else
                  f'; it lies too near the limit for {MOST_RUNS} runs of this scatter to settle it')
    return f'{measured} {words[standing]} {against}{certainty}{advice}'
