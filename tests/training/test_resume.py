"""Kill a real run, resume it, and require exactly the losses and parameters of a run that was left alone."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ToyPrograms, read_lines, read_log
from toy import ToyRecipe, ToyTask

from mlperf_det.recipes.recipe import Runtime
from mlperf_det.run_folder import Outcome, read_record
from mlperf_det.training.attempt import RunOptions
from mlperf_det.training.checkpoint import CheckpointStore, Position, read_checkpoint
from mlperf_det.training.run import run_training

#: 8 steps an epoch, 4 epochs, never converged
RECIPE = {'quality_target': {'bbox': 2.0}}
#: where a signal comes from outside: two seconds from the step that it waits for to the end
SLOWLY = {**RECIPE, 'step_seconds': 0.1}
STEPS = 32


@pytest.fixture(scope='module')
def undisturbed(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('undisturbed') / 'run'
    programs = ToyPrograms(toy_data)
    try:
        statuses, errors = programs.run(folder, **RECIPE)
        assert statuses == [3], errors
    finally:
        programs.close()
    return folder


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (steps := read_lines_safely(folder)) or steps[-1] < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_lines_safely(folder: Path) -> list[int]:
    try:
        return [line['step'] for line in read_lines(folder, 'step')]
    except json.JSONDecodeError:  # the last line is being written
        return []


def losses(folder: Path) -> dict[int, float]:
    lines = read_lines(folder, 'step')
    assert len({line['step'] for line in lines}) == len(lines), 'a step occurs twice'
    return {line['step']: line['loss'] for line in lines}


def scores(folder: Path) -> dict[int, dict[str, float]]:
    return {line['epoch']: line['metrics'] for line in read_lines(folder, 'evaluation')}


def assert_same_run(resumed: Path, undisturbed: Path) -> None:
    assert losses(resumed) == losses(undisturbed)
    assert sorted(losses(resumed)) == list(range(1, STEPS + 1))
    assert scores(resumed) == scores(undisturbed)
    ours, theirs = (read_checkpoint(CheckpointStore(folder).paths()[0]) for folder in (resumed, undisturbed))
    assert ours.position == theirs.position
    for name, value in theirs.model.items():
        assert torch.equal(ours.model[name], value), name
    for number, state in theirs.optimizer['state'].items():
        assert torch.equal(ours.optimizer['state'][number]['momentum_buffer'], state['momentum_buffer'])


@pytest.mark.slow
@pytest.mark.parametrize(('fault', 'poll_interval', 'position'), [
    ('SIGTERM', 1, Position(step=12, epoch=1, iteration=4)),
    ('SIGUSR1', 1000, Position(step=16, epoch=2, iteration=0, evaluation_due=True))])
def test_a_stopped_run_resumes_to_equal_losses(
        programs: ToyPrograms, tmp_path: Path, undisturbed: Path, fault: str, poll_interval: int,
        position: Position) -> None:
    folder = tmp_path / 'run'
    # It signals itself, in the middle of an epoch; the step lies behind when it is resumed.
    recipe = {**RECIPE, 'fault': fault, 'fault_step': 11,
              'runtime': {'precision': 'fp32', 'log_interval': 1, 'poll_interval': poll_interval}}
    statuses, errors = programs.run(folder, **recipe)
    assert statuses == [75], errors
    assert read_checkpoint(CheckpointStore(folder).paths()[0]).position == position
    assert read_record(folder).outcome is Outcome.INTERRUPTED
    assert fault in read_record(folder).reason
    started = next(event['time_ms'] for event in read_log(folder) if event['key'] == 'run_start')

    statuses, errors = programs.run(folder, '--resume', **recipe)
    assert statuses == [3], errors
    assert_same_run(folder, undisturbed)
    record = read_record(folder)
    assert record.outcome is Outcome.ABORTED
    assert [attempt.resumed_from_step for attempt in record.attempts] == [None, position.step]
    events = read_log(folder)
    assert [event['time_ms'] for event in events if event['key'] == 'run_start'] == [started]
    assert [event['key'] for event in events].count('init_stop') == 1
    assert [event['metadata']['epoch_num'] for event in events if event['key'] == 'epoch_start'] == [1, 2, 3, 4]
    assert [event['metadata']['epoch_num'] for event in events if event['key'] == 'eval_accuracy'] == [1, 2, 3, 4]


def test_the_loss_scale_of_fp16_goes_on_where_it_was(toy_data: Path, tmp_path: Path) -> None:
    def train(name: str, *, resume: bool = False, **changes: Any) -> Path:
        recipe = dataclasses.replace(
            ToyRecipe(), quality_target={'bbox': 2.0}, epochs=2, fault_step=12,
            runtime=Runtime(precision='fp16', poll_interval=1, log_interval=1), **changes)
        run_training(lambda checked: ToyTask(checked, toy_data), recipe,
                     RunOptions(output=tmp_path / name, seed=1, device='cpu', resume=resume))
        return tmp_path / name

    alone, stopped = train('alone'), train('stopped', fault='SIGTERM')
    assert read_record(stopped).outcome is Outcome.INTERRUPTED
    resumed = train('stopped', fault='SIGTERM', resume=True)
    assert losses(resumed) == losses(alone)
    ours, theirs = (read_checkpoint(CheckpointStore(folder).paths()[0]).scaler for folder in (resumed, alone))
    assert ours == theirs
    assert (theirs['scale'], theirs['_growth_tracker']) != (2.0 ** 16, 3), 'where a scaler made at the resume stands'


@pytest.mark.long
def test_two_ranks_resume_to_the_losses_of_two_that_were_left_alone(programs: ToyPrograms, tmp_path: Path) -> None:
    recipe = {'quality_target': {'bbox': 2.0}, 'local_batch_size': 4, 'epochs': 2,
              'runtime': {'precision': 'fp32', 'log_interval': 1, 'poll_interval': 1}}
    statuses, errors = programs.run(tmp_path / 'undisturbed', ranks=2, **recipe)
    assert statuses == [3, 3], errors
    # One rank alone hears the signal, in the middle of the second epoch.
    stopped = {**recipe, 'fault': 'SIGTERM', 'fault_rank': 1, 'fault_step': 10}
    statuses, errors = programs.run(tmp_path / 'run', ranks=2, **stopped)
    assert statuses == [75, 75], errors
    assert 'SIGTERM received at step 11' in read_record(tmp_path / 'run').reason
    # The toy's fault is a field of its recipe, which a resumed run must not change; its step lies behind.
    statuses, errors = programs.run(tmp_path / 'run', '--resume', ranks=2, **stopped)
    assert statuses == [3, 3], errors
    assert losses(tmp_path / 'run') == losses(tmp_path / 'undisturbed')
    assert sorted(losses(tmp_path / 'run')) == list(range(1, 17))
    assert scores(tmp_path / 'run') == scores(tmp_path / 'undisturbed')
    ours, theirs = (read_checkpoint(CheckpointStore(tmp_path / name).paths()[0]) for name in ('run', 'undisturbed'))
    for mine, other in zip(ours.rank_states, theirs.rank_states, strict=True):
        assert torch.equal(mine['buffers']['norm.running_mean'], other['buffers']['norm.running_mean'])
    assert not torch.equal(*(state['buffers']['norm.running_mean'] for state in ours.rank_states)), 'each has its own'


@pytest.mark.slow
def test_a_run_ended_from_the_keyboard_says_so_and_resumes(
        programs: ToyPrograms, tmp_path: Path, undisturbed: Path) -> None:
    process, = programs.start(tmp_path / 'run', **SLOWLY)
    wait_for_step(process, tmp_path / 'run', 11)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    record = read_record(tmp_path / 'run')
    assert (record.outcome, record.reason) == (
        Outcome.FAILED, 'interrupted from the keyboard; continue with --resume')
    statuses, errors = programs.run(tmp_path / 'run', '--resume', **SLOWLY)
    assert statuses == [3], errors
    assert_same_run(tmp_path / 'run', undisturbed)


@pytest.mark.slow
def test_a_killed_run_resumes_from_the_last_undamaged_checkpoint(
        programs: ToyPrograms, tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / 'run'
    process, = programs.start(folder, **SLOWLY)
    wait_for_step(process, folder, 17)
    process.kill()
    process.communicate(timeout=60)
    assert read_record(folder).outcome is Outcome.RUNNING
    newest, before = CheckpointStore(folder).paths()
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)

    statuses, errors = programs.run(folder, '--resume', **SLOWLY)
    assert statuses == [3], errors
    assert f'{newest}: content does not match its checksum; falling back' in errors[0]
    assert read_record(folder).attempts[1].resumed_from_step == int(before.stem.removeprefix('step_')) >= 8
    assert_same_run(folder, undisturbed)
    tail = (folder / 'attempts' / '0.txt').read_text()
    assert 'epoch_stop' in tail
    assert '"step":' in (folder / 'attempts' / '0.jsonl').read_text()
