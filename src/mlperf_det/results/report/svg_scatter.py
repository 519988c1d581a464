"""A chart of points on logarithmic axes, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlperf_det.results.report.downsample import Point
from mlperf_det.results.report.html import Markup, raw, tag

WIDTH, HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 18, 42


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind, each with the text of its tooltip; ``line`` joins them by rising x."""

    points: Sequence[Point]
    tips: Sequence[str]
    kind: str
    line: bool = False


def scatter_chart(title: str, description: str, clouds: Sequence[Cloud], x_title: str, y_title: str) -> Markup:
    """Return a chart of positive points on two logarithmic axes; `description` is for those who do not see it."""
    points = [point for cloud in clouds for point in cloud.points]
    (x_low, x_high), (y_low, y_high) = (_decades([point[axis] for point in points]) for axis in (0, 1))

    def place(point: Point) -> tuple[float, float]:
        across = (math.log10(point[0]) - x_low) / (x_high - x_low)
        up = (math.log10(point[1]) - y_low) / (y_high - y_low)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    bottom, grid = HEIGHT - _BOTTOM, ''
    parts = []
    for value in _marks(x_low, x_high):
        across = place((value, 10 ** y_low))[0]
        grid += f'M{across:.1f} {_TOP}V{bottom}'
        parts.append(tag('text', f'{value:g}', x=f'{across:.1f}', y=bottom + 16, class_='m'))
    for value in _marks(y_low, y_high):
        height = place((10 ** x_low, value))[1]
        grid += f'M{_LEFT} {height:.1f}H{WIDTH - _RIGHT}'
        parts.append(tag('text', f'{value:g}', x=_LEFT - 6, y=f'{height + 4:.1f}', class_='e'))
    parts.insert(0, tag('path', class_='grid', d=raw(grid)))
    for cloud in clouds:
        places = [place(point) for point in cloud.points]
        if cloud.line and len(places) > 1:
            path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
            parts.append(tag('g', tag('path', class_='curve', d=raw(path)), class_=cloud.kind))
        parts.append(tag('g', *(tag('circle', tag('title', tip), cx=f'{x:.1f}', cy=f'{y:.1f}')
                                for (x, y), tip in zip(places, cloud.tips, strict=True)), class_=cloud.kind))
    parts += [tag('text', x_title, class_='m title', x=(WIDTH + _LEFT) / 2, y=HEIGHT - 6),
              tag('text', y_title, class_='title', x=4, y=11)]
    return tag('svg', tag('title', title), *parts, viewBox=f'0 0 {WIDTH} {HEIGHT}', role='img',
               aria_label=f'{title}. {description}')


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of the logarithms with a little room."""
    logs = [math.log10(value) for value in values]
    low, high = min(logs), max(logs)
    room = max(0.05 * (high - low), 0.1)
    return low - room, high + room


def _marks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 in each decade of the range; of a wide range, the powers of ten."""
    factors = (1, 2, 5) if high - low < 3 else (1,)
    found = [factor * 10.0 ** power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [value for value in found if low <= math.log10(value) <= high]
