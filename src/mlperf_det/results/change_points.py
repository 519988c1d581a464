"""Change points in a series of nightly measurements: steps and drifts, told from noise and from single outliers.

Three stages, each a textbook method:

1. Hampel's filter (F. R. Hampel, The Influence Curve and its Role in Robust Estimation, 1974): a value that lies far
   from the running median of its neighbours is replaced by it. A spike of one or two nights vanishes, a step stays.
2. The largest two-sample t statistic over all places where the series can be cut in two, against a threshold that was
   calibrated by simulation. For the statistic, values are cut off at three standard deviations of the nightly noise
   from the median (P. J. Huber, Robust Estimation of a Location Parameter, 1964), so that no night weighs more than
   that. The parts are cut again until nothing is found (binary segmentation; Scott & Knott 1974, Vostrikova 1981).
3. Where a bent line (level, then a slope) fits the series better than the step does, the change is a drift.

The package ruptures offers more search methods, but neither a calibrated threshold nor protection from outliers, which
are what matters here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

#: Threshold of the statistic for long series, and the length at which the threshold of short ones, whose scatter is
#: poorly known, is higher by one: ``6.2 + (38 / nights) ** 2``. Calibrated by simulating quiet histories, judged anew
#: every night, with normal noise and with Student's t noise of three degrees of freedom; successive nights are taken to
#: be independent. The tests repeat the simulation with histories of a thousand nights.
_THRESHOLD, _SHORT = 6.2, 38.0
#: nights that a new level must have lasted, so that a bad week-end is no change; and nights before it
LEAST_AFTER, LEAST_BEFORE = 3, 8
#: scatter below this is taken for rounding
_LEAST_SCATTER = 5e-4
#: nights on either side that Hampel's running median is over, and the deviations from it that make an outlier
_HAMPEL_HALF, _HAMPEL_DEVIATIONS = 3, 4.0
#: deviations of the nightly noise from the median beyond which a value weighs no more
_MOST_WEIGHT = 3.0
#: median absolute deviation -> standard deviation of normal noise
_MAD_TO_SIGMA = 1.4826
#: how much better than the step the bent line must fit
_DRIFT_GAIN = 0.9

Floats = npt.NDArray[np.float64]


class Kind(str, Enum):
    """How a series changes."""

    STEP = 'step'
    DRIFT = 'drift'


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """A change.

    Attributes:
        index: of the first value that is different; of a drift, of the first value on the slope.
        kind: step or drift.
        before, after: median on either side, in the scale of the series; of a drift, at its start and its end.
        statistic: of the cut.
    """

    index: int
    kind: Kind
    before: float
    after: float
    statistic: float


def change_points(values: Sequence[float], *, least_change: float = 0.005) -> list[ChangePoint]:
    """Return the changes in a series, by rising index.

    Args:
        values: one a night, finite; logarithms where changes are meant as ratios.
        least_change: smaller changes are of no interest, however certain.
    """
    cleaned = hampel(np.asarray(values, dtype=np.float64))
    found = _segment(cleaned, 0, least_change)
    return sorted(found, key=lambda point: point.index)


def hampel(values: Floats) -> Floats:
    """Return the series with outliers replaced by the median of their neighbourhood of seven nights."""
    if len(values) < LEAST_BEFORE:
        return values
    # Reflected, not repeated, at its ends: an outlier of the last night must not be its own neighbourhood.
    padded = np.pad(values, _HAMPEL_HALF, mode='reflect')
    middle: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _HAMPEL_HALF + 1), axis=1)
    return np.where(np.abs(values - middle) > _HAMPEL_DEVIATIONS * nightly_noise(values), middle, values)


def nightly_noise(values: Floats) -> float:
    """Return the standard deviation of the noise, from the median difference between successive nights."""
    return max(float(_MAD_TO_SIGMA * np.median(np.abs(np.diff(values)))) / 2 ** 0.5, _LEAST_SCATTER)


def _segment(values: Floats, offset: int, least_change: float) -> Iterator[ChangePoint]:
    """Yield the changes in a part of the series that begins at ``offset``."""
    n = len(values)
    if n < LEAST_BEFORE + LEAST_AFTER:
        return
    cut, statistic = _best_cut(_bounded(values))
    before, after = float(np.median(values[:cut])), float(np.median(values[cut:]))
    if abs(after - before) < least_change or abs(statistic) < threshold(n):
        return
    bend, start, end, residual = _best_bend(values)
    if residual < _DRIFT_GAIN * _step_residual(values, cut) and abs(end - start) >= least_change:
        yield ChangePoint(index=offset + bend, kind=Kind.DRIFT, before=start, after=end, statistic=statistic)
        return
    yield ChangePoint(index=offset + cut, kind=Kind.STEP, before=before, after=after, statistic=statistic)
    yield from _segment(values[:cut], offset, least_change)
    yield from _segment(values[cut:], offset + cut, least_change)


def _bounded(values: Floats) -> Floats:
    """Return the series with values cut off far from its median."""
    noise, middle = nightly_noise(values), float(np.median(values))
    return np.clip(values, middle - _MOST_WEIGHT * noise, middle + _MOST_WEIGHT * noise)


def _best_cut(values: Floats) -> tuple[int, float]:
    """Return where to cut the series, and the statistic (with its sign) of the two parts.

    The scatter is that from one night to the next (J. von Neumann, Distribution of the Ratio of the Mean Square
    Successive Difference to the Variance, 1941), which further changes of level hardly inflate.
    """
    n = len(values)
    cuts = np.arange(LEAST_BEFORE, n - LEAST_AFTER + 1)
    left = np.cumsum(values - values.mean())[cuts - 1]
    # The parts' means are left / cuts and -left / (n - cuts), because the whole is centred.
    difference = -left / (n - cuts) - left / cuts
    scatter = max(float(np.sqrt(np.mean(np.diff(values) ** 2) / 2)), nightly_noise(values))
    statistics = difference / (scatter * np.sqrt(1 / cuts + 1 / (n - cuts)))
    best = int(np.argmax(np.abs(statistics)))
    return int(cuts[best]), float(statistics[best])


def threshold(nights: int) -> float:
    """Return what the statistic of a series of so many nights must reach to be a change."""
    return _THRESHOLD + (_SHORT / nights) ** 2


def _step_residual(values: Floats, cut: int) -> float:
    """Return the sum of squares that a step leaves."""
    return float(sum(np.sum((part - part.mean()) ** 2) for part in (values[:cut], values[cut:])))


def _best_bend(values: Floats) -> tuple[int, float, float, float]:
    """Fit a level that turns into a slope; return the bend, the level at start and end, and the sum of squares left."""
    nights = np.arange(len(values), dtype=np.float64)
    best = (0, 0.0, 0.0, np.inf)
    for bend in range(0, len(values) - LEAST_BEFORE + 1):
        ramp = np.maximum(nights - bend, 0.0)
        centred = ramp - ramp.mean()
        slope = float(centred @ values / (centred @ centred))
        level = float(values.mean() - slope * ramp.mean())
        residual = float(np.sum((values - level - slope * ramp) ** 2))
        if residual < best[3]:
            best = (bend, level, level + slope * float(ramp[-1]), residual)
    return best
