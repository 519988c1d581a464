"""The loop with a task of its own, in this process: how runs end and what they leave behind."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_lines, read_log
from toy import ToyRecipe, ToyTask

from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.run_folder import Outcome, read_record
from mlperf_det.training import loop
from mlperf_det.training.attempt import RunOptions
from mlperf_det.training.checkpoint import CheckpointStore, Position, read_checkpoint
from mlperf_det.training.evaluating import Evaluator
from mlperf_det.training.exit_codes import ExitCode
from mlperf_det.training.run import run_training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / 'run'


def train(folder: Path, data: Path, *, options: dict[str, Any] | None = None, **recipe: Any) -> ExitCode:
    return run_training(lambda checked: ToyTask(checked, data), dataclasses.replace(ToyRecipe(), **recipe),
                        RunOptions(output=folder, seed=1, device='cpu', **(options or {})))


def test_a_run_stops_when_the_target_is_met(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, quality_target={'bbox': 0.9}, epochs=30,
                 options={'cache_cleared': True}) is ExitCode.OK
    record = read_record(folder)
    assert record.outcome is Outcome.CONVERGED
    assert record.attempts[0].ended is not None
    evaluations = read_lines(folder, 'evaluation')
    assert [line['target_met'] for line in evaluations] == [False] * (len(evaluations) - 1) + [True]
    assert evaluations[-1]['metrics']['bbox'] >= 0.9
    assert evaluations[-1]['numbers']['bbox']['AP50'] >= evaluations[-1]['metrics']['bbox']
    keys = [event['key'] for event in read_log(folder)]
    assert keys[:6] == ['submission_benchmark', 'submission_org', 'submission_division', 'submission_status',
                        'submission_platform', 'cache_clear']
    assert keys[6:8] == ['init_start', 'seed']
    order = ['weights_initialization', 'init_stop', 'run_start', 'epoch_start', 'epoch_stop', 'eval_start']
    assert [keys.index(key) for key in order] == sorted(keys.index(key) for key in order)
    last = read_log(folder)[-1]
    assert (last['key'], last['metadata']['status']) == ('run_stop', 'success')
    accuracies = [event for event in read_log(folder) if event['key'] == 'eval_accuracy']
    assert [event['value'] for event in accuracies] == [line['metrics']['bbox'] for line in evaluations]
    assert [event['metadata']['epoch_num'] for event in accuracies] == list(range(1, len(accuracies) + 1))


def test_training_goes_on_while_the_score_is_computed(folder: Path, toy_data: Path) -> None:
    train(folder, toy_data, quality_target={'bbox': 2.0}, epochs=3)
    keys = [(event['key'], event['metadata'].get('epoch_num')) for event in read_log(folder)]
    assert keys.index(('epoch_start', 2)) < keys.index(('eval_accuracy', 1))


def test_a_missed_target_is_not_a_success(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, quality_target={'bbox': 2.0}, epochs=2,
                 evaluation_interval=2) is ExitCode.TARGET_MISSED
    assert read_record(folder).outcome is Outcome.ABORTED
    assert 'target bbox 2.0000 not met in 2 epochs' in read_record(folder).reason
    assert read_log(folder)[-1]['metadata']['status'] == 'aborted'
    assert 'cache_clear' not in {event['key'] for event in read_log(folder)}
    assert [line['epoch'] for line in read_lines(folder, 'evaluation')] == [2]


def test_random_weights_and_the_open_division_are_marked(folder: Path, toy_data: Path) -> None:
    train(folder, toy_data, max_steps=2)
    events = {event['key']: event['value'] for event in read_log(folder)}
    assert events['backbone_initialization'] == 'random'
    assert events['submission_division'] == 'open'
    assert read_record(folder).backbone is None


def test_a_throughput_run_does_its_steps_and_leaves_the_warm_up_out(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, max_steps=25, runtime=Runtime(precision='fp32', log_interval=4)) is ExitCode.OK
    assert read_record(folder).outcome is Outcome.FINISHED
    assert read_lines(folder, 'evaluation') == []
    windows = read_lines(folder, 'step')
    assert sum(window['steps'] for window in windows) == windows[-1]['step'] == 25
    steady, = read_lines(folder, 'steady_state')
    assert (steady['warm_up_steps'], steady['first_step'], steady['last_step']) == (10, 11, 25)
    counted = [window for window in windows if not window['warm_up']]
    seconds = sum(window['steps'] * 8 / window['images_per_second'] for window in counted)
    assert steady['images_per_second'] == pytest.approx(15 * 8 / seconds)
    assert 0 <= steady['data_wait_share'] <= 1
    assert read_log(folder)[-1]['metadata']['status'] == 'aborted', 'no target was tried, so none was reached'


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, fault='nan', fault_step=10, epochs=4, quality_target={'bbox': 2.0},
                 runtime=Runtime(precision='fp32', log_interval=100)) is ExitCode.DIVERGED
    record = read_record(folder)
    assert record.outcome is Outcome.DIVERGED
    assert 'a loss was not finite between steps 11 and 16' in record.reason
    assert [path.name for path in sorted((folder / 'checkpoints').glob('*.pt'))] == ['step_000000008.pt']
    assert read_log(folder)[-1]['metadata']['status'] == 'aborted'


def test_parameters_that_are_not_finite_are_found_before_they_are_saved(folder: Path, toy_data: Path) -> None:
    # The rate overflows the parameters in the last step of the epoch, whose loss is still finite.
    class Exploding(ToyTask):
        def learning_rates(self, step: int) -> list[float]:
            return [float('inf') if step == 7 else 0.01]

    assert run_training(lambda checked: Exploding(checked, toy_data), ToyRecipe(),
                        RunOptions(output=folder, device='cpu')) is ExitCode.DIVERGED
    assert 'a parameter was not finite after step 8' in read_record(folder).reason
    assert not (folder / 'checkpoints').exists()


@pytest.mark.parametrize(('recipe', 'steps'), [({'epochs': 9}, 8), ({'max_steps': 30}, 8), ({'max_steps': 5}, 5)])
def test_a_run_that_moves_no_parameter_ends_and_says_so(
        folder: Path, toy_data: Path, recipe: dict[str, Any], steps: int) -> None:
    assert train(folder, toy_data, learning_rate=0.0, **recipe) is ExitCode.TARGET_MISSED
    record = read_record(folder)
    assert record.outcome is Outcome.ABORTED
    assert record.reason == f'no parameter changed in {steps} steps: the learning rate is 0, or everything is frozen'


def test_a_target_missed_without_a_detection_says_so(folder: Path, toy_data: Path) -> None:
    class Blind(ToyTask):
        def detection_rows(self, detections: Any, batch: Any) -> Any:
            nothing = dataclasses.replace(detections, valid=torch.zeros_like(detections.valid))
            return super().detection_rows(nothing, batch)

    assert run_training(lambda checked: Blind(checked, toy_data), dataclasses.replace(ToyRecipe(), epochs=2),
                        RunOptions(output=folder, device='cpu')) is ExitCode.TARGET_MISSED
    assert read_record(folder).reason == (
        'target bbox 0.9900 not met in 2 epochs; the last evaluation had not a single detection')


def test_an_error_leaves_its_traceback_and_a_true_record(
        folder: Path, toy_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, toy_data, fault='raise', fault_step=3) is ExitCode.FAILED
    assert 'ValueError: the toy broke on purpose' in (folder / 'rank_0.log').read_text()
    assert 'ValueError: the toy broke on purpose' in capsys.readouterr().err
    assert read_record(folder).outcome is Outcome.FAILED
    assert read_record(folder).reason == 'ValueError: the toy broke on purpose'
    assert 'run_stop' not in {event['key'] for event in read_log(folder)}


def test_a_lost_evaluation_image_is_an_error(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, fault='lose-image') is ExitCode.FAILED
    assert '1 not inferred' in read_record(folder).reason


def test_a_task_that_ends_an_epoch_early_is_an_error(folder: Path, toy_data: Path) -> None:
    class Short(ToyTask):
        def steps_per_epoch(self) -> int:
            return 8

        def train_batches(self, **where: Any) -> Any:
            yield from list(super().train_batches(**where))[:5]

    assert run_training(lambda checked: Short(checked, toy_data), ToyRecipe(),
                        RunOptions(output=folder, device='cpu')) is ExitCode.FAILED
    assert 'epoch 1 ended after 5 batches' in read_record(folder).reason


def test_a_folder_in_use_is_refused_and_left_alone(folder: Path, toy_data: Path) -> None:
    folder.mkdir()
    (folder / 'precious').write_text('data')
    with pytest.raises(UserError, match='is not empty'):
        train(folder, toy_data)
    assert [path.name for path in folder.iterdir()] == ['precious']


def test_a_stop_with_a_score_under_way_waits_for_it(folder: Path, toy_data: Path) -> None:
    recipe = {'epochs': 2, 'fault': 'SIGTERM', 'fault_step': 8, 'quality_target': {'bbox': 2.0},
              'runtime': Runtime(precision='fp32', poll_interval=1, log_interval=1)}
    assert train(folder, toy_data, **recipe) is ExitCode.INTERRUPTED
    assert read_record(folder).outcome is Outcome.INTERRUPTED
    assert 'SIGTERM received at step 9' in read_record(folder).reason
    assert [line['epoch'] for line in read_lines(folder, 'evaluation')] == [1]
    assert read_lines(folder, 'epoch')[-1]['complete'] is False
    assert 'run_stop' not in {event['key'] for event in read_log(folder)}
    assert CheckpointStore(folder).paths()[0].stem == 'step_000000009'


def test_a_score_that_does_not_come_in_time_is_computed_again_on_resume(
        folder: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {'epochs': 2, 'fault': 'SIGTERM', 'fault_step': 8, 'quality_target': {'bbox': 2.0},
              'runtime': Runtime(precision='fp32', poll_interval=1, log_interval=1)}
    with monkeypatch.context() as hurried:
        hurried.setattr(loop, 'STOP_GRACE', 0.0)
        hurried.setattr(Evaluator, 'poll', lambda self: None)  # a score may be there after one step
        assert train(folder, toy_data, **recipe) is ExitCode.INTERRUPTED
    assert 'score of epoch 1 still pending' in read_record(folder).reason
    newest = CheckpointStore(folder).paths()[0]
    assert read_checkpoint(newest).position == Position(step=8, epoch=1, iteration=0, evaluation_due=True)
    # The fault strikes again one step after the resume; by then the evaluation must be there.
    monkeypatch.setattr(loop, 'STOP_GRACE', 20.0)
    assert train(folder, toy_data, options={'resume': True}, **recipe) is ExitCode.INTERRUPTED
    assert [line['epoch'] for line in read_lines(folder, 'evaluation')] == [1]


def test_a_stop_ends_the_wait_for_a_score(folder: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The score never comes, and the stop does while nothing but the score is waited for.
    looks: list[float] = []

    def wait(evaluator: Evaluator, timeout: float) -> None:
        looks.append(timeout)
        if len(looks) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, 'STOP_GRACE', 2.5)
    monkeypatch.setattr(Evaluator, 'wait', wait)
    assert train(folder, toy_data, epochs=1, quality_target={'bbox': 2.0}) is ExitCode.INTERRUPTED
    assert looks == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert read_record(folder).reason == (
        'SIGTERM received at step 8; score of epoch 1 still pending; continue with --resume')
    assert read_checkpoint(CheckpointStore(folder).paths()[0]).position.evaluation_due


def test_a_score_that_never_comes_is_an_error(
        folder: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evaluator, 'wait', lambda evaluator, timeout: None)
    assert train(folder, toy_data, epochs=1, options={'rank_timeout': 10.0}) is ExitCode.FAILED
    assert read_record(folder).reason == 'RuntimeError: the evaluation after epoch 1 was not scored within 9 s'


def test_a_run_that_has_ended_or_is_another_is_not_resumed(folder: Path, toy_data: Path) -> None:
    recipe = {'fault': 'raise', 'fault_step': 12, 'quality_target': {'bbox': 2.0}}
    assert train(folder, toy_data, **recipe) is ExitCode.FAILED
    log = (folder / 'result_0.txt').read_bytes()
    with pytest.raises(UserError, match=r'learning_rate was 0\.05, now it is 0\.1'):
        train(folder, toy_data, options={'resume': True}, **recipe, learning_rate=0.1)
    with pytest.raises(UserError, match=r'the run writes result_0\.txt'):
        train(folder, toy_data, options={'resume': True, 'experiment': 3}, **recipe)
    with pytest.raises(UserError, match='is not empty'):
        train(folder, toy_data, **recipe)
    assert read_record(folder).outcome is Outcome.FAILED
    kept = (folder / 'result_0.txt').read_bytes() + (folder / 'attempts' / '0.txt').read_bytes()
    assert kept == log, 'a refused resume loses nothing of the log'

    ended = folder.with_name('ended')
    assert train(ended, toy_data, max_steps=1) is ExitCode.OK
    with pytest.raises(UserError, match='the run has ended'):
        train(ended, toy_data, options={'resume': True}, max_steps=1)


def test_resume_without_a_checkpoint_starts_from_the_beginning(folder: Path, toy_data: Path) -> None:
    assert train(folder, toy_data, options={'resume': True}, fault='raise', fault_step=2) is ExitCode.FAILED
    assert train(folder, toy_data, options={'resume': True}, max_steps=3) is ExitCode.OK
    assert [line['step'] for line in read_lines(folder, 'step')] == [1, 2, 3]
    assert [event['key'] for event in read_log(folder)].count('run_start') == 1
    assert 'run_start' in (folder / 'attempts' / '0.txt').read_text()
    assert len(read_record(folder).attempts) == 2


def test_bad_input_leaves_no_folder_that_blocks_the_next_try(folder: Path, toy_data: Path) -> None:
    def refuse(recipe: object) -> ToyTask:
        raise UserError('data: nothing there')

    with pytest.raises(UserError, match='data: nothing there'):
        run_training(refuse, ToyRecipe(), RunOptions(output=folder, device='cpu'))
    assert train(folder, toy_data, max_steps=1) is ExitCode.OK


def test_a_target_that_is_not_scored_is_refused(folder: Path, toy_data: Path) -> None:
    with pytest.raises(UserError, match='quality_target names segm'):
        train(folder, toy_data, quality_target={'segm': 0.1})


def test_all_targets_must_be_met_in_one_evaluation(folder: Path, toy_data: Path) -> None:
    from mlperf_det.evaluation.scorer import ScoredEvaluation
    from mlperf_det.training.control import Control

    class Both(ToyTask):
        iou_types = ('bbox', 'segm')

    recipe = dataclasses.replace(ToyRecipe(), quality_target={'bbox': 0.377, 'segm': 0.339})
    evaluator = Evaluator(task=Both(recipe, toy_data), control=Control(), runtime=None, device=torch.device('cpu'),
                          log=_Ignored(), metrics=_Ignored())  # type: ignore[arg-type]
    for bbox, segm, met in ((0.377, 0.339, True), (0.4, 0.338, False), (0.376, 0.5, False)):
        scored = ScoredEvaluation(epoch=3, seconds=0.0, summaries={'bbox': _Summary(bbox), 'segm': _Summary(segm)})
        assert evaluator.settle(scored).target_met is met


class _Ignored:
    def stop_evaluation(self, *args: object) -> None: ...
    def write(self, *args: object, **kwargs: object) -> None: ...


class _Summary:
    def __init__(self, value: float) -> None:
        self.AP = value

    def numbers(self) -> dict[str, float]:
        return {'AP': self.AP}


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_reduced_precision_trains(folder: Path, toy_data: Path, precision: str) -> None:
    runtime = Runtime(precision=precision, log_interval=8)  # type: ignore[arg-type]
    assert train(folder, toy_data, max_steps=24, runtime=runtime) is ExitCode.OK
    windows = read_lines(folder, 'step')
    assert windows[-1]['loss'] < windows[0]['loss'] / 2
