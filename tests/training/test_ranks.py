"""Several ranks over gloo: the same training as one, and a bounded, explained end when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TOY, ToyPrograms, read_lines, read_log

from mlperf_det.run_folder import Outcome, read_record


@pytest.mark.slow
def test_two_ranks_train_and_score_like_one_with_the_doubled_batch(programs: ToyPrograms, tmp_path: Path) -> None:
    recipe = {'epochs': 3, 'quality_target': {'bbox': 2.0}}
    statuses, errors = programs.run(tmp_path / 'one', **recipe, local_batch_size=8)
    assert statuses == [3], errors
    statuses, errors = programs.run(tmp_path / 'two', ranks=2, **recipe, local_batch_size=4)
    assert statuses == [3, 3], errors
    one, two = (read_lines(tmp_path / name, 'step') for name in ('one', 'two'))
    assert [line['step'] for line in one] == [line['step'] for line in two] == list(range(1, 25))
    for ours, theirs in zip(one, two, strict=True):
        assert ours['loss'] == pytest.approx(theirs['loss'], rel=2e-4, abs=1e-6)
    scores = [[line['metrics']['bbox'] for line in read_lines(tmp_path / name, 'evaluation')]
              for name in ('one', 'two')]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)
    assert max(scores[0]) > 0.5, 'the comparison means nothing while nothing is learned'
    assert {line['rank'] for line in read_lines(tmp_path / 'two', 'epoch')} == {0, 1}
    events = read_log(tmp_path / 'two')
    assert [event['key'] for event in events].count('run_start') == 1


@pytest.mark.slow
def test_a_rank_that_raises_brings_the_job_down_with_its_traceback(programs: ToyPrograms, tmp_path: Path) -> None:
    started = time.monotonic()
    statuses, errors = programs.run(tmp_path / 'run', ranks=2, fault='raise', fault_rank=1, fault_step=3)
    assert statuses == [1, 1]
    assert time.monotonic() - started < 60
    traceback = (tmp_path / 'run' / 'rank_1.log').read_text()
    assert 'ValueError: the toy broke on purpose' in traceback
    assert 'in train_batches' in traceback
    assert 'ValueError: the toy broke on purpose' in errors[1]
    record = read_record(tmp_path / 'run')
    assert record.outcome is Outcome.FAILED
    assert record.reason.startswith('rank 1 on ')
    assert record.reason.endswith('ValueError: the toy broke on purpose')
    assert record.reason in (tmp_path / 'run' / 'rank_0.log').read_text()
    assert 'run_stop' not in {event['key'] for event in read_log(tmp_path / 'run')}


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_rank_that_is_killed_brings_the_job_down_and_is_named(
        programs: ToyPrograms, tmp_path: Path, victim: int) -> None:
    processes = programs.start(tmp_path / 'run', ranks=2, fault='SIGKILL', fault_rank=victim, fault_step=3)
    processes[victim].wait(60)
    assert processes[victim].returncode == -signal.SIGKILL
    killed = time.monotonic()
    survivor = 1 - victim
    _, error = processes[survivor].communicate(timeout=60)
    assert processes[survivor].returncode == 1
    assert time.monotonic() - killed < 30
    assert f'rank {victim}' in error
    record = read_record(tmp_path / 'run')
    assert record.outcome is Outcome.FAILED, 'the survivor writes what rank 0 no longer can'
    assert f'rank {victim} vanished without a traceback: killed from outside, or out of memory' in record.reason
    assert record.attempts[0].ended is not None


@pytest.mark.slow
def test_a_rank_that_hangs_is_found_out_and_its_stacks_are_kept(programs: ToyPrograms, tmp_path: Path) -> None:
    statuses, _ = programs.run(tmp_path / 'run', '--rank-timeout', '6', '--silence', '2', ranks=2, fault='hang',
                               fault_rank=1, fault_step=3)
    assert statuses == [1, 1]
    reason = read_record(tmp_path / 'run').reason
    assert 'Timed out' in reason
    assert 'rank 1: waiting for the data of step 4' in reason
    assert 'in _break' in (tmp_path / 'run' / 'rank_1.log').read_text()


@pytest.mark.slow
def test_an_image_that_no_rank_infers_is_a_failure_and_not_a_score(programs: ToyPrograms, tmp_path: Path) -> None:
    statuses, errors = programs.run(tmp_path / 'run', ranks=2, launcher='srun', fault='lose-image', fault_rank=1)
    assert statuses == [1, 1]
    assert 'rank 0 of 2 (local rank 0, srun, meeting at localhost:' in errors[0]
    assert '1 not inferred' in read_record(tmp_path / 'run').reason
    assert read_lines(tmp_path / 'run', 'evaluation') == []


@pytest.mark.slow
def test_torchrun_starts_the_same_program(toy_data: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(TOY), '--output',
         str(tmp_path / 'run'), '--data', str(toy_data), '--recipe',
         '{"accelerators_per_node": 2, "max_steps": 4, "local_batch_size": 4}'],
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    assert 'rank 0 of 2 (local rank 0, torchrun, meeting at ' in answer.stderr
    assert read_record(tmp_path / 'run').outcome is Outcome.FINISHED


def test_ranks_that_the_recipe_does_not_state_are_refused(programs: ToyPrograms, tmp_path: Path) -> None:
    statuses, errors = programs.run(tmp_path / 'run', accelerators_per_node=2)
    assert statuses == [2]
    assert 'is for 1 nodes x 2 accelerators, but 1 ranks were started' in errors[0]
