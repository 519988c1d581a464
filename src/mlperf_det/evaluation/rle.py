"""COCO's compressed run-length encoding of masks: is it whole?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlperf_det.evaluation.rows import Rle


def are_sound(rles: Sequence[Rle]) -> NDArray[np.bool_]:
    """Say of each compressed RLE whether its runs add up to its size; engines score damaged masks without a word.

    The encoding (``rleToString`` of the COCO API): a number is a group of characters, 5 bits each from the lowest, 48
    added; bit 5 says that another follows, bit 4 of the last is the sign. From the fourth number on a number is the
    difference to the one two before. Runs of negative length that cancel out are not found.

    Returns:
        (M,) bool.
    """
    strings = [c.encode() if isinstance(c := rle['counts'], str) else bytes(c) for rle in rles]
    lengths = np.array([len(s) for s in strings], dtype=np.int64)
    codes = np.frombuffer(b''.join(strings), dtype=np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(rles)), lengths)
    last = codes & 0x20 == 0
    sound = np.ones(len(rles), dtype=bool)
    sound[owner[(codes < 0) | (codes > 63)]] = False
    ends = np.cumsum(lengths)
    # A mask must end with the last character of a number; marking that end keeps its neighbours readable.
    filled = lengths > 0
    sound[~filled] = False
    sound[filled] &= last[ends[filled] - 1]
    last[ends[filled] - 1] = True
    totals = _run_totals(codes, last, owner, len(rles), sound)
    sizes = np.array([rle['size'] for rle in rles], dtype=np.int64).reshape(-1, 2)
    sound &= totals == sizes[:, 0] * sizes[:, 1]
    return sound


def _run_totals(codes: NDArray[np.int64], last: NDArray[np.bool_], owner: NDArray[np.int64], masks: int,
                sound: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the sum of the run lengths of each mask; marks masks with numbers of over 6 characters as unsound."""
    number_ends = np.flatnonzero(last)
    number_starts = np.concatenate([[0], number_ends[:-1] + 1])[:len(number_ends)]
    position = np.arange(len(codes)) - np.repeat(number_starts, number_ends - number_starts + 1)
    sound[owner[position > 5]] = False
    position = np.minimum(position, 5)
    values = (codes & 0x1f) << (5 * position)
    values -= np.where(last & (codes & 0x10 != 0), 32 << (5 * position), 0)
    numbers = np.add.reduceat(values, number_starts) if len(values) else values
    of_mask = owner[number_ends]
    count = np.bincount(of_mask, minlength=masks)
    rank = np.arange(len(numbers)) - np.repeat(np.cumsum(count) - count, count)
    # A difference counts in its own run and in every second one after it; the first run stands alone.
    times = np.where(rank == 0, 1, (count[of_mask] - 1 - rank) // 2 + 1)
    return np.bincount(of_mask, weights=numbers * times, minlength=masks).astype(np.int64)
