"""Expected values for numbers of accelerators that nobody measured: a scaling law, fitted to published results.

Of each benchmark, the logarithm of a metric is fitted by least squares as a quadratic in the logarithm of the number of
accelerators: curvature, because efficiency falls with size. Slope and curvature are common to all accelerators, as the
batch sizes that still converge set them; each accelerator has a level of its own. The uncertainty is that of the
prediction of one further result (parameters and scatter), by Student's t.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlperf_det.results.published import PublishedResult, published_results
from mlperf_det.results.references.table import METRICS, Direction, Reference, ReferenceSource, SourceKind
from mlperf_det.results.student_t import student_t_quantile

#: how far beyond the published numbers of accelerators a prediction may go
FARTHEST = 2.0
MODELLED_METRICS = ('time_to_train', 'images_per_second')

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the scaling law expects.

    Attributes:
        value: expected value in the metric's unit.
        factor: standard deviation of a further result as a factor: 1.1 means 10 % more or less.
        degrees: of freedom of Student's t.
        counts: published numbers of accelerators of this kind.
    """

    value: float
    factor: float
    degrees: int
    counts: tuple[int, ...]

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the range that a further result lies in with this (two-sided) confidence."""
        width = self.factor ** student_t_quantile((1 + confidence) / 2, self.degrees)
        return self.value / width, self.value * width


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """A fit; see the module. `predict` is what it is for."""

    accelerators: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    coefficients: Floats
    covariance: Floats
    scatter: float
    degrees: int

    def predict(self, accelerator: str, accelerators: float) -> Prediction | None:
        """Return what is expected of a number of accelerators.

        None: nobody published a result with this accelerator, or only with far smaller or larger numbers of it.
        """
        counts = self.counts.get(accelerator)
        if not counts or not min(counts) / FARTHEST <= accelerators <= max(counts) * FARTHEST:
            return None
        row = _row(self.accelerators, accelerator, accelerators)
        variance = self.scatter ** 2 + float(row @ self.covariance @ row)
        return Prediction(value=math.exp(float(row @ self.coefficients)), factor=math.exp(math.sqrt(variance)),
                          degrees=self.degrees, counts=counts)


def fit(results: tuple[PublishedResult, ...], metric: str) -> ScalingLaw:
    """Fit the results of one benchmark.

    Args:
        results: of one benchmark.
        metric: one of `MODELLED_METRICS`.
    """
    names = tuple(sorted({result.accelerator for result in results}))
    rows = np.array([_row(names, result.accelerator, result.accelerators) for result in results])
    values = np.log([result.median_minutes * 60 if metric == 'time_to_train' else result.images_per_second
                     for result in results])
    coefficients, *_ = np.linalg.lstsq(rows, values, rcond=None)
    degrees = len(results) - rows.shape[1]
    scatter = float(np.sqrt(np.sum((values - rows @ coefficients) ** 2) / degrees))
    counts = {name: tuple(sorted(result.accelerators for result in results if result.accelerator == name))
              for name in names}
    return ScalingLaw(accelerators=names, counts=counts, coefficients=coefficients, scatter=scatter, degrees=degrees,
                      covariance=scatter ** 2 * np.linalg.pinv(rows.T @ rows))


@functools.lru_cache(maxsize=8)
def published_law(benchmark: str, metric: str) -> ScalingLaw:
    """Return the law of all published results of a benchmark."""
    return fit(tuple(result for result in published_results() if result.benchmark == benchmark), metric)


def modelled_reference(benchmark: str, accelerator: str, accelerators: int, metric: str) -> Reference | None:
    """Return what the scaling law expects as a reference, marked as modelled; None where it expects nothing."""
    found = published_law(benchmark, metric).predict(accelerator, accelerators)
    if found is None:
        return None
    unit, direction = METRICS[metric]
    low, high = found.interval()
    newest = max(result.reference(metric).date for result in published_results()  # type: ignore[union-attr]
                 if (result.benchmark, result.accelerator) == (benchmark, accelerator))
    return Reference(
        value=round(found.value, 1), unit=unit, direction=Direction(direction), n=found.degrees + 1, date=newest,
        spread=round(found.value * (found.factor - 1), 1), source=ReferenceSource(
            kind=SourceKind.MODELLED, note=(
                f'scaling law fitted to published results with {", ".join(map(str, found.counts))} accelerators; '
                f'95 % of further results lie between {low:.4g} and {high:.4g} {unit}')))


def _row(names: tuple[str, ...], accelerator: str, accelerators: float) -> Floats:
    size = math.log(accelerators)
    return np.array([*(float(name == accelerator) for name in names), size, size ** 2])
