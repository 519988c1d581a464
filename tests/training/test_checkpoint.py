from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import ToyRecipe

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    Position,
    check_resumable,
    random_state,
    read_checkpoint,
    recipe_digest,
    restore_random_state,
)

CPU = torch.device('cpu')


def make(step: int) -> Checkpoint:
    return Checkpoint(
        position=Position(step=step, epoch=1, iteration=3, evaluation_due=True), seed=7,
        model={'weight': torch.full((2, 2), float(step))}, optimizer={'state': {}, 'param_groups': [{'lr': 0.1}]},
        scaler={}, rank_states=[{'random': random_state(CPU), 'buffers': {}}], log_offset=11, metrics_offset=12,
        recipe=to_mapping(ToyRecipe()), dataset_fingerprint='f')


def test_what_is_saved_is_read_back_without_running_code(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = store.save(make(5))
    found, notices = store.find_newest()
    assert (found, notices) == (path, [])
    checkpoint = read_checkpoint(path)
    assert checkpoint.position == make(5).position
    assert torch.equal(checkpoint.model['weight'], torch.full((2, 2), 5.0))
    assert isinstance(torch.load(path, weights_only=True), dict)
    check_resumable(checkpoint, ToyRecipe(), 1, 'f')


def test_the_newest_two_stay_and_nothing_half_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (9, 10, 100):
        store.save(make(step))
    assert sorted(path.name for path in store.folder.iterdir()) == [
        'step_000000010.pt', 'step_000000010.pt.sha256', 'step_000000100.pt', 'step_000000100.pt.sha256']


@pytest.mark.parametrize('damage', ['cut', 'flip', 'no checksum'])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    before, newest = store.save(make(1)), store.save(make(2))
    content = newest.read_bytes()
    if damage == 'cut':
        newest.write_bytes(content[:-10])
    elif damage == 'flip':
        newest.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        newest.with_name(newest.name + '.sha256').unlink()
    found, notices = store.find_newest()
    assert found == before
    assert len(notices) == 1
    assert str(newest) in notices[0]
    before.unlink()
    with pytest.raises(UserError, match='every checkpoint is damaged'):
        store.find_newest()


def test_random_numbers_go_on_where_they_were() -> None:
    state = random_state(CPU)
    first = torch.rand(3), np.random.random(3)
    restore_random_state(state, CPU)
    again = torch.rand(3), np.random.random(3)
    assert torch.equal(first[0], again[0])
    assert (first[1] == again[1]).all()


@pytest.mark.parametrize(('recipe', 'ranks', 'fingerprint', 'named'), [
    (ToyRecipe(learning_rate=0.1), 1, 'f', 'learning_rate was 0.05, now it is 0.1'),
    (ToyRecipe(runtime=Runtime(precision='bf16', poll_interval=2, log_interval=1)), 1, 'f', 'runtime.precision was'),
    (ToyRecipe(quality_target={'bbox': 0.1}), 1, 'f', 'quality_target.bbox'),
    (ToyRecipe(), 2, 'f', 'started on 1 ranks, now there are 2'),
    (ToyRecipe(), 1, 'g', 'fingerprint g')])
def test_another_recipe_world_or_dataset_is_refused_by_name(
        recipe: ToyRecipe, ranks: int, fingerprint: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_resumable(make(1), recipe, ranks, fingerprint)


def test_what_does_not_change_the_run_may_change() -> None:
    recipe = dataclasses.replace(ToyRecipe(), walltime_minutes=99)
    check_resumable(make(1), recipe, 1, 'f')
    assert recipe_digest(recipe) == recipe_digest(ToyRecipe()) != recipe_digest(ToyRecipe(epochs=9))
