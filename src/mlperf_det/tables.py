"""Tables of rows: for people on a terminal, and for programs as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically


def printable(text: str) -> str:
    """Return text that a terminal cannot take for a command: control characters are written as escapes."""
    if text.isprintable():
        return text
    return ''.join(char if char.isprintable() else char.encode('unicode_escape').decode() for char in text)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 run``, ``2 runs``."""
    return f'{count:,} {noun}' if count == 1 else f'{count:,} {noun}s'


def print_table(columns: tuple[str, ...], rows: list[dict[str, object]], title: str) -> None:
    """Print a table: boxed on a terminal, tab-separated in a pipe."""
    cells = [[printable(_short(row.get(column))) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(columns), *cells]:
            sys.stdout.write('\t'.join(line) + '\n')
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    table = Table(title=title)
    for column in columns:
        table.add_column(column)
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def csv_bytes(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return a CSV table: numbers with at most six decimals, nothing for None; the same rows give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue().encode('utf-8', 'backslashreplace')


def write_table(target: Path, content: bytes, option: str = '--csv') -> None:
    """Write a table to a file, whole or not at all, or to standard output for ``-``.

    Raises:
        UserError: the file that was given with the option cannot be written.
    """
    if str(target) == '-':
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(f'{option} {target}: cannot be written ({error.strerror}); name a file in a folder that is '
                        'there and yours') from error


def _short(value: object) -> str:
    if value is None:
        return ''
    return f'{value:.4f}'.rstrip('0').rstrip('.') if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(round(value, 6)) if math.isfinite(value) else str(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else json.dumps(value)
