"""``make perf``: measure us against the peers, side by side in one run, and print a table.

Every ``bench_*.py`` beside this file has ``cases() -> list[Case]``. Name some of them to run only those.
Exit status 1: a target was missed or results differed.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # before numpy and torch are imported: one core a side
    from rich.console import Console
    from rich.table import Table

    from tests.perf.case import measure

    folder = Path(__file__).parent
    benches = names or sorted(path.stem.removeprefix('bench_') for path in folder.glob('bench_*.py'))
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table('', 'peer, CPU s', 'ours, CPU s', 'ratio', 'wall ratio', 'target', 'note',
                  title='CPU seconds, interleaved, median; one thread')
    failed = False
    for bench in benches:
        for case in importlib.import_module(f'tests.perf.bench_{bench}').cases():
            console.print(f'measuring {case.name} ...', highlight=False)
            try:
                result = measure(case)
            except AssertionError as error:
                failed = True
                table.add_row(case.name, '-', '-', '-', '-', '-', f'[red]results differ: {str(error)[:200]}[/red]')
                continue
            failed |= not result.passed
            target = '-' if case.target is None else f'>= {case.target:g}x'
            table.add_row(case.name, f'{result.peer_cpu:.3f}', f'{result.our_cpu:.3f}',
                          f'[{"green" if result.passed else "red"}]{result.cpu_ratio:.2f}x[/]',
                          f'{result.wall_ratio:.2f}x', target, case.note)
    console.print(table)
    return int(failed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
