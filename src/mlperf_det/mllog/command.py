"""``mlperf-det logs``: read MLPerf logs of any round and write one row a log."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlperf_det.mllog.collection import Collection, collect
from mlperf_det.mllog.table import COLUMNS, log_row
from mlperf_det.tables import csv_bytes, print_table, printable, write_table

_SHORT = ('round', 'submitter', 'system', 'benchmark', 'file', 'status', 'ttt_minutes', 'final_accuracy',
          'epochs_to_converge', 'throughput', 'problem')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det logs``."""
    parser.add_argument('paths', nargs='+', type=Path, metavar='PATH',
                        help='log, folder, run folder, archive (.tar, .tar.xz, .zip ...) or ReFrame session (report, '
                             'results.db, results.db:UUID); .gz, .xz, .bz2 and .zst are decompressed; folders are '
                             'searched for result_*.txt')
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
        write_table(args.csv, csv_bytes(COLUMNS, rows))
    report_problems(collection)
    if not rows:
        sys.stderr.write('mlperf-det: no log found; folders are searched for result_*.txt\n')
        return 1
    return int(args.strict and any(row['problem'] or row.get('forgiven') for row in rows))


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
