"""Which images make up which batch of Mask R-CNN: no batch mixes upright and wide images, so that little is padded.

Pure arithmetic, the same on every rank and after every resume. The rules are those of the MLPerf reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from mlperf_det.data.sampler import BatchPlan, epoch_permutation


def steps_per_epoch(samples: int, batch_size: int, world_size: int) -> int:
    """Return the iterations that count as an epoch; published logs agree (117,266 images, batch 96: 1222)."""
    return samples // (batch_size * world_size) + 1


def training_plans(upright: NDArray[np.bool_], *, seed: int, epoch: int, skip: int, rank: int, world_size: int,
                   batch_size: int) -> Iterator[BatchPlan]:
    """Yield this rank's batches of an epoch, from batch ``skip`` on; on every rank as many.

    Batches come from an endless row of passes over the images. A pass takes one permutation, gives each rank a
    contiguous share (padded by wrap-around), and cuts the upright and the wide images of a share into batches, whose
    last ones may be short; batches come in the order of their first image. An epoch is a number of iterations, so
    passes and epochs drift apart by a few batches.

    Args:
        upright: (samples,) whether the height is at least the width.
        seed: of the run, the same on all ranks.
        epoch: from 0.
        skip: batches to leave out at the start.
        rank: of this process.
        world_size: processes that share a pass.
        batch_size: images in a batch of one rank.
    """
    steps = steps_per_epoch(len(upright), batch_size, world_size)
    position, remaining = epoch * steps + skip, steps - skip
    share = -(-len(upright) // world_size)
    for number in count():
        order = np.resize(epoch_permutation(len(upright), seed, number), share * world_size)
        mine = order[rank * share:(rank + 1) * share]
        batches = _batch_count(upright[mine], batch_size)
        if position >= batches:
            position -= batches
            continue
        # Positions count through the rank's share, batch by batch, so no two samples of a pass have the same.
        start = rank * share
        for index, samples in enumerate(_by_aspect(mine, upright, batch_size)):
            if index >= position and remaining > 0:
                yield BatchPlan(samples=samples, seed=seed, epoch=number, position=start)
                remaining -= 1
            start += len(samples)
        position = 0
        if remaining <= 0:
            return


def evaluation_plans(upright: NDArray[np.bool_], *, rank: int, world_size: int, batch_size: int) -> Iterator[BatchPlan]:
    """Yield this rank's batches of evaluation: grouped alike, each image on exactly one rank, once."""
    for samples in _by_aspect(np.arange(rank, len(upright), world_size), upright, batch_size):
        yield BatchPlan(samples=samples)


def _by_aspect(order: NDArray[np.int64], upright: NDArray[np.bool_], batch_size: int) -> list[NDArray[np.int64]]:
    """Return batches of one aspect each, in the order of their first samples."""
    batches = []
    for group in (False, True):
        places = np.flatnonzero(upright[order] == group)
        batches += [places[start:start + batch_size] for start in range(0, len(places), batch_size)]
    batches.sort(key=lambda places: int(places[0]))
    return [order[places] for places in batches]


def _batch_count(upright: NDArray[np.bool_], batch_size: int) -> int:
    tall = int(upright.sum())
    return -(-tall // batch_size) - (-(len(upright) - tall) // batch_size)
