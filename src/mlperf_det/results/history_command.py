"""``mlperf-det history``: list, show, compare and export recorded runs, and find what turned worse when."""

from __future__ import annotations

import argparse
import datetime
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.results.history import read_history, series_of
from mlperf_det.results.history_record import Record
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Regression, find_regressions
from mlperf_det.tables import csv_bytes, print_table, printable, write_table

_LISTED = ('time', 'id', 'case', 'result', 'time_to_train', 'images_per_second', 'bbox_ap')
_FIXED = ('time', 'unix_time', 'id', 'origin', 'case', 'system', 'result')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det history``."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    for name, action, text in (('list', _list, 'a line a run, oldest first'),
                               ('show', _show, 'everything that is recorded of a run'),
                               ('compare', _compare, 'what differs between two runs'),
                               ('export', _export, 'write all runs to a CSV or Parquet file'),
                               ('regressions', _regressions, 'what turned worse when; status 1 where anything did')):
        part = actions.add_parser(name, help=text, description=text)
        part.set_defaults(history_action=action)
        if name in ('show', 'compare'):
            part.add_argument('ids', nargs=1 if name == 'show' else 2, metavar='ID',
                              help='of `history list`, or the beginning of it')
        part.add_argument('paths', nargs='+', type=Path, metavar='PATH',
                          help="ReFrame's results.db (results.db:UUID for one session) or session report, run folders, "
                               'or folders of them')
        part.add_argument('--no-cache', action='store_true', help='read every run folder anew')
        if name in ('list', 'export', 'regressions'):
            part.add_argument('--case', default='', metavar='TEXT', help='only cases whose name contains TEXT')
            part.add_argument('--since', type=_date, metavar='YYYY-MM-DD', help='only runs of this day and later')
        if name == 'list':
            part.add_argument('--json', action='store_true', help='print JSON, an object a run')
        if name == 'export':
            part.add_argument('--csv', type=Path, metavar='FILE', help='write CSV; - is standard output')
            part.add_argument('--parquet', type=Path, metavar='FILE', help='write Parquet')


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    records = read_history(args.paths, cached=not args.no_cache)
    if 'case' in args:
        least = args.since.timestamp() if args.since else float('-inf')
        records = [record for record in records if args.case in record.case
                   and (args.since is None or (record.time is not None and record.time >= least))]
    if not records:
        sys.stderr.write('mlperf-det: no run found\n')
        return 1
    return int(args.history_action(args, records))


def _list(args: argparse.Namespace, records: Sequence[Record]) -> int:
    rows = [_row(record) for record in records]
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b'\n')
    else:
        print_table(_LISTED, rows, 'Recorded runs')
    return 0


def _show(args: argparse.Namespace, records: Sequence[Record]) -> int:
    for name, value in _facts(_find(records, args.ids[0])).items():
        sys.stdout.write(f'{printable(name)}: {printable(str(value))}\n')
    return 0


def _compare(args: argparse.Namespace, records: Sequence[Record]) -> int:
    one, other = (_facts(_find(records, identifier)) for identifier in args.ids)
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys([*one, *other]):
        before, after = one.get(name), other.get(name)
        if before != after:
            rows.append({'what': name, 'first': before, 'second': after, 'change': _change(name, before, after)})
    print_table(('what', 'first', 'second', 'change'), rows, 'Differences')
    return 0


def _change(name: str, before: object, after: object) -> str:
    if name in METRICS and isinstance(before, float) and isinstance(after, float) and before:
        return f'{after / before - 1:+.2%}'
    return ''


def _export(args: argparse.Namespace, records: Sequence[Record]) -> int:
    if args.csv is None and args.parquet is None:
        raise UserError('nothing to write to: give --csv FILE or --parquet FILE')
    rows = [_row(record) | dict(record.facts) for record in records]
    extra = sorted({name for row in rows for name in row} - {*_FIXED, *METRICS})
    columns = (*_FIXED, *METRICS, *extra)
    if args.csv:
        write_table(args.csv, csv_bytes(columns, rows))
    if args.parquet:
        write_table(args.parquet, parquet_bytes(columns, rows), '--parquet')
    return 0


def parquet_bytes(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    """Return rows as a Parquet file: metrics and times as floating-point numbers, all else as text.

    Raises:
        UserError: polars, which ReFrame brings along, is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise UserError('Parquet needs the package polars, which reframe-hpc installs; use --csv instead') from error
    numbers = {'unix_time', *METRICS}
    frame = polars.DataFrame(
        [polars.Series(name, [row.get(name) for row in rows], dtype=polars.Float64) if name in numbers else
         polars.Series(name, [None if row.get(name) is None else str(row[name]) for row in rows], dtype=polars.String)
         for name in columns])
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _regressions(args: argparse.Namespace, records: Sequence[Record]) -> int:
    found = find_regressions(series_of(records))
    for regression in found:
        sys.stdout.write(printable(regression_text(regression)) + '\n')
        for cause in regression.causes:
            kept = '' if cause.lasting else ' (changed at other times too)'
            sys.stdout.write(printable(f'    {cause.name}: {cause.before or "-"} -> {cause.after or "-"}{kept}') + '\n')
    if not found:
        sys.stdout.write('no lasting change\n')
    return int(any(regression.worse for regression in found))


def regression_text(regression: Regression) -> str:
    """Return a change in one line: metric, date, size, kind and case."""
    series, unit = regression.series, METRICS[regression.series.metric][0]
    size = f'{regression.change:+.1%}' if unit != 'fraction' else f'{regression.change:+.3f}'
    kind = 'since' if regression.kind.value == 'step' else 'drifting since'
    return (f'{"WORSE" if regression.worse else "better"}: {series.metric} {size} {kind} '
            f'{_day(regression.first_bad.time)}, from {regression.before:.4g} to {regression.after:.4g} {unit}: '
            f'{series.case}')


def _find(records: Sequence[Record], identifier: str) -> Record:
    exact = [record for record in records if record.identifier == identifier]
    found = exact or [record for record in records if record.identifier.startswith(identifier)
                      or (os.sep in record.identifier and Path(record.identifier).name == identifier)]
    if not found:
        raise UserError(f'ID {identifier}: no run is called so; `mlperf-det history list` prints the names')
    if len(found) > 1:
        raise UserError(f'ID {identifier}: {len(found)} runs are called so; write more of the name that '
                        '`mlperf-det history list` prints')
    return found[0]


def _facts(record: Record) -> dict[str, object]:
    return {name: value for name, value in (_row(record) | dict(record.facts)).items() if value is not None}


def _row(record: Record) -> dict[str, Any]:
    return {'time': None if record.time is None else _day(record.time, minutes=True), 'unix_time': record.time,
            'id': record.identifier, 'origin': record.origin, 'case': record.case, 'system': record.system,
            'result': record.result, **record.metrics}


def _day(seconds: float, *, minutes: bool = False) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f'{seconds:g}'
    return moment.strftime('%Y-%m-%d %H:%M' if minutes else '%Y-%m-%d')


def _date(text: str) -> datetime.datetime:
    try:
        return datetime.datetime.strptime(text, '%Y-%m-%d').replace(tzinfo=datetime.timezone.utc)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no day; write it as 2026-03-31') from error
