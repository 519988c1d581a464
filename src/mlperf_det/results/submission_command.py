"""``mlperf-det submission``: write an MLPerf-shaped submission tree and check it with mlperf-logging's own checkers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.results.groups import group_runs
from mlperf_det.results.reading import read_runs
from mlperf_det.results.rules import ruleset_of
from mlperf_det.results.submission import STATUSES, check_submission, write_submission
from mlperf_det.tables import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det submission``."""
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='run folders of one system')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR', help='where the tree is made')
    parser.add_argument('--organisation', required=True, metavar='NAME', help='submitter')
    parser.add_argument('--system', required=True, metavar='NAME', help='name of the system')
    parser.add_argument('--status', choices=STATUSES, default=STATUSES[0], metavar='STATUS',
                        help='availability: ' + '; '.join(STATUSES) + ' (default: %(default)s)')
    parser.add_argument('--fact', action='append', default=[], metavar='FIELD=TEXT',
                        help='field of the system description that the runs do not know, e.g. cooling=liquid')


def run(args: argparse.Namespace) -> int:
    """Write the tree, check it and say what the checkers found; status 1 where they refuse it."""
    groups = group_runs(read_runs(args.runs))
    facts = dict(_fact(text) for text in args.fact)
    root = write_submission(args.output, groups, args.organisation, args.system, args.status, facts)
    found = check_submission(root, ruleset_of(groups[0].runs[0]))
    for line in found.errors:
        sys.stderr.write(f'mlperf-det: {printable(line)}\n')
    sys.stdout.write(f'{"accepted" if found.passed else "REFUSED"} by the package checker: {printable(str(root))}\n')
    return int(not found.passed)


def _fact(text: str) -> tuple[str, str]:
    name, equals, value = text.partition('=')
    if not equals:
        raise UserError(f'--fact {text}: must be FIELD=TEXT')
    return name, value
