"""Mask R-CNN recipes: the published ones are legal; each way to break a closed rule is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.errors import UserError
from mlperf_det.recipes.load import check, override
from mlperf_det.recipes.maskrcnn import builtin_recipes


@pytest.mark.parametrize('name', sorted(builtin_recipes().keys() - {'smoke'}))
def test_published_recipes_are_legal(name: str) -> None:
    recipe = builtin_recipes()[name]
    check(recipe)
    assert all(rule.kept for rule in recipe.closed_rules())
    # The warm-up of the weights starts at (nearly) zero: W times the factor is the base rate.
    assert recipe.warmup_steps * recipe.warmup_factor == pytest.approx(recipe.base_learning_rate, rel=0.005)


@pytest.mark.parametrize(('assignments', 'message'), [
    (['num_image_candidates=2000'], 'leaves 250 proposals an image; .* it must be 8000'),
    (['decay_steps=[12000, 16000]'], 'do not follow the batch of 128'),
    (['local_batch_size=4'], 'num_image_candidates'),
    (['base_learning_rate=0.13', 'warmup_factor=0.0002'], 'multiple of 0.02'),
    (['min_image_size=640'], 'min_image_size: 640, but it is 800'),
    (['max_image_size=1024'], 'max_image_size'),
    (['warmup_factor=0'], 'opt_learning_rate_warmup_factor'),
    (['warmup_factor=0.001'], 'would start below zero'),
    (['quality_target={bbox: 0.377}'], 'quality_target'),
    (['pretrained_backbone=false'], 'pretrained_backbone'),
])
def test_a_recipe_that_cannot_reach_the_target_legally_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(builtin_recipes()['lanta-4x4x8'], assignments)


@pytest.mark.parametrize(('assignment', 'message'), [
    ('num_image_candidates=2000', 'num_image_candidates: 2000 leaves 250 proposals an image; with 8 images'),
    ('nodes=8', 'decay_steps: [9000, 12000] do not follow the batch of 256'),
    ('warmup_factor=0.0003', 'warmup_factor: 625 steps of 0.0003 exceed the base rate 0.16'),
    ('max_steps=100', 'max_steps: 100, but a run ends at the quality target or at its last epoch'),
])
def test_training_is_refused_before_anything_is_touched(
        assignment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What costs accuracy without an error, or breaks a rule, ends `mlperf-det train` with one line."""
    status = main(['train', 'maskrcnn', '--recipe', 'lanta-4x4x8', '--set', assignment, '--data',
                   str(tmp_path / 'absent'), '--output', str(tmp_path / 'run')])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('k', range(6))
def test_milestones_may_be_stretched_by_tenths(k: int) -> None:
    decay = (int(7500 * (10 + k) / 10), int(1000 * (10 + k)))
    check(replace(builtin_recipes()['nvidia-4x8x4'], decay_steps=decay))


def test_the_smoke_recipe_is_open_and_fits_the_reduced_network() -> None:
    recipe = builtin_recipes()['smoke']
    check(recipe)
    assert not recipe.pretrained_backbone
    assert set(recipe.quality_target) == {'bbox', 'segm'}
    with pytest.raises(UserError, match='early_abort: what published runs have'):
        override(recipe, ['early_abort=true'])
