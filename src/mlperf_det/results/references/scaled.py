"""Expected values for node counts that this site did not measure, from those that it did.

The level is the site's own; how it changes with size comes from the scaling law of all published results of the
benchmark (`results.scaling`), in which slope and curvature are common to all accelerators. So this also serves
accelerators that nobody published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from mlperf_det.results.references.table import Direction, Key, Reference, References, ReferenceSource, SourceKind
from mlperf_det.results.scaling import FARTHEST, MODELLED_METRICS, Prediction, ScalingLaw, published_law


def from_measured(known: References, accelerator: str, accelerators_per_node: int, nodes: Iterable[int],
                  precision: str, benchmarks: Iterable[str]) -> dict[Key, Reference]:
    """Return references scaled from the nearest measured node count, marked as modelled.

    Args:
        known: the site's references; only measured values count.
        accelerator, precision: of the measured values and of the result.
        accelerators_per_node: of all node counts.
        nodes: that are wanted; those beyond `FARTHEST` times the measured ones are left out, as are measured ones.
        benchmarks: that are wanted.
    """
    wanted = tuple(nodes)
    found: dict[Key, Reference] = {}
    for benchmark in benchmarks:
        for metric in MODELLED_METRICS:
            measured = {key[2]: reference for key, reference in known.items()
                        if (key[0], key[1], key[3], key[4]) == (benchmark, accelerator, precision, metric)
                        and reference.source.kind is SourceKind.MEASURED}
            for count in wanted:
                if count in measured or not measured:
                    continue
                nearest = min(measured, key=lambda other: abs(math.log(other / count)))
                if max(count / nearest, nearest / count) <= FARTHEST:
                    found[benchmark, accelerator, count, precision, metric] = _scaled(
                        measured[nearest], nearest, count, accelerators_per_node, published_law(benchmark, metric))
    return found


def expect(law: ScalingLaw, value: float, spread: float, before: int, after: int) -> Prediction:
    """Return what is expected of another number of accelerators.

    Args:
        law: that says how the metric changes with size.
        value: on ``before`` accelerators, in the metric's unit.
        spread: standard deviation of ``value`` in the same unit.
        before, after: numbers of accelerators.
    """
    sizes = math.log(before), math.log(after)
    # The levels of the accelerators cancel: only slope and curvature count.
    row = np.array([sizes[1] - sizes[0], sizes[1] ** 2 - sizes[0] ** 2])
    variance = law.scatter ** 2 + float(row @ law.covariance[-2:, -2:] @ row) + (spread / value) ** 2
    return Prediction(value=value * math.exp(float(row @ law.coefficients[-2:])),
                      factor=math.exp(math.sqrt(variance)), degrees=law.degrees, counts=(before,))


def _scaled(measured: Reference, before: int, after: int, accelerators_per_node: int, law: ScalingLaw) -> Reference:
    found = expect(law, measured.value, measured.spread or 0.0, before * accelerators_per_node,
                   after * accelerators_per_node)
    low, high = found.interval()
    return Reference(
        value=round(found.value, 1), unit=measured.unit, direction=Direction(measured.direction), n=found.degrees + 1,
        spread=round(found.value * (found.factor - 1), 1), date=measured.date, source=ReferenceSource(
            kind=SourceKind.MODELLED, runs=measured.source.runs, note=(
                f'scaled from {before} measured node(s) by the law of published results; 95 % of further results lie '
                f'between {low:.4g} and {high:.4g} {measured.unit}')))
