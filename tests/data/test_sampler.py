"""Plans: every sample once, the same global batches whatever the ranks, exact resumes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlperf_det.data.sampler import BatchPlan, epoch_permutation, evaluation_plans, steps_per_epoch, training_plans


def plans_of_all_ranks(samples: int, *, world_size: int, batch_size: int, skip: int = 0) -> list[list[BatchPlan]]:
    return [list(training_plans(samples, seed=7, epoch=2, skip=skip, rank=rank, world_size=world_size,
                                batch_size=batch_size)) for rank in range(world_size)]


@given(samples=st.integers(1, 300), world_size=st.integers(1, 5), batch_size=st.integers(1, 17))
def test_an_epoch_visits_every_sample_once_less_the_remainder(samples: int, world_size: int, batch_size: int) -> None:
    ranks = plans_of_all_ranks(samples, world_size=world_size, batch_size=batch_size)
    steps = steps_per_epoch(samples, batch_size, world_size)
    assert [len(plans) for plans in ranks] == [steps] * world_size
    visited = [int(sample) for plans in ranks for plan in plans for sample in plan.samples]
    assert len(set(visited)) == len(visited), 'a sample was repeated'
    assert 0 <= samples - len(visited) < world_size
    for step in range(steps):
        sizes = {len(plans[step].samples) for plans in ranks}
        assert len(sizes) == 1, 'ranks of one step have batches of different sizes'
        assert sizes == {batch_size} or step == steps - 1
        assert sizes != {0}


@pytest.mark.parametrize(('samples', 'batch_size', 'world_size', 'steps'), [
    # SSD300 on COCO 2017: 117,266 images at the global batches of MLPerf submissions.
    (117266, 32, 1, 3665), (117266, 57, 8, 258), (117266, 114, 8, 129), (117266, 128, 8, 115), (117266, 24, 64, 77),
    (117266, 24, 128, 39),
    (10, 4, 1, 3), (8, 4, 2, 1), (9, 4, 2, 1), (10, 4, 2, 2), (1, 4, 2, 0),
])
def test_steps_per_epoch(samples: int, batch_size: int, world_size: int, steps: int) -> None:
    assert steps_per_epoch(samples, batch_size, world_size) == steps


def test_two_ranks_see_together_what_one_rank_with_the_doubled_batch_sees() -> None:
    (one,) = plans_of_all_ranks(102, world_size=1, batch_size=16)
    first, second = plans_of_all_ranks(102, world_size=2, batch_size=8)
    for whole, left, right in zip(one, first, second, strict=True):
        np.testing.assert_array_equal(whole.samples, np.concatenate([left.samples, right.samples]))
        draws = [plan.rng(i).random() for plan in (left, right) for i in range(len(plan.samples))]
        assert draws == [whole.rng(i).random() for i in range(len(whole.samples))]


def test_skipping_continues_the_same_epoch() -> None:
    (full,), (rest,) = (plans_of_all_ranks(50, world_size=1, batch_size=8, skip=skip) for skip in (0, 3))
    assert len(rest) == len(full) - 3
    for ours, theirs in zip(rest, full[3:], strict=True):
        np.testing.assert_array_equal(ours.samples, theirs.samples)
        assert ours.rng(1).random() == theirs.rng(1).random()


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = {epoch_permutation(40, seed, epoch).tobytes() for seed in range(3) for epoch in range(4)}
    assert len(orders) == 12


def test_the_randomness_of_a_sample_depends_on_seed_epoch_and_position() -> None:
    draws = {BatchPlan(samples=np.arange(2), seed=seed, epoch=epoch, position=position).rng(0).random()
             for seed in range(3) for epoch in range(3) for position in range(3)}
    assert len(draws) == 27
    shifted = BatchPlan(samples=np.arange(2), seed=1, epoch=1, position=4).rng(1).random()
    assert shifted == BatchPlan(samples=np.arange(2), seed=1, epoch=1, position=5).rng(0).random()


@given(samples=st.integers(1, 300), world_size=st.integers(1, 9), batch_size=st.integers(1, 40))
def test_evaluation_visits_every_sample_exactly_once(samples: int, world_size: int, batch_size: int) -> None:
    visited = [sample for rank in range(world_size)
               for plan in evaluation_plans(samples, rank=rank, world_size=world_size, batch_size=batch_size)
               for sample in plan.samples.tolist()]
    assert sorted(visited) == list(range(samples))
