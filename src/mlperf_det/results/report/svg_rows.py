"""Charts in rows as inline SVG: bars from zero, and dots on a common scale. Pure functions of numbers and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlperf_det.results.report.html import Markup, join, raw, tag
from mlperf_det.results.report.svg import COLOURS, WIDTH, Rule, at, framed, numbers, ticks

_TOP, _BOTTOM = 8, 40
#: height of a row, width of the labels before and of the notes behind it
_ROW, _LABELS, _NOTES = 26, 124, 84
#: height of a line of text above the rows, which names a vertical line; half the width of a diamond
_LINE, _DIAMOND = 15, 6
#: room at either end of a scale of dots, as a fraction of it
_ROOM = 0.08


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A horizontal bar of one or more parts: (length, name of the part); ``note`` stands behind it."""

    label: str
    parts: Sequence[tuple[float, str]]
    note: str = ''
    first_colour: int = 0


@dataclass(frozen=True, kw_only=True)
class Dots:
    """A row of dots.

    Attributes:
        label: before the row; note: behind it.
        points: (place, text of the tooltip, class of the style sheet).
        mean: drawn as a diamond with the interval around it; None: without.
        tip: text of the tooltip of the mean.
        tolerance: from the reference to the limit, which is shaded, with a line at the limit; None: without.
    """

    label: str
    points: Sequence[tuple[float, str, str]]
    note: str = ''
    mean: float | None = None
    interval: tuple[float, float] | None = None
    tip: str = ''
    tolerance: tuple[float, float] | None = None


def bar_chart(title: str, description: str, bars: Sequence[Bar], unit: str, *, terse: bool = False) -> Markup:
    """Return horizontal bars from zero, stacked where a bar has several parts.

    Args:
        title, description: as in `line_chart`.
        bars: from top to bottom.
        unit: of the lengths, for axis and tooltips.
        terse: spend few bytes: one tooltip a bar, and no description: the caption has it.
    """
    height = _TOP + _ROW * len(bars) + _BOTTOM
    longest = max((sum(length for length, _ in bar.parts) for bar in bars), default=0)
    scale = (WIDTH - _LABELS - _NOTES) / (longest or 1)
    parts = [_grid(lambda value: _LABELS + value * scale, ticks(0, longest or 1, 4), _TOP, height - _BOTTOM)]
    parts += [_bar(bar, _TOP + index * _ROW, scale, unit, terse) for index, bar in enumerate(bars)]
    parts.append(tag('text', unit, class_='title', x=_LABELS, y=height - 6))
    return framed(title, '' if terse else description, WIDTH, height, parts)


def dot_chart(title: str, description: str, rows: Sequence[Dots], unit: str, marks: Sequence[Rule] = (), *,
              terse: bool = False) -> Markup:
    """Return rows of dots on one scale, which need not begin at zero: it shows differences of a few per cent.

    Args:
        title, description, terse: as in `bar_chart`.
        rows: from top to bottom.
        unit: of the scale.
        marks: vertical lines, each named above the rows; between the first two lies the tolerance, which is shaded.
    """
    top = _TOP + _LINE * len(marks)
    height, bottom = top + _ROW * len(rows) + _BOTTOM, top + _ROW * len(rows)
    low, high = _reach(rows, marks)

    def place(value: float) -> float:
        return _LABELS + (value - low) / (high - low) * (WIDTH - _LABELS - _NOTES)

    parts = [_grid(place, ticks(low, high, 4), top, bottom)]
    if len(marks) > 1:
        parts.append(_between(place(marks[0].value), place(marks[1].value), top, bottom))
    for line, mark in enumerate(marks):
        across, words = place(mark.value), _TOP + line * _LINE
        before = across > (WIDTH + _LABELS - _NOTES) / 2
        parts += [tag('line', class_=f'rule {mark.kind}', x1=at(across), x2=at(across), y1=words - 2, y2=bottom),
                  tag('text', mark.label, class_=f'rulelabel {mark.kind}' + (' e' if before else ''),
                      x=at(across - 5 if before else across + 5), y=words + 9)]
    for index, row in enumerate(rows):
        middle = top + (index + 0.5) * _ROW
        shown = []
        if row.tolerance:
            start, limit = map(place, row.tolerance)
            shown += [_between(start, limit, middle - 9, middle + 9),
                      tag('line', class_='rule limit', x1=at(limit), x2=at(limit), y1=at(middle - 11),
                          y2=at(middle + 11))]
        shown += [tag('circle', tag('title', tip) if tip else None, cx=at(place(value)), cy=at(middle), class_=kind)
                  for value, tip, kind in row.points]
        if row.interval:
            shown.append(tag('line', class_='interval', x1=at(place(row.interval[0])), x2=at(place(row.interval[1])),
                             y1=at(middle), y2=at(middle)))
        if row.mean is not None:
            shown.append(tag('path', tag('title', row.tip) if row.tip else None, class_='diamond',
                             d=diamond(place(row.mean), middle)))
        parts.append(_row(row.label, row.note, middle, shown))
    parts.append(tag('text', unit, class_='title', x=_LABELS, y=height - 6))
    return framed(title, '' if terse else description, WIDTH, height, parts)


def diamond(x: float, y: float) -> Markup:
    """Return the path of a diamond around a point."""
    half = _DIAMOND
    return raw(f'M{at(x)} {at(y - half)}l{half} {half}-{half} {half}-{half}-{half}Z')


def _reach(rows: Sequence[Dots], marks: Sequence[Rule]) -> tuple[float, float]:
    values = [value for row in rows for value, *_ in row.points] + [mark.value for mark in marks]
    values += [value for row in rows for pair in (row.interval, row.tolerance) if pair for value in pair]
    values += [row.mean for row in rows if row.mean is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * _ROOM or abs(low) * _ROOM or 1.0
    return low - room, high + room


def _grid(place: Callable[[float], float], values: Sequence[float], top: float, bottom: float) -> Markup:
    lines = raw(''.join(f'M{at(place(value))} {at(top)}V{at(bottom)}' for value in values))
    return join([tag('path', class_='grid', d=lines), *(
        tag('text', label, x=at(place(value)), y=at(bottom + 16), class_='m')
        for value, label in zip(values, numbers(values), strict=True))])


def _between(first: float, second: float, top: float, bottom: float) -> Markup:
    return tag('rect', class_='tolerance', x=at(min(first, second)), width=at(abs(second - first)), y=at(top),
               height=at(bottom - top))


def _bar(bar: Bar, top: float, scale: float, unit: str, terse: bool) -> Markup:
    parts, across = [], float(_LABELS)
    for index, (length, name) in enumerate(bar.parts):
        tip = None if terse else tag('title', f'{bar.label}: {name} {length:.4g} {unit}')
        parts.append(tag('rect', tip, x=at(across), y=at(top + 4), width=at(max(length * scale, 0.5)),
                         height=_ROW - 8, class_=f'c{(bar.first_colour + index) % COLOURS}'))
        across += length * scale
    said = tag('title', f'{bar.label}: ' + ', '.join(f'{name} {length:.4g}' for length, name in bar.parts)
               + f' {unit}') if terse else None
    return _row(bar.label, bar.note, top + _ROW / 2, parts, said)


def _row(label: str, note: str, middle: float, shown: Sequence[Markup], said: Markup | None = None) -> Markup:
    """Return a row; labels and notes stand in columns of their own, clear of what is drawn."""
    base = at(middle + 4)
    return tag('g', said, tag('text', _clipped(label), x=_LABELS - 8, y=base, class_='e'), *shown,
               tag('text', note, x=WIDTH - 2, y=base, class_='e note'))


def _clipped(label: str, most: int = 18) -> str:
    """Leave out the middle of a long label: nodes and runs differ at the end."""
    return label if len(label) <= most else f'{label[:most // 3]}…{label[-(most - most // 3 - 1):]}'
