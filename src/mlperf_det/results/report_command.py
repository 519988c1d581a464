"""``mlperf-det report``: write report.html, runs.csv and summary.json of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.mllog.command import printable
from mlperf_det.mllog.table import csv_bytes
from mlperf_det.results.judging import Judged, judge_all
from mlperf_det.results.report import build_report
from mlperf_det.results.summary import RUN_COLUMNS, run_facts, summary_of
from mlperf_det.results.verdict import overall
from mlperf_det.results.verdict_command import add_run_arguments
from mlperf_det.run_folder import write_atomically

REPORT, RUNS, SUMMARY = 'report.html', 'runs.csv', 'summary.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det report``."""
    add_run_arguments(parser)
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR',
                        help=f'folder for {REPORT}, {RUNS} and {SUMMARY}; made if absent')
    parser.add_argument('--title', default='Acceptance report', help='headline of the page')


def run(args: argparse.Namespace) -> int:
    """Judge the runs and write the report; status 1 when there is no run at all.

    The verdict does not change the status: `mlperf-det verdict` is for that.
    """
    judged = judge_all(args.runs, args.references, published_rules=args.rules)
    page = write_report(judged, args.output, title=args.title)
    sys.stdout.write(f'{overall(judged.verdicts).value}: {printable(str(page.resolve()))}\n')
    return int(not judged.groups)


def write_report(judged: Judged, folder: Path, *, title: str = 'Acceptance report') -> Path:
    """Write the three files and return the path of the page.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    runs = [run for group in judged.groups for run in group.runs]
    summary = msgspec.json.format(msgspec.json.encode(summary_of(judged)), indent=2) + b'\n'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RUNS, csv_bytes(RUN_COLUMNS, map(run_facts, runs)))
        write_atomically(folder / SUMMARY, summary)
        write_atomically(folder / REPORT, build_report(judged, title=title))
    except OSError as error:
        raise UserError(f'{folder}: cannot be written ({error.strerror}); name another folder with -o') from error
    return folder / REPORT
