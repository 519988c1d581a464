"""Mask probabilities to COCO run lengths inside the box, without an image-sized array; equal to pasting and encoding.

The rule is that of the MLPerf Mask R-CNN reference: the mask gets a border of one zero pixel, the box grows about its
centre by as much (30 / 28), its edges are truncated to whole pixels, the mask is resized bilinearly to it, and what
exceeds 0.5 is the object.

A run begins or ends where the resized mask crosses 0.5. In a column it is linear between the 30 rows of the mask, so
the crossings of all columns of many masks are computed at once, and nothing in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from mlperf_det.evaluation.rows import MaskEncoder, Rle

THRESHOLD = 0.5
_BORDER = 1
#: What PyTorch's float32 resize may differ by from the exact one: in positions, of up to 30 cells (the spacing of
#: float32 there is 2e-6), and in values. A value nearer to the threshold than that may round to either side.
_POSITION_ERROR, _VALUE_ERROR = 3e-6, 3e-7
#: Masks whose columns are in memory at a time.
_MASKS_AT_ONCE = 64


def encode_masks(mask_probs: NDArray[np.float32], boxes: NDArray[np.floating], height: ArrayLike, width: ArrayLike, *,
                 threads: int = 1) -> list[Rle]:
    """Return the COCO RLE of each mask in its image; ``counts`` is compressed, as bytes.

    Args:
        mask_probs: (K, 28, 28) float32, probabilities.
        boxes: (K, 4) left, top, right, bottom in pixels of the image, half-open: the reference's inclusive right and
            bottom plus 1, as `models.detections.Detections` has them.
        height: of the image in pixels, or (K,) of the image of each mask.
        width: alike.
        threads: that share the masks; NumPy lets them run at the same time.
    """
    count = len(mask_probs)
    placed = _place(boxes, np.broadcast_to(height, count), np.broadcast_to(width, count), mask_probs.shape[-1])
    bordered = np.pad(mask_probs, ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER)))
    chunks = [slice(start, start + _MASKS_AT_ONCE) for start in range(0, count, _MASKS_AT_ONCE)]
    encode = partial(_encode_chunk, bordered, placed)
    if min(threads, len(chunks)) <= 1:
        return [rle for chunk in chunks for rle in encode(chunk)]
    with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
        return [rle for rles in pool.map(encode, chunks) for rle in rles]


def mask_encoder(sizes: ArrayLike, *, threads: int = 1) -> MaskEncoder:
    """Return what `rows.rows_from_detections` encodes the masks of a batch with.

    Args:
        sizes: (N, 2) height and width of the batch's original images.
        threads: as in `encode_masks`.
    """
    heights, widths = np.asarray(sizes, dtype=np.int64).T

    def encode(masks: NDArray[np.float32], boxes: NDArray[np.float64], images: NDArray[np.int64]) -> Sequence[Rle]:
        return encode_masks(masks, boxes, heights[images], widths[images], threads=threads)

    return encode


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where K masks go. All (K,) int64, pixels; the box may cross the image's border.

    ``left`` and ``top`` are those of the enlarged box, ``width`` and ``height`` its sides, at least 1.
    """

    left: NDArray[np.int64]
    top: NDArray[np.int64]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    image_width: NDArray[np.int64]
    image_height: NDArray[np.int64]

    def of(self, chosen: slice) -> _Places:
        return _Places(**{name: column[chosen] for name, column in vars(self).items()})


def _place(boxes: NDArray[np.floating], heights: NDArray[np.int64], widths: NDArray[np.int64], side: int) -> _Places:
    """Enlarge the boxes in float32, in the reference's order of operations, and truncate their inclusive edges."""
    edges = boxes.astype(np.float64)
    edges[:, 2:] -= 1
    edges = edges.astype(np.float32)
    scale = np.float32((side + 2 * _BORDER) / side)
    half = (edges[:, 2:] - edges[:, :2]) * np.float32(0.5) * scale
    centre = (edges[:, 2:] + edges[:, :2]) * np.float32(0.5)
    first, last = (centre - half).astype(np.int64), (centre + half).astype(np.int64)
    extent = np.maximum(last - first + 1, 1)
    return _Places(left=first[:, 0], top=first[:, 1], width=extent[:, 0], height=extent[:, 1],
                   image_width=widths.astype(np.int64), image_height=heights.astype(np.int64))


def _encode_chunk(bordered: NDArray[np.float32], placed: _Places, chunk: slice) -> list[Rle]:
    masks, place = bordered[chunk], placed.of(chunk)
    positions, owner, doubtful = _crossings(masks, place)
    if doubtful.any():
        # Too near to call: the resize itself is asked.
        asked = [_crossings_by_resizing(masks[index], place, index) for index in np.flatnonzero(doubtful).tolist()]
        certain = ~doubtful[owner]
        positions = np.concatenate([positions[certain], *asked])
        owner = np.concatenate([owner[certain], np.repeat(np.flatnonzero(doubtful), [len(one) for one in asked])])
        order = np.argsort(owner, kind='stable')
        positions, owner = positions[order], owner[order]
    strings = _compress(positions, owner, place.image_height * place.image_width)
    return [{'size': [height, width], 'counts': counts} for height, width, counts in zip(
        place.image_height.tolist(), place.image_width.tolist(), strings, strict=True)]


def _crossings(masks: NDArray[np.float32], place: _Places
               ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Find where the columns of the resized masks cross the threshold, inside the image.

    Returns:
        Positions in the image, column by column, from which on the pixels are on the other side, (T,) int64; the mask
        of each, (T,) int64, ascending; and (K,) bool, masks with a value too near to the threshold to tell.
    """
    side = masks.shape[-1]
    first = np.clip(-place.left, 0, place.width)
    stop = np.clip(place.image_width - place.left, first, place.width)
    owner = np.repeat(np.arange(len(masks)), stop - first)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(stop - first) - stop, stop - first)
    source = np.maximum((column + 0.5) * (side / place.width)[owner] - 0.5, 0)
    cell = source.astype(np.int64)
    weight = (source - cell).astype(np.float32)[:, None]
    by_column = np.ascontiguousarray(masks.transpose(0, 2, 1)).reshape(-1, side)
    here = by_column[owner * side + cell]
    there = by_column[owner * side + np.minimum(cell + 1, side - 1)]
    excess = here + (there - here) * weight - np.float32(THRESHOLD)
    doubtful = np.zeros(len(masks), dtype=np.bool_)
    steepest = sum(np.abs(np.diff(masks, axis=axis)).max(axis=(1, 2)) for axis in (1, 2))
    tolerance = _POSITION_ERROR * steepest + _VALUE_ERROR
    doubtful[owner[(np.abs(excess) < tolerance[owner, None]).any(axis=1)]] = True
    inside = excess > 0
    line, row = np.nonzero(inside[:, 1:] != inside[:, :-1])
    before, after = excess[line, row].astype(np.float64), excess[line, row + 1].astype(np.float64)
    owner, column = owner[line], column[line]
    pixels_a_row = place.height[owner] / side
    real = (row + before / (before - after) + 0.5) * pixels_a_row - 0.5
    nearness = np.abs(real - np.rint(real)) * np.abs(after - before) / pixels_a_row
    doubtful[owner[nearness < tolerance[owner]]] = True
    top, image_height = place.top[owner], place.image_height[owner]
    pixel = np.clip(np.ceil(real).astype(np.int64) + top, 0, image_height)
    return (place.left[owner] + column) * image_height + pixel, owner, doubtful


def _crossings_by_resizing(mask: NDArray[np.float32], place: _Places, index: int) -> NDArray[np.int64]:
    """Return the positions of one mask as `_crossings` does, from all of its pixels."""
    left, top, image_height = int(place.left[index]), int(place.top[index]), int(place.image_height[index])
    size = (int(place.height[index]), int(place.width[index]))
    resized = F.interpolate(torch.from_numpy(mask)[None, None], size=size, mode='bilinear', align_corners=False)
    inside = (resized[0, 0] > THRESHOLD).numpy()
    inside = inside[max(0, -top):max(0, image_height - top), max(0, -left):max(0, int(place.image_width[index]) - left)]
    edges = np.diff(inside.T.astype(np.int8), axis=1, prepend=0, append=0)
    column, row = np.nonzero(edges)
    return (column + max(left, 0)) * image_height + row + max(top, 0)


def _compress(positions: NDArray[np.int64], owner: NDArray[np.int64], pixels: NDArray[np.int64]) -> list[bytes]:
    """Return ``counts`` of each mask: ``rleToString`` of the COCO API on the lengths between the positions.

    Args:
        positions: (T,) where the masks change, ascending for each mask; two equal ones cancel out.
        owner: (T,) int64, ascending, the mask of each.
        pixels: (K,) int64, of the image of each mask.
    """
    count = len(pixels)
    # Equal neighbours: of an even number nothing stays, of an odd number one. What lies beyond the last pixel goes.
    new = np.ones(len(positions), dtype=np.bool_)
    new[1:] = (positions[1:] != positions[:-1]) | (owner[1:] != owner[:-1])
    start = np.flatnonzero(new)
    odd = np.diff(start, append=len(positions)) % 2 == 1
    kept = start[odd & (positions[start] < pixels[owner[start]])]
    positions, owner = positions[kept], owner[kept]
    # The end of the image closes the last run of each mask.
    changes = np.bincount(owner, minlength=count)
    ends = np.cumsum(changes + 1) - 1
    bounds = np.empty(len(positions) + count, dtype=np.int64)
    bounds[ends] = pixels
    bounds[np.arange(len(positions)) + owner] = positions
    runs = np.diff(bounds, prepend=0)
    first = ends - changes
    runs[first] = bounds[first]
    # From the fourth run on, the difference to the one two before is written.
    rank = np.arange(len(runs)) - np.repeat(first, changes + 1)
    numbers = runs.copy()
    numbers[2:] -= np.where(rank[2:] > 2, runs[:-2], 0)
    characters, lengths = _characters(numbers)
    stops = np.cumsum(np.add.reduceat(lengths, first)) if count else first
    text = characters.tobytes()
    return [text[begin:stop] for begin, stop in zip([0, *stops[:-1].tolist()], stops.tolist(), strict=False)]


def _characters(numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the characters of all numbers one after the other, and how many each has.

    A character holds 5 bits, the lowest first, plus 32 if more follow, plus 48; the last one's bit 4 is the sign.
    """
    most = int(np.abs(numbers).max(initial=0)).bit_length() // 5 + 1
    place = np.arange(most, dtype=np.int32)
    remaining = numbers.astype(np.int32)[:, None] >> 5 * place
    # A number ends where all that is left repeats the sign bit.
    finished = (remaining >> 4) == (remaining[:, :1] >> 31)
    lengths = finished.argmax(axis=1) + 1
    codes = (remaining & 0x1f) + 48
    codes += (place < (lengths - 1)[:, None]) * np.int32(32)
    return codes.astype(np.uint8)[place < lengths[:, None]], lengths
