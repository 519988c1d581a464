"""The smoke check of Mask R-CNN in a real session: three short trainings, scored by MLPerf's rule and by ThaiSC's."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlperf_det.mllog.result_line import result_seconds

CHECKS = Path(__file__).resolve().parents[2] / 'checks'
RUNS = 3
#: Targets just above nothing, which are met after some fifty steps; a real smoke run is asked for 0.25.
OVERRIDES = (f'experiments={RUNS} epochs=25 warmup_steps=60 warmup_factor=0.0003 runtime.loader_workers=0 '
             'min_image_size=80 max_image_size=128 "quality_target={bbox: 0.0005, segm: 0.0005}"')


@pytest.fixture(scope='module')
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The stage folder of the check, and its case in ReFrame's report."""
    folder = tmp_path_factory.mktemp('session')
    settings = ['training_dataset.generator_arguments=--train 48 --val 12 --seed 3',
                f'maskrcnn.recipe_overrides={OVERRIDES}']
    ended = subprocess.run(
        [Path(sys.executable).parent / 'reframe', '-c', CHECKS / 'maskrcnn.py', '-t', 'smoke', '-r', '--nocolor',
         '--keep-stage-files', f'--prefix={folder}', f'--report-file={folder / "report.json"}',
         *(word for setting in settings for word in ('-S', setting))],
        cwd=folder, env={**os.environ, 'MLPERF_DET_CACHE': str(folder / 'cache'), 'OMP_NUM_THREADS': '1'},
        capture_output=True, text=True, check=False, timeout=400)
    cases = json.loads((folder / 'report.json').read_text())['runs'][-1]['testcases']
    case = next(case for case in cases if not case['fixture'])
    assert case['result'] == 'pass', case['fail_reason'] + ended.stdout
    return Path(case['stagedir']), case


@pytest.mark.long
def test_both_times_of_the_runs_are_scored_each_under_its_own_name(session: tuple[Path, dict[str, Any]]) -> None:
    stage, case = session
    values = {key.rsplit(':', 1)[-1]: value for key, value in case['perfvalues'].items()}
    logs = [(stage / f'run_{number}' / f'result_{number}.txt').read_bytes() for number in range(RUNS)]
    whole = statistics.median(result_seconds(log) for log in logs)
    times = [{key.decode(): int(time) / 1000 for time, key in re.findall(
        rb'"time_ms": (\d+).*?"key": "(run_start|run_stop)"', log)} for log in logs]
    trained = statistics.median(each['run_stop'] - each['run_start'] for each in times)
    assert values['result_seconds'][0] == whole > trained
    assert values['time_to_train'][0] == pytest.approx(trained, abs=0.01)
    assert values['jobs_per_day_by_result'][0] == pytest.approx(86_400 / whole)
    assert values['jobs_per_day_by_time_to_train'][0] == pytest.approx(86_400 / trained, rel=1e-3)
    assert {name: values[name][4] for name in ('result_seconds', 'jobs_per_day_by_result')} == {
        'result_seconds': 's', 'jobs_per_day_by_result': 'jobs/day'}


@pytest.mark.long
def test_box_and_mask_targets_were_met_by_the_same_evaluation(session: tuple[Path, dict[str, Any]]) -> None:
    stage, case = session
    for number in range(RUNS):
        folder = stage / f'run_{number}'
        lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
        last = [line for line in lines if line['kind'] == 'evaluation'][-1]
        assert last['target_met']
        assert min(last['metrics']['bbox'], last['metrics']['segm']) >= 0.0005
    values = {key.rsplit(':', 1)[-1]: value[0] for key, value in case['perfvalues'].items()}
    assert {'bbox_ap', 'segm_ap'} <= set(values)
