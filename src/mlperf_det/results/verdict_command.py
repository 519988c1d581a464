"""``mlperf-det verdict``: judge runs; a line a group, and the exit code of the worst."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mlperf_det.mllog.command import printable
from mlperf_det.results.judging import judge_all
from mlperf_det.results.summary import summary_of
from mlperf_det.results.verdict import EXIT_CODES, State, Verdict, overall

_STYLES = {State.PASS: 'bold green', State.PASS_SLOW: 'bold yellow', State.UNSTABLE: 'bold yellow'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det verdict``."""
    add_run_arguments(parser)
    parser.add_argument('--json', action='store_true', help='print a JSON object instead of a table')
    codes = ', '.join(f'{code} {state.value}' for state, code in EXIT_CODES.items())
    parser.epilog = f'Exit codes: {codes}; the worst of several. 2: bad arguments or files.'


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all commands need that judge runs."""
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN',
                        help='run folder, folder of them, published result tree, archive or single log')
    parser.add_argument('--references', type=Path, metavar='FILE',
                        help='hold performance against this references.yaml; without it only quality is judged')
    parser.add_argument('--acceptance', type=Path, metavar='FILE',
                        help='hold the runs against what this acceptance.yaml says the contract promises')
    parser.add_argument('--rules', action='store_true',
                        help='check published logs by the rules of their round too (our own are always checked)')


def run(args: argparse.Namespace) -> int:
    """Judge the runs, print the verdicts and return the exit code of the worst."""
    judged = judge_all(args.runs, args.references, acceptance_file=args.acceptance, published_rules=args.rules)
    verdicts = judged.verdicts
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary_of(judged)), indent=2) + b'\n')
    elif sys.stdout.isatty():
        _print_rich(verdicts)
    else:
        for verdict in verdicts:
            sys.stdout.write(printable(verdict.line) + '\n')
            for note in verdict.notes:
                sys.stdout.write(f'    {printable(note)}\n')
    return EXIT_CODES[overall(verdicts)]


def _print_rich(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    table = Table('verdict', 'runs', 'score, min', 'cause')
    for verdict in verdicts:
        score = verdict.score
        state = Text(verdict.state.value, style=_STYLES.get(verdict.state, 'bold red'))
        if verdict.marks:
            state.append(f'\n{", ".join(verdict.marks)}', style='dim')
        cause = Text(printable(verdict.title), style='bold')
        cause.append(f'\n{printable(verdict.cause)}', style='not bold')
        for note in verdict.notes:
            cause.append(f'\n{printable(note)}', style='dim not bold')
        table.add_row(state, f'{score.converged}/{score.runs}' if score else '-',
                      f'{score.minutes:.3f}' if score and score.minutes is not None else '-', cause)
    Console().print(table)
