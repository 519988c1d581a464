"""The layers of CONTRIBUTING.md hold: who may import whom, and what stays out of light programs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / 'src' / 'mlperf_det'

#: room -> rooms it may import (itself and the top-level modules always)
ALLOWED = {
    'recipes': set(),
    'mllog': set(),
    'models': {'data'},
    'data': {'recipes'},
    'evaluation': {'data', 'models'},
    'training': {'evaluation', 'data', 'models', 'mllog', 'recipes'},
    'benchmarks': {'training', 'evaluation', 'data', 'models', 'mllog', 'recipes'},
    'results': {'mllog', 'recipes'},
    'rfm': {'results', 'mllog', 'recipes'},
}
TOP_LEVEL = {'errors', 'tables', 'reframe_sessions', 'share', 'run_folder', 'yaml_files'}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module == 'mlperf_det':
            names = [f'mlperf_det.{alias.name}' for alias in node.names]
        rooms |= {name.split('.')[1] for name in names if name.startswith('mlperf_det.')}
    return rooms - TOP_LEVEL - {'__version__'}


@pytest.mark.parametrize('room', sorted(ALLOWED))
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    for path in sorted((SOURCE / room).rglob('*.py')):
        foreign = imported_rooms(path) - ALLOWED[room] - {room}
        assert not foreign, f'{path.relative_to(SOURCE)} imports {sorted(foreign)}'


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and not path.name.startswith('_')}
    assert rooms == set(ALLOWED)


def test_checks_import_only_reframe_and_what_checks_share() -> None:
    for path in sorted((SOURCE.parents[1] / 'checks').glob('*.py')):
        assert imported_rooms(path) <= {'rfm'}, path.name


def test_only_rfm_imports_reframe() -> None:
    for path in sorted(SOURCE.rglob('*.py')):
        if path.relative_to(SOURCE).parts[0] != 'rfm':
            assert 'import reframe' not in path.read_text(), path


@pytest.mark.parametrize(('modules', 'heavy'), [
    (['mlperf_det.cli'], ['torch', 'pandas', 'numpy', 'yaml', 'rich']),
    (['mlperf_det.recipes.load', 'mlperf_det.recipes.ssd', 'mlperf_det.recipes.retinanet'], ['torch', 'pandas']),
    (['mlperf_det.data.command', 'mlperf_det.evaluation.command', 'mlperf_det.benchmarks.train_command'],
     ['torch', 'pandas']),
    (['mlperf_det.mllog.command', 'mlperf_det.results.score_command', 'mlperf_det.results.verdict_command',
      'mlperf_det.results.report.command'], ['torch']),
    (['mlperf_det.rfm.training_check'], ['torch', 'pandas']),
])
def test_light_programs_stay_light(modules: list[str], heavy: list[str]) -> None:
    code = (f'import sys, {", ".join(modules)}\n'
            f'found = [name for name in {heavy!r} if name in sys.modules]\n'
            'sys.exit(f"imports {found}" if found else 0)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
