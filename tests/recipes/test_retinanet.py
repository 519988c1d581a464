"""RetinaNet recipes: the published ones are legal; each way to break a closed rule is named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import check, find_recipe, override
from mlperf_det.recipes.recipe import Division
from mlperf_det.recipes.retinanet import (
    EVAL_SAMPLES,
    TRAIN_SAMPLES,
    builtin_recipes,
    smoke_recipe,
)


@pytest.mark.parametrize('name', sorted(builtin_recipes()))
def test_builtin_recipes_can_run_and_published_ones_are_legal(name: str) -> None:
    recipe = builtin_recipes()[name]
    assert recipe.name == name
    check(recipe)
    if name != 'smoke':
        long = name == 'reference-long-8x8x4'
        assert recipe.division is (Division.OPEN if long else Division.CLOSED)
        assert [breach.partition(':')[0] for breach in recipe.closed_rule_breaches()] == ['quality_target'] * long
        nodes, accelerators, batch = map(int, name.rpartition('-')[2].split('x'))
        assert (recipe.nodes, recipe.accelerators_per_node, recipe.local_batch_size) == (nodes, accelerators, batch)


@pytest.mark.parametrize(('name', 'batch', 'rate', 'warmup', 'epochs'), [
    ('reference-1x8x32', 256, 1e-4, 1, 8),
    ('reference-32x8x32', 8192, 1e-4, 1, 35),
    ('reference-long-8x8x4', 256, 1e-4, 1, 15),
    ('nvidia-h100-1x8x32', 256, 8.5e-5, 0, 8),
    ('nvidia-h100-256x8x1', 2048, 1.35e-4, 1, 12),
    ('nvidia-h100-316x8x1', 2528, 1.35e-4, 1, 12),
    ('nvidia-a100-160x8x1', 1280, 1.2e-4, 1, 35),
    ('nvidia-gb200-18x4x4', 288, 1e-4, 1, 6),
    ('nvidia-gb200-128x4x2', 1024, 1e-4, 1, 10),
    ('dell-l40s-1x4x16', 64, 6e-5, 0, 5),
    ('tinycorp-1x6x16', 96, 9.5e-5, 0, 4),
])
def test_published_configurations(name: str, batch: int, rate: float, warmup: int, epochs: int) -> None:
    recipe = builtin_recipes()[name]
    assert (recipe.global_batch_size, recipe.base_learning_rate, recipe.warmup_epochs, recipe.epochs) == (
        batch, rate, warmup, epochs)


def test_dataset_counts() -> None:
    assert (TRAIN_SAMPLES, EVAL_SAMPLES) == (1_170_301, 24_781)


def test_warmup_is_linear_per_step_and_then_constant() -> None:
    recipe = builtin_recipes()['reference-1x8x32']
    steps = 4571
    assert recipe.learning_rate(0, steps) == pytest.approx(1.0e-7, rel=1e-9)
    assert recipe.learning_rate(1, steps) == pytest.approx(1.21855e-7, rel=1e-5)
    assert recipe.learning_rate(2285, steps) == pytest.approx(5.0039e-5, rel=1e-5)
    assert recipe.learning_rate(4571, steps) == recipe.learning_rate(40 * 4571, steps) == 1e-4


def test_without_warmup_the_first_step_has_the_base_rate() -> None:
    assert builtin_recipes()['nvidia-h100-1x8x32'].learning_rate(0, 4572) == 8.5e-5


@pytest.mark.parametrize(('ruleset', 'name'), [('2.0.0', 'ssd'), ('4.1.0', 'ssd'), ('5.0.0', 'retinanet'),
                                               ('5.1.0', 'retinanet')])
def test_log_name_follows_the_round(ruleset: str, name: str) -> None:
    assert replace(builtin_recipes()['reference-1x8x32'], ruleset=ruleset).submission_benchmark == name


@pytest.mark.parametrize(('assignments', 'message'), [
    (['architecture=retinanet_smoke'], 'architecture: retinanet_smoke, but the model is retinanet_resnext50'),
    (['pretrained_backbone=false'], 'pretrained_backbone'),
    (['dataset=coco2017'], 'dataset: coco2017, but the data is openimages-mlperf'),
    (['quality_target={bbox: 0.3}'], 'quality_target'),
    (['max_steps=10'], 'max_steps'),
    (['base_learning_rate=0'], 'base_learning_rate: 0.0 is not a positive number'),
    (['warmup_epochs=-1'], 'warmup_epochs: -1 is negative'),
    (['warmup_epochs=0.5'], 'warmup_epochs'),
    (['warmup_factor=2'], 'warmup_factor'),
    (['max_boxes=0'], 'max_boxes'),
    (['ruleset=1.1.0'], 'ruleset: 1.1.0 does not have this benchmark'),
    (['ruleset=6.0.0'], 'ruleset: 6.0.0 does not have this benchmark'),
])
def test_what_cannot_run_or_breaks_a_rule_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(builtin_recipes()['reference-1x8x32'], assignments)


@pytest.mark.parametrize('setting', ['runtime.decoder=gpu', 'runtime.decoder=dali', 'runtime.cuda_graph=true',
                                     'runtime.compile=model'])
def test_where_the_device_is_asked_for_more_the_recipe_stays_legal(setting: str) -> None:
    recipe = override(builtin_recipes()['nvidia-gb200-2x4x32'], [setting])
    assert recipe.runtime != builtin_recipes()['nvidia-gb200-2x4x32'].runtime
    assert recipe.closed_rule_breaches() == []


@pytest.mark.parametrize('benchmark', ['ssd', 'maskrcnn'])
@pytest.mark.parametrize(('setting', 'message'), [
    ('runtime.decoder=gpu', 'runtime.decoder: gpu is not a decoder of'),
    ('runtime.cuda_graph=true', 'runtime.cuda_graph: batches of .* have changing shapes')])
def test_what_only_retinanet_can_is_refused_elsewhere_and_not_ignored(
        benchmark: str, setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(find_recipe(benchmark, 'smoke'), [setting])


def test_an_open_recipe_says_what_it_breaks() -> None:
    findings = smoke_recipe().closed_rule_breaches()
    assert len(findings) == 4
    assert all(any(finding.startswith(key) for finding in findings)
               for key in ('architecture', 'pretrained_backbone', 'dataset', 'quality_target'))


def test_no_torch_is_imported() -> None:
    code = 'import sys, mlperf_det.recipes.retinanet; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
