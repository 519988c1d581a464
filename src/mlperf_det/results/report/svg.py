"""Charts as inline SVG: pure functions of numbers and texts. Colours come from the page's style sheet by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlperf_det.results.report.downsample import Point
from mlperf_det.results.report.html import Markup, join, raw, tag

WIDTH, HEIGHT = 480, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 16, 40
#: of bar charts: height of a row, width of the labels before and of the notes behind the bars
_ROW, _LABELS, _NOTES = 26, 124, 62
#: colours of the palette before they repeat; each has its own marker and dashes as well
COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve: points by rising x, and the text of the tooltip of each marked point (or of the curve)."""

    name: str
    points: Sequence[Point]
    tips: Sequence[str] = ()
    colour: int = 0


@dataclass(frozen=True, kw_only=True)
class Band:
    """A shaded range behind the curves: (x, lower y, upper y) by rising x, and the text of its tooltip."""

    points: Sequence[tuple[float, float, float]]
    tip: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A horizontal line across a chart, with a label."""

    value: float
    label: str
    kind: str = 'target'


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Title and range of an axis; None: from the data."""

    title: str
    low: float | None = None
    high: float | None = None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from ``low`` to ``high``, about as many as asked for."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough), default=10)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Return a number as axes show it."""
    if value and abs(value) >= 10_000:
        return f'{value / 1000:g}k'
    return f'{value:g}'


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

    parts = [_frame(place, ticks(x_low, x_high), ticks(y_low, y_high, 4), x.title, y.title)]
    if band:
        around = [(across, low) for across, low, _ in band.points]
        around += [(across, high) for across, _, high in reversed(band.points)]
        parts.append(tag('path', tag('title', band.tip), class_='band', d=_path(map(place, around), terse, end='Z')))
    for rule in rules:
        height = place((x_low, rule.value))[1]
        parts += [tag('line', class_=f'rule {rule.kind}', x1=_LEFT, x2=WIDTH - _RIGHT, y1=_at(height), y2=_at(height)),
                  tag('text', rule.label, class_=f'rulelabel {rule.kind}', x=_LEFT + 6, y=_at(height - 5))]
    parts += [_curve(curve, [place(point) for point in curve.points], terse) for curve in series]
    return _svg(title, '' if terse else description, HEIGHT, parts)


def _curve(curve: Series, places: Sequence[Point], terse: bool) -> Markup:
    line = _path(places, terse)
    if terse:
        # Points of no length are drawn as dots by their round caps.
        dots = tag('path', class_='dots', d=raw(''.join(f'M{x:.0f} {y:.0f}h0' for x, y in places))) \
            if curve.tips else None
        tip = f'{curve.name}: {curve.tips[-1]}' if curve.tips else curve.name
        return tag('g', tag('title', tip), tag('path', class_='curve', d=line), dots,
                   class_=f'c{curve.colour % COLOURS}')
    marks = join(tag('circle', tag('title', tip), cx=_at(x), cy=_at(y))
                 for (x, y), tip in zip(places, curve.tips, strict=False))
    return tag('g', tag('path', tag('title', curve.name), class_='curve', d=line), marks,
               class_=f'c{curve.colour % COLOURS}')


def _path(places: Iterable[Point], terse: bool, end: str = '') -> Markup:
    return raw('M' + 'L'.join(f'{x:.0f} {y:.0f}' if terse else f'{_at(x)} {_at(y)}' for x, y in places) + end)


def _frame(place: Callable[[Point], Point], x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str,
           y_title: str) -> Markup:
    bottom = HEIGHT - _BOTTOM
    parts, grid = [], ''
    for value in y_ticks:
        height = place((0, value))[1]
        grid += f'M{_LEFT} {_at(height)}H{WIDTH - _RIGHT}'
        parts.append(tag('text', number(value), x=_LEFT - 6, y=_at(height + 4), class_='e'))
    for value in x_ticks:
        across = place((value, 0))[0]
        parts.append(tag('text', number(value), x=_at(across), y=bottom + 16, class_='m'))
    parts += [tag('line', class_='axis', x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom),
              tag('text', x_title, class_='m title', x=(WIDTH + _LEFT) / 2, y=HEIGHT - 6),
              tag('text', y_title, class_='title', x=4, y=11)]
    return join([tag('path', class_='grid', d=raw(grid)), *parts])


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A horizontal bar of one or more parts: (length, name of the part); ``note`` stands behind it."""

    label: str
    parts: Sequence[tuple[float, str]]
    note: str = ''
    first_colour: int = 0
    hatched: bool = False


def bar_chart(title: str, description: str, bars: Sequence[Bar], unit: str, marks: Sequence[Rule] = (), *,
              terse: bool = False) -> Markup:
    """Return horizontal bars from zero, stacked where a bar has several parts.

    Args:
        title, description: as in `line_chart`.
        bars: from top to bottom.
        unit: of the lengths, for axis and tooltips.
        marks: vertical lines; what lies between two of them is shaded: the tolerance.
        terse: as in `line_chart`; one tooltip a bar.
    """
    height = _TOP + _ROW * len(bars) + _BOTTOM
    longest = max([sum(length for length, _ in bar.parts) for bar in bars] + [mark.value for mark in marks], default=0)
    scale = (WIDTH - _LABELS - _NOTES) / (longest or 1)
    bottom = height - _BOTTOM
    parts, grid = [], ''
    for value in ticks(0, longest or 1, 4):
        across = _LABELS + value * scale
        grid += f'M{_at(across)} {_TOP}V{_at(bottom)}'
        parts.append(tag('text', number(value), x=_at(across), y=bottom + 16, class_='m'))
    parts.insert(0, tag('path', class_='grid', d=raw(grid)))
    parts += [_bar(bar, _TOP + index * _ROW, scale, unit, terse) for index, bar in enumerate(bars)]
    at = [_LABELS + mark.value * scale for mark in marks]
    if len(at) == 2:
        parts.append(tag('rect', class_='tolerance', x=_at(min(at)), width=_at(abs(at[1] - at[0])), y=_TOP - 4,
                         height=bottom - _TOP + 4))
    for across, mark in zip(at, marks, strict=True):
        parts.append(tag('line', tag('title', mark.label), class_=f'rule {mark.kind}', x1=_at(across), x2=_at(across),
                         y1=_TOP - 4, y2=bottom))
    parts.append(tag('text', unit, class_='title', x=_LABELS, y=height - 6))
    return _svg(title, '' if terse else description, height, parts)


def _bar(bar: Bar, top: float, scale: float, unit: str, terse: bool) -> Markup:
    parts, across = [], float(_LABELS)
    for index, (length, name) in enumerate(bar.parts):
        tip = None if terse else tag('title', f'{bar.label}: {name} {length:.4g} {unit}')
        parts.append(tag('rect', tip, x=_at(across), y=_at(top + 4), width=_at(max(length * scale, 0.5)),
                         height=_ROW - 8, class_=f'c{(bar.first_colour + index) % COLOURS}'
                                                 + (' hatched' if bar.hatched else '')))
        across += length * scale
    middle = _at(top + _ROW / 2 + 4)
    said = tag('title', f'{bar.label}: ' + ', '.join(f'{name} {length:.4g}' for length, name in bar.parts)
               + f' {unit}') if terse else None
    # The notes stand in a column of their own, clear of bars and lines.
    return tag('g', said, tag('text', _clipped(bar.label), x=_LABELS - 8, y=middle, class_='e'), *parts,
               tag('text', bar.note, x=WIDTH - 2, y=middle, class_='e note'))


def legend(names: Sequence[str]) -> Markup:
    """Return the key to colours, markers included; names in the order of the colours."""
    return tag('p', join(tag('span', tag('i', class_=f'swatch c{index % COLOURS}'), name, class_='key')
                         for index, name in enumerate(names)), class_='legend')


def _svg(title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    return tag('svg', tag('title', title), *parts, viewBox=f'0 0 {WIDTH} {height:g}',
               role='img', aria_label=f'{title}. {description}' if description else title)


def _range(axis: Axis, values: Sequence[float], margin: float = 0.0) -> tuple[float, float]:
    low = axis.low if axis.low is not None else min(values, default=0.0)
    high = axis.high if axis.high is not None else max(values, default=1.0)
    if high <= low:
        high = low + (abs(low) or 1.0)
    extra = (high - low) * margin
    return low - (extra if axis.low is None else 0), high + (extra if axis.high is None else 0)


def _clipped(label: str, most: int = 18) -> str:
    """Leave out the middle of a long label: nodes and runs differ at the end."""
    return label if len(label) <= most else f'{label[:most // 3]}…{label[-(most - most // 3 - 1):]}'


def _at(value: float) -> str:
    return f'{value:.1f}'.removesuffix('.0')
