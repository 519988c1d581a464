"""Mask R-CNN through ``mlperf-det train``, as a user runs it: log, kill and resume, early abort, refusals."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlperf_det.benchmarks.maskrcnn import build_task
from mlperf_det.cli import main
from mlperf_det.data import backbone
from mlperf_det.data.layout import file_hash
from mlperf_det.data.scenes.dataset import CARD_NAME
from mlperf_det.mllog.compliance import check_log
from mlperf_det.mllog.result_line import result_seconds
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MaskRcnn
from mlperf_det.models.msra_backbone import name_map
from mlperf_det.recipes.load import find_recipe, override
from mlperf_det.recipes.maskrcnn_yardstick import expected_box_ap
from mlperf_det.run_folder import Outcome, read_record
from mlperf_det.training.attempt import RunOptions
from mlperf_det.training.checkpoint import CheckpointStore, read_checkpoint
from mlperf_det.training.exit_codes import ExitCode
from mlperf_det.training.run import run_training
from tests.benchmarks.training_program import finish, lines, program

EPOCHS, STEPS_PER_EPOCH = 4, 6
#: A target that nothing reaches, so that all epochs are trained.
SETTINGS = (f'epochs={EPOCHS}', 'quality_target={bbox: 0.99, segm: 0.99}', 'warmup_steps=60', 'warmup_factor=0.0003',
            'runtime.loader_workers=0', 'runtime.log_interval=1', 'runtime.poll_interval=1')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('coco') / 'scenes'
    assert main(['data', 'generate', CARD_NAME, '--root', str(root), '--train', '48', '--val', '12', '--seed', '3',
                 '--workers', '1']) == 0
    assert main(['data', 'verify', CARD_NAME, '--root', str(root)]) == 0
    return root


def command(data: Path, output: Path, *options: str) -> list[str]:
    assignments = [word for setting in SETTINGS for word in ('--set', setting)]
    return ['train', 'maskrcnn', '--recipe', 'smoke', '--data', str(data), '--output', str(output), '--seed', '4',
            '--device', 'cpu', '--submission-org', 'lab', *assignments, *options]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix(':::MLLOG ')) for line in (folder / 'result_0.txt').read_text().splitlines()
            if line.startswith(':::MLLOG')]


@pytest.fixture(scope='module')
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run that was left alone, and what it said."""
    folder = tmp_path_factory.mktemp('undisturbed') / 'run'
    status, said = finish(program(command(data, folder)))
    assert status == 3, said
    assert [line['step'] for line in lines(folder, 'step')] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    return folder, said


@pytest.mark.slow
def test_the_closed_rules_are_printed_before_anything_is_trained(undisturbed: tuple[Path, str]) -> None:
    _, said = undisturbed
    head, training = said.index('closed-division rules of round 0.7.0 (smoke is declared open'), said.index('epoch 1/')
    assert head < said.index('opt_learning_rate_decay_steps') < training
    assert len([line for line in said[head:training].splitlines() if line.startswith(('kept', 'BREACH'))]) == 12


@pytest.mark.slow
def test_the_log_is_of_the_published_form_and_ends_with_the_seconds_of_the_whole_process(
        undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    findings = check_log(folder / 'result_0.txt', '0.7.0', benchmark='maskrcnn', division='open').findings
    # The checker misses what this run does not claim: cleared caches, and the target.
    assert [next(key for key in ('cache_clear', 'eval_accuracy') if key in finding) for finding in findings] == [
        'cache_clear', 'eval_accuracy']
    found = events(folder)
    counts = Counter(event['key'] for event in found)
    assert {counts[key] for key in ('block_start', 'block_stop', 'epoch_start', 'epoch_stop', 'eval_start',
                                    'eval_accuracy', 'eval_stop')} == {EPOCHS}
    order = [event['key'] for event in found if event['key'].startswith(('block', 'epoch'))]
    assert order == ['block_start', 'epoch_start', 'epoch_stop', 'block_stop'] * EPOCHS
    blocks = [event['metadata'] for event in found if event['key'] == 'block_start']
    assert [(block['first_epoch_num'], block['epoch_count']) for block in blocks] == [(n, 1) for n in (1, 2, 3, 4)]
    assert all(set(event['value']) == {'BBOX', 'SEGM'} for event in found if event['key'] == 'eval_accuracy')
    times = {event['key']: event['time_ms'] / 1000 for event in found}
    whole, trained = result_seconds((folder / 'result_0.txt').read_bytes()), times['run_stop'] - times['run_start']
    assert trained < whole < trained + 60, 'start, imports and initialisation are in it'
    assert (folder / 'result_0.txt').read_text().splitlines()[-1].startswith('RESULT,OBJECT_DETECTION,,')


@pytest.mark.slow
@pytest.mark.timeout(900)  # two starts of the program beside other tests: four minutes were seen at a load of 13
def test_a_run_that_is_told_to_stop_resumes_to_the_same_evaluations(
        data: Path, tmp_path: Path, undisturbed: tuple[Path, str]) -> None:
    folder, reference = tmp_path / 'run', undisturbed[0]
    process = program(command(data, folder))
    deadline = time.monotonic() + 400
    while len(lines(folder, 'step')) < STEPS_PER_EPOCH + 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status, said = finish(process)
    assert status == ExitCode.INTERRUPTED, said
    assert read_record(folder).outcome is Outcome.INTERRUPTED
    assert 'RESULT,' not in (folder / 'result_0.txt').read_text()

    status, said = finish(program(command(data, folder, '--resume')))
    assert status == 3, said
    resumed_from = read_record(folder).attempts[1].resumed_from_step
    assert resumed_from is not None
    assert STEPS_PER_EPOCH < resumed_from < EPOCHS * STEPS_PER_EPOCH
    for kind, value in (('step', 'loss'), ('evaluation', 'metrics')):
        assert [line[value] for line in lines(folder, kind)] == [line[value] for line in lines(reference, kind)]
    ours, theirs = (read_checkpoint(CheckpointStore(each).paths()[0]) for each in (folder, reference))
    assert all(torch.equal(ours.model[name], value) for name, value in theirs.model.items())
    first = read_record(folder).attempts[0].started
    assert result_seconds((folder / 'result_0.txt').read_bytes()) >= read_record(folder).attempts[1].ended - first - 1


@pytest.mark.slow
def test_a_hopeless_run_is_given_up_only_if_the_recipe_allows_it(
        data: Path, tmp_path: Path, undisturbed: tuple[Path, str]) -> None:
    recipe = override(find_recipe('maskrcnn', 'smoke'), list(SETTINGS))
    half = expected_box_ap(1, recipe.global_batch_size) / 2
    assert lines(undisturbed[0], 'evaluation')[0]['metrics']['bbox'] < half
    assert read_record(undisturbed[0]).reason.startswith('target '), 'off by default: it trained all of its epochs'

    # A recipe of the reduced network cannot ask for it; the loop is the same for both.
    willing, folder = replace(recipe, early_abort=True), tmp_path / 'run'
    code = run_training(lambda asked: build_task(asked, data, None), willing, RunOptions(
        output=folder, seed=4, device='cpu'))
    assert code == ExitCode.TARGET_MISSED
    record = read_record(folder)
    assert record.outcome is Outcome.ABORTED
    assert record.reason.startswith('box AP ')
    assert f'after epoch 1 is under {half:.4f}' in record.reason
    stop = events(folder)[-1]
    assert (stop['key'], stop['metadata']['status']) == ('run_stop', 'aborted')
    assert [line['epoch'] for line in lines(folder, 'evaluation')] == [1]


def test_masks_that_were_drawn_for_other_boxes_are_refused(
        data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / 'scenes'
    shutil.copytree(data, root)
    path = root / 'annotations' / 'instances_train2017.json'
    document = json.loads(path.read_text())
    objects = document['annotations']
    for one, other in zip(objects[::2], objects[1::2], strict=False):
        one['segmentation'], other['segmentation'] = other['segmentation'], one['segmentation']
    path.write_text(json.dumps(document))
    status, said = finish(program(command(root, tmp_path / 'run')))
    assert status == ExitCode.USAGE
    assert 'has changed' in said or 'verif' in said, 'the manifest no longer fits'
    # Somebody who verifies the spoilt data gets no further.
    assert main(['data', 'verify', CARD_NAME, '--root', str(root)]) == 0
    status, said = finish(program(command(root, tmp_path / 'other')))
    assert status == ExitCode.USAGE
    assert 'its mask lies elsewhere than its box' in said
    assert said.rstrip().endswith('segmentations and boxes are mixed up')


def test_weights_in_the_wrong_colour_order_are_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The content of the published file is known, so one whose stem was turned to RGB is not taken for it."""
    body = MaskRcnn(MASKRCNN_R50_FPN, 1000).backbone.body
    shapes, random = body.state_dict(), np.random.default_rng()
    arrays = {theirs: random.random(tuple(shapes[ours].shape), dtype=np.float32)
              for ours, theirs in name_map(body).items()}
    published, turned = tmp_path / 'R-50.pkl', tmp_path / 'turned' / 'R-50.pkl'
    turned.parent.mkdir()
    published.write_bytes(pickle.dumps({'blobs': arrays}, protocol=2))
    turned.write_bytes(pickle.dumps({'blobs': {**arrays, 'conv1_w': arrays['conv1_w'][:, ::-1]}}, protocol=2))
    card = backbone.load_backbone_cards()['r50-msra']
    known = replace(card, accepted=(replace(card.accepted[0], md5=(file_hash(published, 'md5'),)),))
    monkeypatch.setattr(backbone, 'load_backbone_cards', lambda: {'r50-msra': known})
    words = ['train', 'maskrcnn', '--recipe', 'dell-1x4x12', '--set', 'accelerators_per_node=1', '--set',
             'local_batch_size=48', '--set', 'num_image_candidates=48000', '--data', str(tmp_path / 'absent'),
             '--device', 'cpu', '--output', str(tmp_path / 'run')]
    assert main([*words, '--backbone', str(turned)]) == ExitCode.USAGE
    assert 'which is none of R-50.pkl' in capsys.readouterr().err
    assert main([*words, '--backbone', str(published)]) == ExitCode.USAGE
    assert 'absent' in capsys.readouterr().err, 'the right file is accepted, and what is missing is the data'
