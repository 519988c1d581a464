"""Detections as columns: what one process found, what travels between processes, what the scorer reads.

Imports torch only for type checking: the scoring process must start fast and stay small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from mlperf_det.models.detections import Detections

#: A COCO run-length encoded mask: ``{'size': [height, width], 'counts': str or bytes}``.
Rle: TypeAlias = Mapping[str, Any]
#: Turns the masks of a batch into one RLE a detection. Arguments: (D, 28, 28) float32 probabilities; (D, 4) float64
#: boxes, left, top, right, bottom in pixels of the original image; (D,) int64 index of the image within the batch.
MaskEncoder: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float64], NDArray[np.int64]], Sequence[Rle]]

_COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    'image_ids': ('<i8', ()), 'category_ids': ('<i8', ()), 'boxes': ('<f8', (4,)), 'scores': ('<f8', ()),
    'seen_image_ids': ('<i8', ())}


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionRows:
    """D detections, one a row, and the images they were looked for in.

    Attributes:
        image_ids: (D,) int64, COCO image ids.
        category_ids: (D,) int64, the category ids of the annotation file.
        boxes: (D, 4) float64, left, top, width, height in pixels of the original image.
        scores: (D,) float64.
        rles: one COCO RLE a row, or None where only boxes were detected.
        seen_image_ids: (S,) int64, every image that was inferred, also those without a detection.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    rles: tuple[Rle, ...] | None = None
    seen_image_ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        for name, (dtype, tail) in _COLUMNS.items():
            column = getattr(self, name)
            rows = len(column) if name == 'seen_image_ids' else count
            if column.dtype != np.dtype(dtype) or column.shape != (rows, *tail):
                raise ValueError(f'column {name} is {column.dtype} {column.shape}, expected {dtype} {(rows, *tail)}')
        if self.rles is not None and len(self.rles) != count:
            raise ValueError(f'{len(self.rles)} masks for {count} rows')

    def __len__(self) -> int:
        return len(self.image_ids)


def make_rows(image_ids: ArrayLike, category_ids: ArrayLike, boxes: ArrayLike, scores: ArrayLike, *,
              seen_image_ids: ArrayLike, rles: Sequence[Rle] | None = None) -> DetectionRows:
    """Return rows from anything that numpy takes, cast to the column types; an empty list makes an empty column."""
    return DetectionRows(
        image_ids=np.asarray(image_ids, dtype=np.int64), category_ids=np.asarray(category_ids, dtype=np.int64),
        boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4), scores=np.asarray(scores, dtype=np.float64),
        rles=None if rles is None else tuple(rles), seen_image_ids=np.asarray(seen_image_ids, dtype=np.int64))


def rows_from_detections(detections: Detections, image_ids: ArrayLike, category_ids: Sequence[int],
                         encode_masks: MaskEncoder | None = None) -> DetectionRows:
    """Turn the detections of a batch into rows: valid slots only, in slot order.

    Args:
        detections: of N images, on any device; copying them to the host waits for the device.
        image_ids: (N,) COCO image ids of the batch.
        category_ids: original category id of each contiguous label.
        encode_masks: called once for the batch when ``detections.masks`` is not None.

    Raises:
        ValueError: the detections have masks and no encoder was given.
    """
    seen = np.asarray(image_ids, dtype=np.int64)
    image_index, slot = np.nonzero(detections.valid.cpu().numpy())
    # Widths are taken in float64, where the difference of two float32 is exact.
    corners = detections.boxes.detach().float().cpu().numpy()[image_index, slot].astype(np.float64)
    boxes = corners.copy()
    boxes[:, 2:] -= corners[:, :2]
    rles: Sequence[Rle] | None = None
    if detections.masks is not None:
        if encode_masks is None:
            raise ValueError('the detections have masks: encode_masks is needed to keep them')
        masks = detections.masks.detach().float().cpu().numpy()[image_index, slot]
        rles = encode_masks(masks, corners, image_index.astype(np.int64))
    return make_rows(
        seen[image_index], np.asarray(category_ids, dtype=np.int64)[detections.labels.cpu().numpy()[image_index, slot]],
        boxes, detections.scores.detach().float().cpu().numpy()[image_index, slot], rles=rles, seen_image_ids=seen)


def empty_rows(*, masks: bool = False) -> DetectionRows:
    """Return no rows of no image; ``masks`` says whether they count as mask detections."""
    return make_rows([], [], [], [], seen_image_ids=[], rles=() if masks else None)


def concatenate(parts: Sequence[DetectionRows]) -> DetectionRows:
    """Join rows in order; no parts make `empty_rows`. A part without rows goes with parts with and without masks.

    Raises:
        ValueError: some parts have masks and others do not.
    """
    if not parts:
        return empty_rows()
    with_masks = {part.rles is not None for part in parts if len(part)}
    if len(with_masks) > 1:
        raise ValueError('some detections have masks and others do not')
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    rles = None
    if with_masks == {True} or (not with_masks and any(part.rles is not None for part in parts)):
        rles = tuple(chain.from_iterable(part.rles or () for part in parts))
    return DetectionRows(**columns, rles=rles)


class _Header(msgspec.Struct):
    """Byte counts of the buffers that follow it: the columns in the order of `_COLUMNS`, then those of the masks."""

    sizes: list[int]
    has_masks: bool


def pack(rows: DetectionRows) -> bytes:
    """Return the rows as one string of bytes for `unpack`: length of the header, header, columns, masks."""
    buffers: list[bytes | memoryview] = [
        _bytes_of(np.ascontiguousarray(getattr(rows, name), dtype=dtype)) for name, (dtype, _) in _COLUMNS.items()]
    if rows.rles is not None:
        counts = [c.encode('ascii') if isinstance(c := rle['counts'], str) else bytes(c) for rle in rows.rles]
        buffers += [_bytes_of(np.array([rle['size'] for rle in rows.rles], dtype='<i8')),
                    _bytes_of(np.array([len(c) for c in counts], dtype='<i8')), b''.join(counts)]
    header = msgspec.json.encode(_Header(sizes=[len(b) for b in buffers], has_masks=rows.rles is not None))
    return b''.join([len(header).to_bytes(8, 'little'), header, *buffers])


def unpack(data: bytes | memoryview) -> DetectionRows:
    """Read what `pack` returns; the columns are views of ``data``.

    Raises:
        ValueError: the data is cut or damaged.
    """
    view = memoryview(data)
    start = 8 + int.from_bytes(view[:8], 'little')
    header = msgspec.json.decode(view[8:start], type=_Header)
    buffers = []
    for size in header.sizes:
        buffers.append(view[start:start + size])
        start += size
    if start != len(view):
        raise ValueError(f'packed rows of {len(view)} bytes, the header says {start}')
    columns = {name: np.frombuffer(buffer, dtype=dtype).reshape(-1, *tail)
               for buffer, (name, (dtype, tail)) in zip(buffers, _COLUMNS.items(), strict=False)}
    return DetectionRows(**columns, rles=_unpack_masks(*buffers[len(_COLUMNS):]) if header.has_masks else None)


def _unpack_masks(sizes: memoryview, lengths: memoryview, counts: memoryview) -> tuple[Rle, ...]:
    ends = np.cumsum(np.frombuffer(lengths, dtype='<i8'))
    starts = ends - np.frombuffer(lengths, dtype='<i8')
    return tuple({'size': size, 'counts': bytes(counts[start:end])} for size, start, end in zip(
        np.frombuffer(sizes, dtype='<i8').reshape(-1, 2).tolist(), starts.tolist(), ends.tolist(), strict=True))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    # An empty array of several dimensions cannot be cast, so it is flattened first.
    return array.reshape(-1).data.cast('B')
