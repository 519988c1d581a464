"""``mlperf-det verdict``: judge runs; a line a group, and the exit code of the worst."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlperf_det.results.judging import judge_all
from mlperf_det.results.verdict import EXIT_CODES, overall
from mlperf_det.results.verdict_table import print_verdicts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det verdict``."""
    add_run_arguments(parser)
    codes = ', '.join(f'{code} {state.value}' for state, code in EXIT_CODES.items())
    parser.epilog = f'Exit codes: {codes}; the worst of several. 2: bad arguments or files.'


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all commands need that judge runs and print the verdicts."""
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN',
                        help='run folder, folder of them, published result tree, archive, single log, or ReFrame '
                             'session (report, results.db for its newest session, results.db:UUID)')
    parser.add_argument('--references', type=Path, metavar='FILE',
                        help='hold performance against this references.yaml; without it only quality is judged')
    parser.add_argument('--acceptance', type=Path, metavar='FILE',
                        help='hold the runs against what this acceptance.yaml says the contract promises')
    parser.add_argument('--rules', action='store_true',
                        help='check published logs by the rules of their round too (our own are always checked)')
    parser.add_argument('--json', action='store_true', help='print summary.json instead of a table')


def run(args: argparse.Namespace) -> int:
    """Judge the runs, print the verdicts and return the exit code of the worst."""
    judged = judge_all(args.runs, args.references, acceptance_file=args.acceptance, published_rules=args.rules)
    print_verdicts(judged, as_json=args.json)
    return EXIT_CODES[overall(judged.verdicts)]
