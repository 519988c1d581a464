"""Recipes: found, overridden, refused with the file, the field and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import builtin_recipes, check, find_recipe, override, recipes_of, to_mapping
from mlperf_det.recipes.recipe import Division, Tier
from mlperf_det.recipes.ssd import SsdRecipe


@pytest.mark.parametrize('name', sorted(builtin_recipes('ssd')))
def test_every_builtin_recipe_can_run_and_keeps_its_division(name: str) -> None:
    check(builtin_recipes('ssd')[name])


@pytest.mark.parametrize(('name', 'batch', 'peak', 'warmup'), [
    ('fujitsu-1x4x114', 456, 0.04498725, 771),
    ('nvidia-1x8x114', 912, 0.0899745, 642),
    ('reference-1x8x128', 1024, 0.08, 299),
    ('dell-1x4x114-40gb', 456, 0.0406125, 1350),
    ('dell-1x10x114', 1140, 0.1425, 514),
    ('dell-8x4x48', 1536, 0.168, 1145),
])
def test_published_rates_and_warmups(name: str, batch: int, peak: float, warmup: int) -> None:
    recipe = find_recipe('ssd', name)
    assert isinstance(recipe, SsdRecipe)
    assert recipe.global_batch_size == batch
    assert recipe.base_learning_rate == pytest.approx(peak, rel=1e-12)
    assert recipe.warmup_steps(117_266) == warmup


def test_overrides_convert_text_to_the_type_of_the_field() -> None:
    recipe = override(find_recipe('ssd', 'smoke'), [
        'learning_rate_per_32=1e-4', 'epochs=3', 'evaluation_epochs=[1, 2]', 'runtime.precision=fp32',
        'quality_target={bbox: 0.4}', 'max_steps=null'])
    assert isinstance(recipe, SsdRecipe)
    assert (recipe.learning_rate_per_32, recipe.epochs, recipe.evaluation_epochs) == (1e-4, 3, (1, 2))
    assert recipe.runtime.precision == 'fp32'
    assert recipe.runtime.log_interval == find_recipe('ssd', 'smoke').runtime.log_interval
    assert recipe.quality_target == {'bbox': 0.4}


@pytest.mark.parametrize(('assignment', 'message'), [
    ('epoch=3', r"unknown field 'epoch'; did you mean 'epochs'\?"),
    ('runtime.precison=fp32', r"--set.runtime: unknown field 'precison'; did you mean 'precision'\?"),
    ('runtime.precision=fp8', 'runtime.precision'),
    ('epochs=many', 'epochs'),
    ('epochs=0', 'epochs: 0 is not a positive number'),
    ('epochs', 'write field=value'),
    ('quality_target={bbox: 23}', '23.0 is not a fraction'),
    ('quality_target={}', 'can prove nothing'),
    ('decay_epochs=[50, 40]', 'must rise'),
    ('evaluation_interval=1000', 'never be evaluated'),
])
def test_bad_overrides_name_the_field(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(find_recipe('ssd', 'smoke'), [assignment])


@pytest.mark.parametrize(('assignment', 'rule'), [
    ('decay_epochs=[41, 55]', 'times 1 \\+ K/10'),
    ('architecture=ssd_smoke', 'the model is ssd300_resnet34'),
    ('dataset=generated-coco', 'the data is coco2017'),
    ('quality_target={bbox: 0.22}', 'quality_target: .* but it is'),
    ('evaluation_interval=10', 'every fifth after'),
])
def test_a_closed_recipe_that_breaks_a_rule_is_refused_and_an_open_one_is_not(assignment: str, rule: str) -> None:
    recipe = find_recipe('ssd', 'nvidia-1x8x114')
    with pytest.raises(UserError, match=rule):
        override(recipe, [assignment])
    assert override(recipe, [assignment, 'division=open']).division is Division.OPEN


def test_random_weights_never_reach_the_convergence_tier() -> None:
    with pytest.raises(UserError, match='pretrained_backbone'):
        override(find_recipe('ssd', 'nvidia-1x8x114'), ['pretrained_backbone=false', 'division=open'])


def test_throughput_tier_keeps_model_and_batch() -> None:
    recipe = find_recipe('ssd', 'nvidia-1x8x114')
    short = override(recipe, ['tier=throughput', 'division=open', 'max_steps=50'])
    check(short)
    assert (short.tier, short.max_steps, short.global_batch_size) == (Tier.THROUGHPUT, 50, 912)


def test_a_site_recipe_states_only_what_differs(tmp_path: Path) -> None:
    file = tmp_path / 'recipes.yaml'
    file.write_text('ssd:\n  ours:\n    base: nvidia-1x8x114\n    walltime_minutes: 25\n    weight_decay: 1e-4\n')
    recipe = find_recipe('ssd', 'ours', file=file)
    assert isinstance(recipe, SsdRecipe)
    assert (recipe.name, recipe.walltime_minutes, recipe.weight_decay) == ('ours', 25, 1e-4)
    assert recipe.global_batch_size == 912
    assert list(recipes_of('ssd', file=file)) == ['ours']


@pytest.mark.parametrize(('content', 'message'), [
    ('ssd:\n  a: {base: nope}\n', r'ssd\.a\.base'),
    ('ssd:\n  a: {base: smoke, epoch: 1}\n', "unknown field 'epoch'"),
    ('ssd:\n  a: 3\n', 'must be a mapping'),
    ('sdd: {}\n', "did you mean 'ssd'"),
    ('- a\n', 'must be a mapping of benchmark'),
    ('ssd: [\n', 'not YAML'),
])
def test_a_wrong_recipes_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / 'recipes.yaml'
    file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        recipes_of('ssd', file=file)
    assert str(file) in str(caught.value)


def test_unknown_names_and_files() -> None:
    with pytest.raises(UserError, match='cannot be read'):
        recipes_of('ssd', file=Path('/nonexistent/recipes.yaml'))
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        find_recipe('ssd', 'smok')
    with pytest.raises(UserError, match='not a benchmark'):
        builtin_recipes('yolo')


def test_a_recipe_survives_the_way_through_plain_values() -> None:
    import msgspec
    recipe = find_recipe('ssd', 'fujitsu-1x4x114')
    assert msgspec.convert(to_mapping(recipe), SsdRecipe) == recipe
