"""The smoke check of SSD on real, short trainings that must not pass: a frozen model, and a process killed half-way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKS = Path(__file__).resolve().parents[2] / 'checks'


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sessions of this module share their generated dataset."""
    return tmp_path_factory.mktemp('cache')


def run_smoke(tmp_path: Path, cache: Path, *variables: str) -> list[dict[str, Any]]:
    """Run the smoke tier with ReFrame's generic system; return the cases of its report, fixtures first."""
    settings = ['ssd.dataset.generator_arguments=--train 48 --val 12', *variables]
    subprocess.run(
        [Path(sys.executable).parent / 'reframe', '-c', CHECKS / 'ssd.py', '-t', 'smoke', '-r', '--nocolor',
         f'--prefix={tmp_path}', f'--report-file={tmp_path / "report.json"}',
         *(word for setting in settings for word in ('-S', setting))],
        cwd=tmp_path, env={**os.environ, 'MLPERF_DET_CACHE': str(cache)}, capture_output=True, check=False, timeout=280)
    cases = json.loads((tmp_path / 'report.json').read_text())['runs'][-1]['testcases']
    return sorted(cases, key=lambda case: not case['fixture'])


@pytest.mark.slow
def test_a_frozen_model_is_red(tmp_path: Path, cache: Path) -> None:
    *fixtures, ssd = run_smoke(tmp_path, cache, 'ssd.recipe_overrides=learning_rate_per_32=0 epochs=2')
    assert [case['result'] for case in fixtures] == ['pass', 'pass']
    assert ssd['result'] == 'fail'
    assert 'training ended below the quality target (exit code 3)' in ssd['fail_reason']


@pytest.mark.slow
def test_a_training_killed_half_way_is_red(tmp_path: Path, cache: Path) -> None:
    # A Python that is killed without notice once the first step is on record.
    killed = tmp_path / 'python'
    killed.write_text(f"""#!/bin/sh
{sys.executable} "$@" & pid=$!
for i in $(seq 1500); do
  grep -qs '"kind":"step"' run_0/metrics.jsonl && break
  sleep 0.1
done
kill -KILL $pid; wait $pid
""")
    killed.chmod(0o755)
    *_, ssd = run_smoke(tmp_path, cache, f'ssd.python={killed}', 'ssd.recipe_overrides=runtime.log_interval=1')
    assert ssd['result'] == 'fail'
    assert 'killed by SIGKILL (exit code 137): the training process was killed without notice' in ssd['fail_reason']
