"""What an open run may declare, on findings of the official checker; and what it may not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlperf_det.mllog.compliance import check_log
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.recipes.load import find_recipe
from mlperf_det.recipes.recipe import Division, Recipe
from mlperf_det.results.run import Evaluation, Run, RunStatus
from mlperf_det.rfm import run_requirements
from mlperf_det.rfm.run_requirements import Expected, is_declared
from mlperf_det.run_folder import RunRecord

Edit = Callable[[list[tuple[str, Any]]], list[tuple[str, Any]]]
#: What the rules of each benchmark ask for besides the common keys.
HYPERPARAMETERS: Mapping[str, Mapping[str, Any]] = {
    'ssd': {'max_samples': 1, 'opt_learning_rate_warmup_steps': 1, 'opt_learning_rate_decay_boundary_epochs': [40, 50],
            'model_bn_span': 16, 'opt_weight_decay': 5e-4},
    'maskrcnn': {'num_image_candidates': 1000, 'opt_learning_rate_warmup_steps': 1, 'min_image_size': 96,
                 'opt_learning_rate_decay_factor': 0.1, 'opt_learning_rate_decay_steps': [1, 2], 'max_image_size': 128},
    'retinanet': {'opt_name': 'adam', 'opt_weight_decay': 0, 'opt_learning_rate_warmup_epochs': 1}}


def findings(path: Path, recipe: Recipe, accuracy: Any, edit: Edit = lambda events: events) -> list[str]:
    """Return what the official checker finds in the log of a run of one epoch."""
    point = [
        ('submission_benchmark', recipe.submission_benchmark), ('submission_org', 'lab'),
        ('submission_division', recipe.division.value), ('submission_status', 'onprem'),
        ('submission_platform', 'lab'), ('cache_clear', True), ('init_start', None), ('seed', 1),
        ('train_samples', 384), ('eval_samples', 96), ('global_batch_size', 16), ('opt_base_learning_rate', 0.02),
        ('opt_learning_rate_warmup_factor', 1), ('gradient_accumulation_steps', 1),
        *HYPERPARAMETERS[recipe.benchmark].items(), ('init_stop', None), ('run_start', None), ('epoch_start', None),
        ('epoch_stop', None), ('eval_start', None), ('eval_accuracy', accuracy), ('eval_stop', None),
        ('run_stop', None)]
    with MLPerfLog(path) as log:
        for key, value in edit(point):
            metadata = {'status': 'success'} if key == 'run_stop' else (
                {'epoch_num': 1} if key.startswith(('epoch_', 'eval_')) else None)
            method = log.start if key.endswith('_start') else log.end if key.endswith('_stop') else log.event
            method(key, value, metadata)
    return list(check_log(path, recipe.ruleset, benchmark=recipe.submission_benchmark,
                          division=recipe.division.value).findings)


def smoke(benchmark: str, **changes: Any) -> Recipe:
    return dataclasses.replace(find_recipe(benchmark, 'smoke'), **changes)


ACCURACY = {'ssd': 0.3, 'retinanet': 0.3, 'maskrcnn': {'BBOX': 0.2, 'SEGM': 0.2}}


@pytest.mark.parametrize('benchmark', ['ssd', 'retinanet', 'maskrcnn'])
def test_an_open_run_may_leave_the_caches_and_have_its_own_target(tmp_path: Path, benchmark: str) -> None:
    recipe = smoke(benchmark)
    assert recipe.division is Division.OPEN
    found = findings(tmp_path / 'log', recipe, ACCURACY[benchmark],
                     lambda events: [event for event in events if event[0] != 'cache_clear'])
    assert any("'cache_clear'" in finding for finding in found)
    assert [finding for finding in found if not is_declared(finding, recipe)] == []


def test_round_v07_holds_even_open_runs_to_the_closed_target(tmp_path: Path) -> None:
    recipe = smoke('ssd', ruleset='0.7.0')
    found = findings(tmp_path / 'log', recipe, 0.1)
    assert len(found) == 1
    assert found[0].startswith('Failed checks for eval_accuracy')
    assert is_declared(found[0], recipe)


@pytest.mark.parametrize(('edit', 'words'), [
    (lambda events: [event for event in events if event[0] != 'train_samples'], "'train_samples'"),
    (lambda events: [event for event in events if event[0] != 'eval_accuracy'], "'eval_accuracy'"),
    (lambda events: [event for event in events if event[0] != 'run_stop'], "'run_stop'"),
    (lambda events: [event for event in events if event[0] != 'run_start'], "'run_start'"),
    (lambda events: [*events, ('init_stop', 7)], "'init_stop'"),
    (lambda events: [('submission_division', 'closed') if event[0] == 'submission_division' else event
                     for event in events], 'submission_division is'),
    (lambda events: [('eval_accuracy', 30.0) if event[0] == 'eval_accuracy' else event for event in events],
     'Failed checks for eval_accuracy')])
def test_an_open_run_declares_nothing_else(tmp_path: Path, edit: Edit, words: str) -> None:
    recipe = smoke('ssd')
    undeclared = [finding for finding in findings(tmp_path / 'log', recipe, 0.3, edit)
                  if not is_declared(finding, recipe)]
    assert any(words in finding for finding in undeclared), undeclared


def test_a_cache_clear_that_is_there_must_be_right() -> None:
    assert not is_declared("CHECK for 'cache_clear' failed in line 6: failed test: 'value' in v", smoke('ssd'))


def test_a_closed_run_declares_nothing(tmp_path: Path) -> None:
    recipe = find_recipe('ssd', 'fujitsu-1x4x114')
    found = findings(tmp_path / 'log', recipe, 0.1, lambda events: [
        event for event in events if event[0] != 'cache_clear'])
    assert any("'cache_clear'" in finding for finding in found)
    assert any(finding.startswith('Failed checks for eval_accuracy') for finding in found)
    assert not any(is_declared(finding, recipe) for finding in found)


def record(**changes: Any) -> RunRecord:
    return RunRecord(**{'benchmark': 'ssd', 'recipe': {}, 'log': 'result_0.txt', 'seed': 1, 'hosts': (), 'software': {},
                        'runtime': {}, 'dataset': {}, 'backbone': None, 'image': None, **changes})


def expected(**changes: Any) -> Expected:
    return Expected(**{'recipe': smoke('ssd'), 'device_type': 'cpu', 'dataset_fingerprint': 'f',
                       'evaluation_images': 96, **changes})


def run_with(accuracy: float) -> Run:
    return Run(source=Path('run_0'), status=RunStatus.CONVERGED, reason='',
               evaluations=(Evaluation(epoch=1, seconds=1.0, metrics={'bbox': accuracy}),))


@pytest.mark.parametrize(('accuracy', 'problem'), [
    (0.5, None), (0.1, 'quality target missed: bbox AP 0.1000 at the end, 0.2800 is required'),
    (float('nan'), 'quality target missed'), (28.0, 'bbox AP 28.0000 at the end is no fraction')])
def test_the_target_is_a_fraction_that_must_be_reached(accuracy: float, problem: str | None) -> None:
    found = list(run_requirements.target_is_met(run_with(accuracy), record(), expected()))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


@pytest.mark.parametrize(('manifest', 'read'), [('labels are shuffled', ''), ('', 'labels are shuffled')])
def test_a_spoilt_dataset_is_named_whoever_declares_it(manifest: str, read: str) -> None:
    found, = run_requirements.dataset_is_to_learn_from(
        run_with(0.5), record(dataset={'negative_control': read}), expected(negative_control=manifest))
    assert found == 'the dataset declares itself a negative control: labels are shuffled; no result on it counts'
    assert not list(run_requirements.dataset_is_to_learn_from(run_with(0.5), record(), expected()))
