"""Charts as inline SVG: pure functions of numbers and texts. Colours come from the page's style sheet by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlperf_det.results.report.downsample import Point
from mlperf_det.results.report.html import Markup, join, raw, tag

WIDTH, HEIGHT = 480, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 40
#: colours of the palette before they repeat; each has its own marker and dashes as well
COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve: points by rising x, and the text of the tooltip of each marked point; `line`: they are joined."""

    name: str
    points: Sequence[Point]
    tips: Sequence[str] = ()
    colour: int = 0
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Band:
    """A shaded range behind the curves: (x, lower y, upper y) by rising x, and the text of its tooltip."""

    points: Sequence[tuple[float, float, float]]
    tip: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A line across a chart, with a label and its class of the style sheet."""

    value: float
    label: str
    kind: str = 'target'


def numbers(values: Sequence[float]) -> list[str]:
    """Return the numbers of an axis, all with the same decimals and unit: thousands where they reach ten thousand."""
    thousand = max(map(abs, values), default=0.0) >= 10_000
    scaled = [value / 1000 if thousand else value for value in values]
    decimals = max((len(f'{value:.6f}'.rstrip('0').partition('.')[2]) for value in scaled), default=0)
    return [f'{value:,.{decimals}f}{"k" if thousand else ""}'.replace('-', '−') if value else '0' for value in scaled]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Title and range of an axis (None: from the data), and what its numbers look like."""

    title: str
    low: float | None = None
    high: float | None = None
    labels: Callable[[Sequence[float]], list[str]] = numbers


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from ``low`` to ``high``, about as many as asked for."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough), default=10)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title: str, description: str, series: Sequence[Series], x: Axis, y: Axis,
               rules: Sequence[Rule] = (), band: Band | None = None, *, terse: bool = False) -> Markup:
    """Return a chart of curves over x.

    Args:
        title: what a screen reader announces.
        description: the finding in one sentence, for those who do not see the curves.
        series: curves without points are left out.
        x, y: axes.
        rules: horizontal lines.
        band: behind the curves.
        terse: spend few bytes: whole pixels, one tooltip a curve (its last), and no description: the caption has it.
    """
    series = [curve for curve in series if curve.points]
    shaded = band.points if band else ()
    xs = [point[0] for curve in series for point in curve.points] + [across for across, _, _ in shaded]
    ys = [point[1] for curve in series for point in curve.points] + [rule.value for rule in rules]
    ys += [value for _, *values in shaded for value in values]
    x_low, x_high = _range(x, xs)
    y_low, y_high = _range(y, ys, margin=0.06)

    def place(point: Point) -> Point:
        return (_LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT),
                HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM))

    parts = [_frame(place, ticks(x_low, x_high), ticks(y_low, y_high, 4), x, y)]
    if band:
        around = [(across, low) for across, low, _ in band.points]
        around += [(across, high) for across, _, high in reversed(band.points)]
        parts.append(tag('path', tag('title', band.tip), class_='band', d=_path(map(place, around), terse, end='Z')))
    for rule in rules:
        height = place((x_low, rule.value))[1]
        parts += [tag('line', class_=f'rule {rule.kind}', x1=_LEFT, x2=WIDTH - _RIGHT, y1=at(height), y2=at(height)),
                  tag('text', rule.label, class_=f'rulelabel {rule.kind}', x=_LEFT + 6, y=at(height - 5))]
    parts += [_curve(curve, [place(point) for point in curve.points], terse) for curve in series]
    return framed(title, '' if terse else description, WIDTH, HEIGHT, parts)


def _curve(curve: Series, places: Sequence[Point], terse: bool) -> Markup:
    line = _path(places, terse)
    if terse:
        # Points of no length are drawn as dots by their round caps.
        dots = tag('path', class_='dots', d=raw(''.join(f'M{x:.0f} {y:.0f}h0' for x, y in places))) \
            if curve.tips else None
        tip = f'{curve.name}: {curve.tips[-1]}' if curve.tips else curve.name
        return tag('g', tag('title', tip), tag('path', class_='curve', d=line), dots,
                   class_=f'c{curve.colour % COLOURS}')
    marks = join(tag('circle', tag('title', tip), cx=at(x), cy=at(y))
                 for (x, y), tip in zip(places, curve.tips, strict=False))
    drawn = tag('path', tag('title', curve.name), class_='curve', d=line) if curve.line else None
    return tag('g', drawn, marks,
               class_=f'c{curve.colour % COLOURS}')


def _path(places: Iterable[Point], terse: bool, end: str = '') -> Markup:
    return raw('M' + 'L'.join(f'{x:.0f} {y:.0f}' if terse else f'{at(x)} {at(y)}' for x, y in places) + end)


def _frame(place: Callable[[Point], Point], x_ticks: Sequence[float], y_ticks: Sequence[float], x: Axis,
           y: Axis) -> Markup:
    bottom = HEIGHT - _BOTTOM
    parts, grid = [], ''
    for value, label in zip(y_ticks, y.labels(y_ticks), strict=True):
        height = place((0, value))[1]
        grid += f'M{_LEFT} {at(height)}H{WIDTH - _RIGHT}'
        parts.append(tag('text', label, x=_LEFT - 8, y=at(height + 4), class_='e'))
    for value, label in zip(x_ticks, x.labels(x_ticks), strict=True):
        parts.append(tag('text', label, x=at(place((value, 0))[0]), y=bottom + 16, class_='m'))
    parts += [tag('line', class_='axis', x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom),
              tag('text', x.title, class_='m title', x=(WIDTH + _LEFT) / 2, y=HEIGHT - 6),
              tag('text', y.title, class_='title', x=0, y=11)]
    return join([tag('path', class_='grid', d=raw(grid)), *parts])


def legend(names: Sequence[str], kind: str = '') -> Markup:
    """Return the key to colours, markers included; names in the order of the colours; a class of the style sheet."""
    return tag('p', join(tag('span', tag('i', class_=f'swatch c{index % COLOURS}'), name, class_='key')
                         for index, name in enumerate(names)), class_=f'legend {kind}'.strip())


def framed(title: str, description: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    """Return the parts as one image; title and description are what a screen reader says of it."""
    return tag('svg', tag('title', title), *parts, viewBox=f'0 0 {width:g} {height:g}',
               role='img', aria_label=f'{title}. {description}' if description else title)


def _range(axis: Axis, values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low = axis.low if axis.low is not None else min(values, default=0.0)
    high = axis.high if axis.high is not None else max(values, default=1.0)
    if high <= low:
        high = low + (abs(low) or 1.0)
    extra = (high - low) * margin
    return low - (extra if axis.low is None else 0), high + (extra if axis.high is None else 0)


def at(value: float) -> str:
    """Return a coordinate: tenths of a pixel are as fine as anybody sees."""
    return f'{value:.1f}'.removesuffix('.0')
