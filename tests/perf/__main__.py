"""``make perf``: measure us against the peers, side by side in one run, and print a table.

``python -m tests.perf`` runs every row; ``python -m tests.perf input evaluation:masks`` runs the rows of
``bench_input.py`` and those of ``bench_evaluation.py`` whose title has "masks" in it.

Every ``bench_*.py`` beside this file has ``cases() -> list[Case]``. Exit status 1: a target was missed or results
differed; 2: no row is called that.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.perf.case import Case

BENCHES = sorted(path.stem.removeprefix('bench_') for path in Path(__file__).parent.glob('bench_*.py'))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m tests.perf', description='measure us against the peers')
    parser.add_argument('rows', nargs='*', metavar='BENCH[:TEXT]',
                        help=f'a bench ({", ".join(BENCHES)}), or its rows with this text in their title; default: all')
    chosen = parser.parse_args(arguments).rows or BENCHES
    if unknown := [name for name in chosen if name.partition(':')[0] not in BENCHES]:
        parser.error(f'{", ".join(unknown)}: no such bench; there are {", ".join(BENCHES)}')
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch are imported: one core a side
    return _print_table(chosen)


def _cases(name: str) -> list[Case]:
    bench, _, text = name.partition(':')
    return [case for case in importlib.import_module(f'tests.perf.bench_{bench}').cases()
            if text.lower() in case.name.lower()]


def _print_table(names: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 170)
    table = Table('', 'target', 'measured', '', 'wall', 'peer, CPU s', 'ours, CPU s', 'note',
                  title='CPU seconds of the peer / ours, interleaved, median; one thread')
    failed = 0
    began = time.perf_counter()
    for name in names:
        cases = _cases(name)
        # Taken off the list: the input of one row would slow the garbage collector down in the next.
        while cases:
            case = cases.pop(0)
            console.print(f'{case.name} ...', end=' ', highlight=False)
            started = time.perf_counter()
            passed, cells = _measure(case)
            failed += not passed
            table.add_row(case.name, *cells)
            console.print(f'{cells[1]} {cells[2]} ({time.perf_counter() - started:.0f} s)', highlight=False)
    if not table.row_count:
        sys.stderr.write(f'{", ".join(names)}: no row has this in its title\n')
        return 2
    console.print(table)
    minutes = (time.perf_counter() - began) / 60
    console.print(f'{table.row_count} rows, {failed} failed, {minutes:.1f} min', highlight=False)
    return int(failed > 0)


def _measure(case: Case) -> tuple[bool, list[str]]:
    """Return whether a row passed, and its cells."""
    from tests.perf.case import measure

    target = '-' if case.target is None else f'>= {case.target:g}x'
    try:
        result = measure(case)
    except AssertionError as error:
        return False, [target, '-', '[red]differs[/]', '-', '-', '-', f'[red]{str(error)[:200]}[/]']
    verdict = '' if case.target is None else '[green]ok[/]' if result.passed else '[red]below[/]'
    return result.passed, [target, f'{result.cpu_ratio:.2f}x', verdict, f'{result.wall_ratio:.2f}x',
                           f'{result.peer_cpu:.3f}', f'{result.our_cpu:.3f}', case.note]


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
