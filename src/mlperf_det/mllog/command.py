"""``mlperf-det logs``: read MLPerf logs of any round and write one row a log."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlperf_det.mllog.collection import Collection, collect
from mlperf_det.mllog.table import COLUMNS, csv_bytes, log_row
from mlperf_det.run_folder import write_atomically

_SHORT = ('round', 'submitter', 'system', 'benchmark', 'file', 'status', 'ttt_minutes', 'final_accuracy',
          'epochs_to_converge', 'throughput', 'problem')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det logs``."""
    parser.add_argument('paths', nargs='+', type=Path, metavar='PATH',
                        help='log, folder, run folder or archive (.tar, .tar.xz ...); .gz, .xz, .bz2 and .zst are '
                             'decompressed; folders are searched for result_*.txt')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write the table to FILE; - is standard output')
    parser.add_argument('--strict', action='store_true',
                        help='exit with status 1 when a log could not be read or something had to be forgiven')


def run(args: argparse.Namespace) -> int:
    """Read the logs and write the table; status 1 without any log, or by ``--strict``."""
    collection = collect(args.paths)
    rows = [log_row(log, collection) for log in collection.logs]
    if args.csv is None:
        print_table(_SHORT, rows, 'MLPerf logs')
    else:
        write_csv(args.csv, csv_bytes(COLUMNS, rows))
    report_problems(collection)
    if not rows:
        sys.stderr.write('mlperf-det: no log found; folders are searched for result_*.txt\n')
        return 1
    return int(args.strict and any(row['problem'] or row.get('forgiven') for row in rows))


def write_csv(target: Path, content: bytes) -> None:
    """Write a table to a file, whole or not at all, or to standard output for ``-``."""
    if str(target) == '-':
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(target, content)


def report_problems(collection: Collection) -> None:
    """Say on standard error which logs could not be read, and what was forgiven in how many."""
    forgiven = 0
    for log in collection.logs:
        if log.problem:
            sys.stderr.write(f'mlperf-det: {printable(str(log.path))}: {printable(log.problem)}\n')
        forgiven += bool(log.summary and log.summary.forgiven)
    if forgiven:
        sys.stderr.write(f'mlperf-det: something had to be forgiven in {forgiven} of {len(collection.logs)} logs; '
                         'the column "forgiven" of --csv says what\n')


def printable(text: str) -> str:
    """Return text that a terminal cannot take for a command: control characters are written as escapes."""
    return ''.join(char if char.isprintable() else char.encode('unicode_escape').decode() for char in text)


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


def _short(value: object) -> str:
    if value is None:
        return ''
    return f'{value:.4f}'.rstrip('0').rstrip('.') if isinstance(value, float) else str(value)
