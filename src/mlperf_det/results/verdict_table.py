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

#: of more verdicts, those that passed have their line in the table alone
_FEW = 4


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
    """Print a line a group, and below the table what is to be said of each, over the width of the terminal."""
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
    console = Console(highlight=False)
    table = Table('verdict', 'group', box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ('runs', 'score, min'):
        table.add_column(name, justify='right', no_wrap=True)
    for verdict in verdicts:
        score, style = verdict.score, _STYLES.get(verdict.state, 'bold red')
        group = Text(printable(verdict.title))
        group.append(''.join(f' [{mark}]' for mark in verdict.marks), style='dim')
        table.add_row(Text(verdict.state.value, style=style, no_wrap=True), group,
                      f'{score.converged}/{score.runs}' if score else '-',
                      f'{score.minutes:.2f}' if score and score.minutes is not None else '-')
    console.print(table)
    console.print()
    for verdict in verdicts if len(verdicts) <= _FEW else [each for each in verdicts if each.state is not State.PASS]:
        said = Text(verdict.state.value, style=_STYLES.get(verdict.state, 'bold red'))
        said.append(f' {printable(verdict.title)}', style='bold default')
        console.print(said)
        console.print(Padding(Text(printable(verdict.cause)), (0, 0, 0, 2)))
        for note in verdict.notes:
            console.print(Padding(Text(printable(note), style='dim'), (0, 0, 0, 2)))
