"""Bring the detections of all ranks to rank 0 and prove that each image was inferred exactly once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import distributed as dist

from mlperf_det.evaluation.rows import DetectionRows, concatenate, pack, unpack

#: image ids shown in an error
_SHOWN = 5


class CoverageError(RuntimeError):
    """Images were inferred never or more than once, so the score would not be that of the split."""


def gather_rows(rows: DetectionRows, group: dist.ProcessGroup | None, *,
                expected_image_ids: ArrayLike) -> DetectionRows | None:
    """Gather the rows of all ranks, in rank order, and check their coverage. A collective call.

    Args:
        rows: what this rank detected.
        group: a gloo group (tensors stay on the CPU); None: a single process, nothing is sent.
        expected_image_ids: (I,) int64, the images of the split; only rank 0's count.

    Returns:
        All rows on the group's first rank, None on the others.

    Raises:
        CoverageError: on every rank, when the images seen are not exactly the expected ones.
    """
    world_size = 1 if group is None else dist.get_world_size(group)
    if group is None or world_size == 1:
        check_coverage(rows.seen_image_ids, expected_image_ids)
        return rows
    rank = dist.get_rank(group)
    payload = torch.frombuffer(bytearray(pack(rows)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([payload.numel()]), group=group)
    first = dist.get_global_rank(group, 0)
    gathered: DetectionRows | None = None
    problem = ''
    if rank == 0:
        parts = [rows]
        for source in range(1, world_size):
            buffer = torch.empty(int(sizes[source]), dtype=torch.uint8)
            dist.recv(buffer, src=dist.get_global_rank(group, source), group=group)
            parts.append(unpack(buffer.numpy().data))
        gathered = concatenate(parts)
        try:
            check_coverage(gathered.seen_image_ids, expected_image_ids)
        except CoverageError as error:
            problem = str(error)
    else:
        dist.send(payload, dst=first, group=group)
    # All ranks learn of the problem, so that none waits for a rank that has raised.
    verdict = [problem]
    dist.broadcast_object_list(verdict, src=first, group=group)
    if verdict[0]:
        raise CoverageError(verdict[0])
    return gathered


def check_coverage(seen_image_ids: ArrayLike, expected_image_ids: ArrayLike) -> None:
    """Check that the images seen are the expected ones, each once.

    Raises:
        CoverageError: names how many images are missing, repeated or foreign, and the first of them.
    """
    seen, counts = np.unique(np.asarray(seen_image_ids, dtype=np.int64), return_counts=True)
    expected = np.unique(np.asarray(expected_image_ids, dtype=np.int64))
    problems = [
        f'{len(ids)} {what} (ids {_first(ids)})' for what, ids in (
            ('not inferred', np.setdiff1d(expected, seen, assume_unique=True)),
            ('inferred more than once', seen[counts > 1]),
            ('not in the annotation file', np.setdiff1d(seen, expected, assume_unique=True))) if len(ids)]
    if problems:
        raise CoverageError(f'evaluation does not cover the {len(expected)} images of the split exactly once: '
                            + '; '.join(problems) + '; check the evaluation sampler and the dataset folder')


def _first(ids: NDArray[np.int64]) -> str:
    return ', '.join(map(str, ids[:_SHOWN].tolist())) + (', ...' if len(ids) > _SHOWN else '')
