"""Job scripts of the example systems, byte by byte as committed; and that the shell can read them."""

from __future__ import annotations

import difflib
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / 'golden'


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location('job_scripts', GOLDEN / 'job_scripts.py')
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


job_scripts = load()


@pytest.mark.parametrize('system', job_scripts.SYSTEMS)
def test_job_scripts_are_those_that_were_reviewed(system: str, tmp_path: Path) -> None:
    now = job_scripts.job_scripts(system, tmp_path)
    assert sorted(now) == sorted(path.name for path in (GOLDEN / system).glob('*.sh'))
    for name, script in now.items():
        reviewed = (GOLDEN / system / name).read_text()
        difference = '\n'.join(difflib.unified_diff(reviewed.splitlines(), script.splitlines(), 'reviewed', 'now', n=0,
                                                    lineterm=''))
        assert script == reviewed, (f'{system}/{name} has changed; if that is meant, run '
                                    f'`python tests/golden/job_scripts.py` and review:\n{difference}')


@pytest.mark.parametrize('script', sorted(GOLDEN.glob('*/*.sh')), ids=lambda path: f'{path.parent.name}/{path.name}')
def test_the_shell_can_read_it(script: Path) -> None:
    subprocess.run(['bash', '-n', script], check=True)


def test_every_system_but_the_local_ones_is_shown() -> None:
    there = {path.parent.name for path in (GOLDEN.parents[1] / 'systems').glob('*/site.py')}
    assert there - set(job_scripts.SYSTEMS) <= {'local', 'ci-slurm'}
