"""A chart of points on logarithmic axes, with fitted curves and their uncertainty, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlperf_det.results.report.downsample import Point
from mlperf_det.results.report.html import Markup, raw, tag
from mlperf_det.results.report.svg import at, framed
from mlperf_det.results.report.svg_rows import diamond

WIDTH, HEIGHT = 860, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 16, 26, 44
#: points with labels of their own; the labels of more would hide what they stand beside
_MOST_LABELS = 8
#: pixels that a label takes
_LABEL_WIDTH, _LABEL_HEIGHT = 50, 16


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind, each with the text of its tooltip.

    Attributes:
        kind: class of the style sheet, for the colour.
        diamond: drawn as diamonds instead of circles, and labelled with their values where they are few.
    """

    points: Sequence[Point]
    tips: Sequence[str]
    kind: str
    diamond: bool = False


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted curve: (x, value, lower, upper) by rising x, the text of its tooltip, and its colour's class."""

    points: Sequence[tuple[float, float, float, float]]
    tip: str
    kind: str


def scatter_chart(title: str, description: str, clouds: Sequence[Cloud], fits: Sequence[Fit], x_title: str,
                  y_title: str) -> Markup:
    """Return a chart of positive points on two logarithmic axes; `description` is for those who do not see it."""
    points = [point for cloud in clouds for point in cloud.points]
    points += [(point[0], value) for fit in fits for point in fit.points for value in point[1:]]
    (x_low, x_high), (y_low, y_high) = (_decades([point[axis] for point in points]) for axis in (0, 1))

    def place(point: Point) -> Point:
        across = (math.log10(point[0]) - x_low) / (x_high - x_low)
        up = (math.log10(point[1]) - y_low) / (y_high - y_low)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    bottom, grid = HEIGHT - _BOTTOM, ''
    parts = []
    for value in _powers_of_two(x_low, x_high):
        across = place((value, 10 ** y_low))[0]
        grid += f'M{at(across)} {_TOP}V{bottom}'
        parts.append(tag('text', f'{value:g}', x=at(across), y=bottom + 16, class_='m'))
    for value in _marks(y_low, y_high):
        height = place((10 ** x_low, value))[1]
        grid += f'M{_LEFT} {at(height)}H{WIDTH - _RIGHT}'
        parts.append(tag('text', f'{value:,g}', x=_LEFT - 8, y=at(height + 4), class_='e'))
    parts.insert(0, tag('path', class_='grid', d=raw(grid)))
    parts += [_fit(fit, place) for fit in fits]
    parts += [_cloud(cloud, place) for cloud in clouds]
    parts += _labels([point for cloud in clouds if cloud.diamond for point in cloud.points], place)
    parts += [tag('line', class_='axis', x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom),
              tag('text', x_title, class_='m title', x=(WIDTH + _LEFT) / 2, y=HEIGHT - 6),
              tag('text', y_title, class_='title', x=0, y=11)]
    return framed(title, description, WIDTH, HEIGHT, parts)


def _cloud(cloud: Cloud, place: Callable[[Point], Point]) -> Markup:
    marks = []
    for point, tip in zip(cloud.points, cloud.tips, strict=True):
        x, y = place(point)
        if cloud.diamond:
            marks.append(tag('path', tag('title', tip), class_='diamond', d=diamond(x, y)))
        else:
            marks.append(tag('circle', tag('title', tip), cx=at(x), cy=at(y)))
    return tag('g', *marks, class_=cloud.kind)


def _labels(points: Sequence[Point], place: Callable[[Point], Point]) -> list[Markup]:
    """Label points with their values, but for those whose label would hide an earlier one; tooltips have them all."""
    taken: list[Point] = []
    labels = []
    for point in points if len(points) <= _MOST_LABELS else ():
        x, y = place(point)
        if all(abs(x - other) >= _LABEL_WIDTH or abs(y - height) >= _LABEL_HEIGHT for other, height in taken):
            taken.append((x, y))
            labels.append(tag('text', f'{point[1]:.2f}', class_='rulelabel', x=at(x + 10), y=at(y - 6)))
    return labels


def _fit(fit: Fit, place: Callable[[Point], Point]) -> Markup:
    around = [(x, low) for x, _, low, _ in fit.points] + [(x, high) for x, _, _, high in reversed(fit.points)]
    band = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in map(place, around)) + 'Z'
    line = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in (place((x, value)) for x, value, _, _ in fit.points))
    return tag('g', tag('path', tag('title', fit.tip), class_='band', d=raw(band)),
               tag('path', class_='modelled', d=raw(line)), class_=fit.kind)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the logarithms with a little room."""
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    room = max(0.04 * (high - low), 0.1)
    return low - room, high + room


def _powers_of_two(low: float, high: float) -> list[float]:
    """Return the powers of two in the range of logarithms, at most a dozen: numbers of accelerators are mostly such."""
    first, last = math.ceil(low / math.log10(2)), math.floor(high / math.log10(2))
    step = max(1, -(-(last - first + 1) // 12))
    return [2.0 ** power for power in range(first, last + 1, step) if power >= 0]


def _marks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 in each decade of the range; of a wide range, the powers of ten."""
    factors = (1, 2, 5) if high - low < 3.6 else (1,)
    found = [factor * 10.0 ** power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [value for value in found if low <= math.log10(value) <= high]
