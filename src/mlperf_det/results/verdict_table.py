"""Verdicts on standard output: a table on a terminal, plain lines in a pipe, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from mlperf_det.results.judging import Judged
from mlperf_det.results.summary import summary_of
from mlperf_det.results.verdict import State, Verdict
from mlperf_det.tables import printable

_STYLES = {State.PASS: 'bold green', State.PASS_SLOW: 'bold yellow', State.UNSTABLE: 'bold yellow'}


def print_verdicts(judged: Judged, *, as_json: bool) -> None:
    """Print the verdicts; as JSON, the content of summary.json."""
    if as_json:
        sys.stdout.buffer.write(summary_json(judged))
    elif sys.stdout.isatty():
        _print_rich(judged.verdicts)
    else:
        for verdict in judged.verdicts:
            sys.stdout.write(printable(verdict.line) + '\n')
            for note in verdict.notes:
                sys.stdout.write(f'    {printable(note)}\n')


def summary_json(judged: Judged) -> bytes:
    """Return the content of summary.json."""
    return msgspec.json.format(msgspec.json.encode(summary_of(judged)), indent=2) + b'\n'


def _print_rich(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    table = Table('verdict', 'runs', 'score, min', 'cause', show_lines=True)
    for verdict in verdicts:
        score = verdict.score
        state = Text(verdict.state.value, style=_STYLES.get(verdict.state, 'bold red'))
        state.append(''.join(f'\n{mark}' for mark in verdict.marks), style='dim')
        cause = Text(printable(verdict.title), style='bold')
        cause.append(f'\n{printable(verdict.cause)}', style='not bold')
        for note in verdict.notes:
            cause.append(f'\n{printable(note)}', style='dim not bold')
        table.add_row(state, f'{score.converged}/{score.runs}' if score else '-',
                      f'{score.minutes:.3f}' if score and score.minutes is not None else '-', cause)
    Console().print(table)
