"""Plans of Mask R-CNN: one aspect a batch, equal steps on all ranks, exact resumes, every image in every pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlperf_det.data.aspect_sampler import evaluation_plans, steps_per_epoch, training_plans
from mlperf_det.data.sampler import BatchPlan, epoch_permutation

ASPECTS = st.lists(st.booleans(), min_size=1, max_size=120).map(np.array)


def plans_of(upright: np.ndarray, *, epoch: int = 0, skip: int = 0, rank: int = 0, world_size: int = 1,
             batch_size: int = 4) -> list[BatchPlan]:
    return list(training_plans(upright, seed=5, epoch=epoch, skip=skip, rank=rank, world_size=world_size,
                               batch_size=batch_size))


# Iterations an epoch of MLPerf v0.7 submissions on COCO 2017 at their global batches.
@pytest.mark.parametrize(('global_batch', 'steps'), [
    (8, 14659), (16, 7330), (32, 3665), (48, 2444), (64, 1833), (96, 1222), (100, 1173), (128, 917), (192, 611),
    (256, 459), (272, 432)])
def test_steps_of_published_runs(global_batch: int, steps: int) -> None:
    assert steps_per_epoch(117266, global_batch, 1) == steps
    assert steps_per_epoch(117266, 1, global_batch) == steps


@settings(max_examples=60, deadline=None)
@given(upright=ASPECTS, world_size=st.integers(1, 5), batch_size=st.integers(1, 9), epoch=st.integers(0, 4))
def test_batches_have_one_aspect_and_ranks_as_many(upright: np.ndarray, world_size: int, batch_size: int,
                                                   epoch: int) -> None:
    for rank in range(world_size):
        plans = plans_of(upright, epoch=epoch, rank=rank, world_size=world_size, batch_size=batch_size)
        assert len(plans) == len(upright) // (batch_size * world_size) + 1
        for plan in plans:
            assert 1 <= len(plan.samples) <= batch_size
            assert len(set(upright[plan.samples].tolist())) == 1


@settings(max_examples=40, deadline=None)
@given(upright=ASPECTS, batch_size=st.integers(1, 9), world_size=st.integers(1, 3))
def test_passes_follow_on_each_other_and_each_visits_every_image(upright: np.ndarray, batch_size: int,
                                                                 world_size: int) -> None:
    passes: dict[int, list[np.ndarray]] = {}
    draws: dict[int, list[float]] = {}
    epochs = 2 + 3 * world_size
    for rank in range(world_size):
        plans = [plan for epoch in range(epochs) for plan in plans_of(
            upright, epoch=epoch, rank=rank, world_size=world_size, batch_size=batch_size)]
        numbers = [plan.epoch for plan in plans]
        assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(numbers))
        for plan in plans:
            passes.setdefault(plan.epoch, []).append(plan.samples)
            draws.setdefault(plan.epoch, []).extend(plan.rng(i).random() for i in range(len(plan.samples)))
    visited = np.concatenate(passes[0])
    assert set(visited.tolist()) == set(range(len(upright)))
    assert len(visited) == world_size * -(-len(upright) // world_size), 'padded to equal shares, no more'
    assert all(len(set(values)) == len(values) for values in draws.values()), 'two samples share their randomness'


def test_a_pass_orders_batches_by_their_first_image() -> None:
    upright = np.random.default_rng().random(101) < 0.4
    plans = [plan for epoch in range(2) for plan in plans_of(upright, epoch=epoch) if plan.epoch == 0]
    order = np.concatenate([plan.samples for plan in plans])
    place = np.argsort(epoch_permutation(101, 5, 0))
    firsts = [place[plan.samples[0]] for plan in plans]
    assert firsts == sorted(firsts)
    assert sorted(order.tolist()) == list(range(101))
    for aspect in (False, True):
        of_one = [place[sample] for sample in order if upright[sample] == aspect]
        assert of_one == sorted(of_one), 'within a group the order is that of the permutation'


@settings(max_examples=40, deadline=None)
@given(upright=ASPECTS, epoch=st.integers(0, 6), skip=st.integers(0, 9), rank=st.integers(0, 1))
def test_a_resume_continues_the_same_epoch(upright: np.ndarray, epoch: int, skip: int, rank: int) -> None:
    full = plans_of(upright, epoch=epoch, rank=rank, world_size=2)
    rest = plans_of(upright, epoch=epoch, rank=rank, world_size=2, skip=skip)
    assert len(rest) == max(0, len(full) - skip)
    for ours, theirs in zip(rest, full[skip:], strict=True):
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.rng(0).random() == theirs.rng(0).random()


@given(upright=ASPECTS, world_size=st.integers(1, 9), batch_size=st.integers(1, 40))
def test_evaluation_visits_every_image_exactly_once(upright: np.ndarray, world_size: int, batch_size: int) -> None:
    plans = [plan for rank in range(world_size)
             for plan in evaluation_plans(upright, rank=rank, world_size=world_size, batch_size=batch_size)]
    visited = [sample for plan in plans for sample in plan.samples.tolist()]
    assert sorted(visited) == list(range(len(upright)))
    assert all(len(set(upright[plan.samples].tolist())) == 1 for plan in plans)
