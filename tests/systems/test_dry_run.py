"""Every check renders on every system that we ship, without data, GPU or batch system."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlperf_det.recipes.load import BENCHMARKS, recipes_of
from mlperf_det.rfm.job_script import render

CHECKOUT = Path(__file__).resolve().parents[2]
SYSTEMS = sorted(path.parent.name for path in (CHECKOUT / 'systems').glob('*/site.py'))


@pytest.mark.parametrize('system', SYSTEMS)
def test_all_checks_render(system: str, tmp_path: Path) -> None:
    folder = CHECKOUT / 'systems' / system
    scripts = render(folder / 'site.py', checks=[CHECKOUT / 'checks'], stage=tmp_path,
                     arguments=[f'--system={system}'])
    names = ' '.join(script.check for script in scripts)
    assert 'preflight_cpu' in names
    for benchmark in BENCHMARKS:
        if (CHECKOUT / 'checks' / f'{benchmark}.py').is_file():
            for recipe in recipes_of(benchmark, file=folder / 'recipes.yaml'):
                assert f'%recipe={recipe} ' in names, f'{benchmark}.{recipe} is no case of any partition'
    for script in scripts:
        assert 'job_exit_status' in script.path.read_text()
