"""Mask R-CNN recipes: the published ones are legal; each way to break a closed rule is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.errors import UserError
from mlperf_det.recipes.load import check, override
from mlperf_det.recipes.maskrcnn import builtin_recipes
from mlperf_det.recipes.rules_table import rules_table


@pytest.mark.parametrize('name', sorted(builtin_recipes().keys() - {'smoke'}))
def test_published_recipes_are_legal(name: str) -> None:
    recipe = builtin_recipes()[name]
    check(recipe)
    assert all(rule.kept for rule in recipe.closed_rules())
    # The warm-up of the weights starts at (nearly) zero: W times the factor is the base rate.
    assert recipe.warmup_steps * recipe.warmup_factor == pytest.approx(recipe.base_learning_rate, rel=0.005)


# Configurations of MLPerf v0.7 and of later rounds: nodes, accelerators, images of each, rate, warm-up steps and
# factor, milestones, proposals; and the epochs that the most iterations of the configuration allow.
@pytest.mark.parametrize(('name', 'expected'), [
    ('nvidia-1x8x6', (1, 8, 6, 0.06, 625, 0.000096, (24_000, 32_000), 6_000, 80_000 // 2444)),
    ('nvidia-1x8x8', (1, 8, 8, 0.08, 800, 0.0001, (18_000, 24_000), 8_000, 40_000 // 1833)),
    ('nvidia-1x16x6', (1, 16, 6, 0.12, 625, 0.000192, (12_000, 16_000), 6_000, 42_000 // 1222)),
    ('nvidia-2x8x6', (2, 8, 6, 0.12, 625, 0.000192, (12_000, 16_000), 6_000, 42_000 // 1222)),
    ('nvidia-4x16x2', (4, 16, 2, 0.16, 625, 0.000256, (9_000, 12_000), 2_000, 40_000 // 917)),
    ('nvidia-4x8x4', (4, 8, 4, 0.16, 625, 0.000256, (9_000, 12_000), 4_000, 40_000 // 917)),
    ('nvidia-16x16x1', (16, 16, 1, 0.24, 1800, 0.000133, (5_625, 7_500), 1_000, 40_000 // 459)),
    ('nvidia-32x8x1', (32, 8, 1, 0.24, 1800, 0.000133, (5_625, 7_500), 1_000, 40_000 // 459)),
    ('nvidia-1x8x12', (1, 8, 12, 0.12, 625, 0.000192, (12_000, 16_000), 12_000, 42_000 // 1222)),
    ('dell-1x4x12', (1, 4, 12, 0.06, 625, 0.000096, (24_000, 32_000), 12_000, 80_000 // 2444)),
    ('dell-1x4x24', (1, 4, 24, 0.12, 625, 0.000192, (12_000, 16_000), 24_000, 42_000 // 1222)),
    ('azure-34x8x1', (34, 8, 1, 0.24, 1800, 0.000133, (5_294, 7_058), 1_000, 40_000 // 432)),
    ('nvidia-1x2x4', (1, 2, 4, 0.01, 500, 0.00002, (144_000, 192_000), 4_000, 20)),
    # ThaiSC's shape: the rates of the published runs at its batch.
    ('lanta-4x4x8', (4, 4, 8, 0.16, 625, 0.000256, (9_000, 12_000), 8_000, 40_000 // 917)),
    ('lanta-4x4x6', (4, 4, 6, 0.12, 625, 0.000192, (12_000, 16_000), 6_000, 42_000 // 1222)),
])
def test_published_configurations(name: str, expected: tuple[object, ...]) -> None:
    r = builtin_recipes()[name]
    assert (r.nodes, r.accelerators_per_node, r.local_batch_size, r.base_learning_rate, r.warmup_steps,
            r.warmup_factor, r.decay_steps, r.num_image_candidates, r.epochs) == expected
    assert (r.quality_target, r.min_image_size, r.max_image_size) == ({'bbox': 0.377, 'segm': 0.339}, 800, 1333)
    assert r.experiments == 5


# The rule's key -> a recipe that keeps every other one.
BREACHES: dict[str, dict[str, object]] = {
    'max_steps': {'max_steps': 917},
    'architecture': {'architecture': 'maskrcnn_smoke'},
    'pretrained_backbone': {'pretrained_backbone': False},
    'dataset': {'dataset': 'generated-coco'},
    'quality_target': {'quality_target': {'bbox': 0.377, 'segm': 0.338}},
    'opt_base_learning_rate': {'base_learning_rate': 0.161},
    'opt_learning_rate_warmup_steps': {'warmup_steps': -1},
    'opt_learning_rate_warmup_factor': {'warmup_factor': 0.0},
    'opt_learning_rate_decay_steps': {'decay_steps': (9_000, 12_001)},
    'num_image_candidates': {'num_image_candidates': 4_000},
    'min_image_size': {'min_image_size': 799},
    'max_image_size': {'max_image_size': 1_344},
}


@pytest.mark.parametrize('key', BREACHES)
def test_each_closed_rule_can_be_broken_alone_and_is_then_named(key: str) -> None:
    recipe = replace(builtin_recipes()['lanta-4x4x8'], **BREACHES[key])
    assert [rule.key for rule in recipe.closed_rules() if not rule.kept] == [key]
    assert f'BREACH  {key} ' in rules_table(recipe)
    with pytest.raises(UserError, match=r'recipe: '):
        check(recipe)


def test_no_closed_rule_is_left_out_above() -> None:
    assert [rule.key for rule in builtin_recipes()['lanta-4x4x8'].closed_rules()] == list(BREACHES)


@pytest.mark.parametrize(('rate', 'ruleset', 'batch', 'legal'), [
    (0.14, '0.7.0', 128, True), (0.28, '3.1.0', 128, True),  # no exact multiples of 0.02 in floating point
    (0.020000001, '0.7.0', 128, True), (0.0201, '0.7.0', 128, False), (0.01, '0.7.0', 8, False),
    (0.01, '1.1.0', 8, False), (0.01, '2.0.0', 8, True), (0.01, '3.1.0', 16, False), (0.015, '2.0.0', 8, False),
])
def test_rates_are_those_that_the_checker_of_the_round_takes(
        rate: float, ruleset: str, batch: int, legal: bool) -> None:
    recipe = replace(builtin_recipes()['nvidia-1x2x4'], base_learning_rate=rate, ruleset=ruleset,
                     local_batch_size=batch // 2)
    rule = next(rule for rule in recipe.closed_rules() if rule.key == 'opt_base_learning_rate')
    assert rule.kept == legal


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
    (['ruleset=4.0.0'], r'ruleset: 4\.0\.0 does not have this benchmark; choose one of 0\.7\.0, .*3\.1\.0$'),
    (['ruleset=latest'], 'ruleset: latest does not have this benchmark'),
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
