"""Which images make up which batch: pure arithmetic, the same on every rank and after every resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The samples of one batch of one rank, and where their randomness comes from.

    Attributes:
        samples: (N,) int64, indices into the source.
        seed: of the run.
        epoch: from 0.
        position: of the first sample in the epoch's order; the others follow it.
    """

    samples: NDArray[np.int64]
    seed: int = 0
    epoch: int = 0
    position: int = 0

    def rng(self, index: int) -> np.random.Generator:
        """Return the generator of the ``index``-th sample: a function of seed, epoch and position alone."""
        key = (self.epoch, self.position + index)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def steps_per_epoch(samples: int, batch_size: int, world_size: int) -> int:
    """Return the training batches of an epoch, the same on all ranks.

    The last batch may be partial; a remainder that would leave a rank without an image is dropped.
    """
    full, rest = divmod(samples, batch_size * world_size)
    return full + (rest >= world_size)


def training_plans(
    samples: int, *, seed: int, epoch: int, skip: int, rank: int, world_size: int, batch_size: int,
) -> Iterator[BatchPlan]:
    """Yield this rank's batches of an epoch, from batch ``skip`` on.

    The epoch's permutation is cut into global batches of ``world_size * batch_size``, and each of these into
    contiguous shares, so two ranks see together what one rank with the doubled batch sees. The last, partial global
    batch is shared out evenly, which leaves out fewer than ``world_size`` images; nothing is repeated.
    """
    permutation = epoch_permutation(samples, seed, epoch)
    global_batch = batch_size * world_size
    for step in range(skip, steps_per_epoch(samples, batch_size, world_size)):
        share = min(global_batch, samples - step * global_batch) // world_size
        start = step * global_batch + rank * share
        yield BatchPlan(samples=permutation[start:start + share], seed=seed, epoch=epoch, position=start)


def evaluation_plans(samples: int, *, rank: int, world_size: int, batch_size: int) -> Iterator[BatchPlan]:
    """Yield this rank's batches: every ``world_size``-th sample, each sample on exactly one rank."""
    share = np.arange(rank, samples, world_size)
    for start in range(0, len(share), batch_size):
        yield BatchPlan(samples=share[start:start + batch_size])


def epoch_permutation(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the samples."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    return rng.permutation(samples)
