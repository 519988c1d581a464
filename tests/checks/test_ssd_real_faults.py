"""The smoke check of SSD through real ReFrame sessions and real, short trainings that must not pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKS = Path(__file__).resolve().parents[2] / 'checks'
#: A dataset and a schedule of a few seconds that end without an error; no target could be met by them.
FEW_SCENES = 'training_dataset.generator_arguments=--train 48 --val 12'
SHORT = 'epochs=2 local_batch_size=4'
#: 36 s of one CPU. AP at the end is 0.071 with true labels and 0.010 with shuffled ones.
LABELLED_SCENES = 'training_dataset.generator_arguments=--train 256 --val 48 --classes 4 --size 128 192'
LEARNING = ('ssd.recipe_overrides=epochs=14 decay_epochs=[10,13] evaluation_interval=7 local_batch_size=4 '
            'learning_rate_per_32=0.04 quality_target.bbox=0.03 runtime.precision=fp32')


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sessions of this module share their generated datasets."""
    return tmp_path_factory.mktemp('cache')


def run_session(tmp_path: Path, cache: Path, *arguments: str | Path, settings: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run ReFrame on the check; return the cases of its report, fixtures first."""
    session = subprocess.Popen(
        [Path(sys.executable).parent / 'reframe', '-c', CHECKS / 'ssd.py', '-r', '--nocolor', f'--prefix={tmp_path}',
         f'--report-file={tmp_path / "report.json"}', *arguments,
         *(word for setting in settings for word in ('-S', setting))],
        cwd=tmp_path, env={**os.environ, 'MLPERF_DET_CACHE': str(cache)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        session.wait(280)
    finally:
        # ReFrame ends its jobs when it is interrupted, not when it is killed.
        session.send_signal(signal.SIGINT)
        session.wait(30)
    cases = json.loads((tmp_path / 'report.json').read_text())['runs'][-1]['testcases']
    return sorted(cases, key=lambda case: not case['fixture'])


def run_smoke(tmp_path: Path, cache: Path, *settings: str) -> dict[str, Any]:
    """Return the smoke case of a session whose fixtures passed, run with ReFrame's generic system."""
    *fixtures, ssd = run_session(tmp_path, cache, '-t', 'smoke', settings=settings)
    assert [case['result'] for case in fixtures] == ['pass', 'pass']
    return ssd


def python_that(folder: Path, script: str) -> str:
    """Return the setting that lets a shell script stand for the Python that trains."""
    program = folder / 'python'
    program.write_text(f'#!/bin/sh\n{script}')
    program.chmod(0o755)
    return f'ssd.python={program}'


def python_with(folder: Path, patch: str) -> str:
    """Return the setting for a Python that runs a patch before it trains."""
    (folder / 'sitecustomize.py').write_text(patch)
    return python_that(folder, f'PYTHONPATH={folder} exec {sys.executable} "$@"\n')


def assert_red(case: dict[str, Any], *causes: str) -> None:
    """Require a failed case whose reason names each cause."""
    assert case['result'] == 'fail'
    for cause in causes:
        assert cause in case['fail_reason']


@pytest.mark.long
def test_true_labels_pass(tmp_path: Path, cache: Path) -> None:
    assert run_smoke(tmp_path, cache, LABELLED_SCENES, LEARNING)['result'] == 'pass'


@pytest.mark.long
def test_shuffled_labels_are_red_where_true_ones_pass(tmp_path: Path, cache: Path) -> None:
    assert_red(run_smoke(tmp_path, cache, f'{LABELLED_SCENES} --shuffle-train-labels', LEARNING),
               'training ended below the quality target (exit code 3): target bbox 0.0300 not met in 14 epochs',
               'the dataset declares itself a negative control: training labels are shuffled')


@pytest.mark.slow
def test_a_target_that_shuffled_labels_meet_is_red_all_the_same(tmp_path: Path, cache: Path) -> None:
    ssd = run_smoke(tmp_path, cache, f'{FEW_SCENES} --shuffle-train-labels',
                    f'ssd.recipe_overrides={SHORT} quality_target.bbox=1e-9')
    assert_red(ssd, 'the dataset declares itself a negative control: training labels are shuffled; no result on it')


@pytest.mark.slow
def test_a_frozen_model_is_red(tmp_path: Path, cache: Path) -> None:
    ssd = run_smoke(tmp_path, cache, FEW_SCENES, f'ssd.recipe_overrides={SHORT} learning_rate_per_32=0')
    assert_red(ssd, 'training ended below the quality target (exit code 3): no parameter changed in 12 steps: the '
                    'learning rate is 0, or everything is frozen')


@pytest.mark.slow
def test_an_evaluation_on_an_empty_result_is_red(tmp_path: Path, cache: Path) -> None:
    python = python_with(tmp_path, """
import dataclasses, torch
from mlperf_det.models.ssd import Ssd
detect = Ssd.detect
def detect_nothing(self, batch):
    found = detect(self, batch)
    return dataclasses.replace(found, valid=torch.zeros_like(found.valid))
Ssd.detect = detect_nothing
""")
    ssd = run_smoke(tmp_path, cache, FEW_SCENES, python, f'ssd.recipe_overrides={SHORT}')
    assert_red(ssd, '(exit code 3): target bbox 0.2800 not met in 2 epochs',
               'the last evaluation had not a single detection')


@pytest.mark.slow
def test_a_missing_metric_is_red(tmp_path: Path, cache: Path) -> None:
    python = python_that(tmp_path, f'{sys.executable} "$@" && sed -i /steady_state/d run_0/metrics.jsonl\n')
    ssd = run_smoke(tmp_path, cache, FEW_SCENES, python, f'ssd.recipe_overrides={SHORT} quality_target.bbox=1e-9')
    assert_red(ssd, 'metric images_per_second is missing:', 'run_0 does not yield images_per_second')


@pytest.mark.slow
def test_a_missing_reference_is_red_before_anything_is_submitted(tmp_path: Path, cache: Path, site: Path) -> None:
    (site / 'recipes.yaml').write_text('ssd: {speed: {base: smoke, tier: throughput, max_steps: 8}}\n')
    *fixtures, ssd = run_session(tmp_path, cache, '-C', site / 'site.py', '-t', 'throughput', settings=(FEW_SCENES,))
    assert [case['result'] for case in fixtures] == ['pass', 'pass']
    assert_red(ssd, 'no references.yaml, so images_per_second of ssd on 1 node(s) of H100-SXM5-80GB',
               'add it, or measure first with -S reference_not_needed=calibration')
    assert ssd['fail_phase'] == 'setup'


@pytest.mark.slow
def test_a_training_killed_half_way_is_red(tmp_path: Path, cache: Path) -> None:
    # Killed without notice once the first step is on record.
    python = python_that(tmp_path, f"""
{sys.executable} "$@" & pid=$!
for i in $(seq 1500); do
  grep -qs '"kind":"step"' run_0/metrics.jsonl && break
  sleep 0.1
done
kill -KILL $pid; wait $pid
""")
    ssd = run_smoke(tmp_path, cache, FEW_SCENES, python, 'ssd.recipe_overrides=runtime.log_interval=1')
    assert_red(ssd, 'killed by SIGKILL (exit code 137): the training process ended without a word (killed? out of '
                    'memory?)')
