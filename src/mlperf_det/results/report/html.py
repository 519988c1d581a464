"""Build HTML and SVG from parts; everything that is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable


class Markup(str):
    """Text that is markup and must not be escaped again. Only this module makes it from foreign text."""

    __slots__ = ()


#: elements without content or end tag
_VOID = frozenset({'meta', 'br', 'hr', 'link'})
#: elements of SVG, which may close themselves
_SHAPES = frozenset({'path', 'circle', 'rect', 'line'})


def escape(text: object) -> Markup:
    """Return text as HTML shows it literally; control characters (terminal escapes, NUL) become visible escapes."""
    if isinstance(text, Markup):
        return text
    visible = ''.join(char if char.isprintable() or char == '\n' else char.encode('unicode_escape').decode()
                      for char in str(text))
    return Markup(html.escape(visible, quote=True))


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        content: markup or text to be escaped; None and empty strings vanish.
        attributes: a trailing underscore is dropped (``class_``), other underscores become hyphens; None: left out.
    """
    parts = [f'<{name}']
    for key, value in attributes.items():
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    parts.append('>')
    if name in _VOID:
        return Markup(''.join(parts))
    inside = [escape(part) for part in content if part is not None]
    if name in _SHAPES and not inside:
        return Markup(f'{"".join(parts)[:-1]}/>')
    parts += inside
    parts.append(f'</{name}>')
    return Markup(''.join(parts))


def join(parts: Iterable[Markup]) -> Markup:
    """Return pieces of markup one after another."""
    return Markup(''.join(parts))


def raw(text: str) -> Markup:
    """Mark text of our own (style sheets, path data) as markup; never pass it anything from a file."""
    return Markup(text)


def table(head: Iterable[object], rows: Iterable[Iterable[object]], *, caption: str,
          numeric: Iterable[int] = (), titles: Iterable[int] = (), narrow: Iterable[int] = (),
          stacked: bool = False) -> Markup:
    """Return a table inside a box that scrolls by itself on a narrow screen.

    Args:
        head: names of the columns.
        rows: cells; markup or text.
        caption: what the table shows.
        numeric: columns to align to the right.
        titles: columns of long names, which get room.
        narrow: columns of short names, which do not wrap on a wide screen.
        stacked: on a phone, show each row as a block of named values instead; for tables with wide rows.
    """
    names = list(head)
    classes = {**dict.fromkeys(numeric, 'n'), **dict.fromkeys(titles, 't'), **dict.fromkeys(narrow, 's')}

    def cells(row: Iterable[object]) -> Markup:
        return join(tag('td', cell, class_=classes.get(column),
                        data_label=name if stacked and column and cell != '' else None)
                    for column, (name, cell) in enumerate(zip(names, row, strict=True)))

    line = tag('tr', join(tag('th', name, class_=classes.get(column), scope='col')
                          for column, name in enumerate(names)))
    body = join(row if isinstance(row, Markup) else tag('tr', cells(row)) for row in rows)
    return tag('div', tag('p', caption, class_='caption'), tag(
        'div', tag('table', tag('thead', line), tag('tbody', body), class_='stacked' if stacked else None),
        class_='scroll', tabindex='0', role='region', aria_label=caption), class_='table')


def breakable(name: object) -> Markup:
    """Let a long name or path wrap after its slashes, underscores, hyphens and dots, rather than within a word."""
    return Markup(re.sub(r'([_./-])(?=\w)', r'\1<wbr>', escape(name)))


def facts(pairs: Iterable[tuple[object, object]]) -> Markup:
    """Return a list of names and values."""
    return tag('dl', join(tag('div', tag('dt', breakable(name)), tag('dd', breakable(value)))
                          for name, value in pairs), class_='facts')


def two_lines(first: object, second: object) -> Markup:
    """Return a value with what belongs to it in a smaller line below; an empty second line is left out."""
    return join([tag('span', first), tag('small', second)]) if second else tag('span', first)
