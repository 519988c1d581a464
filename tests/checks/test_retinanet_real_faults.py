"""The smoke check of RetinaNet through real ReFrame sessions: Open Images' form, prepared, verified, and red."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKS = Path(__file__).resolve().parents[2] / 'checks'
FEW_SCENES = 'training_dataset.generator_arguments=--train 24 --val 8'
SHORT = 'epochs=1 local_batch_size=4 warmup_epochs=0'


def run_smoke(folder: Path, *settings: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the fixtures and the case of a session with ReFrame's generic system."""
    subprocess.run(
        [Path(sys.executable).parent / 'reframe', '-c', CHECKS / 'retinanet.py', '-r', '--nocolor', '-t', 'smoke',
         f'--prefix={folder}', f'--report-file={folder / "report.json"}',
         *(word for setting in settings for word in ('-S', setting))],
        cwd=folder, env={**os.environ, 'MLPERF_DET_CACHE': str(folder / 'cache')}, capture_output=True, check=False,
        timeout=280)
    cases = json.loads((folder / 'report.json').read_text())['runs'][-1]['testcases']
    case, = (each for each in cases if not each['fixture'])
    return [each for each in cases if each['fixture']], case


@pytest.mark.slow
@pytest.mark.parametrize(('generator', 'recipe', 'causes'), [
    (' --shuffle-train-labels', 'quality_target.bbox=1e-9',
     ['the dataset declares itself a negative control: training labels are shuffled']),
    ('', 'base_learning_rate=1e-30', ['below the quality target (exit code 3): target bbox 0.1500 not met']),
])
def test_what_must_not_pass_is_red_and_named(tmp_path: Path, generator: str, recipe: str, causes: list[str]) -> None:
    fixtures, retinanet = run_smoke(tmp_path, FEW_SCENES + generator, f'retinanet.recipe_overrides={SHORT} {recipe}')
    assert [case['result'] for case in fixtures] == ['pass', 'pass']
    assert retinanet['result'] == 'fail'
    for cause in causes:
        assert cause in retinanet['fail_reason']
