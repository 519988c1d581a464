"""Reading the outlines of objects from a COCO annotation file, in the order of annotations read elsewhere.

`annotations` leaves masks out; this reads nothing else, from the publisher's file, because trimmed files have none.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from mlperf_det.errors import UserError

#: Annotations whose numbers exist as Python objects at a time.
_PARSED_AT_ONCE = 8192
#: Numbers of a polygon with three corners; the MLPerf reference ignores polygons with fewer.
_LEAST_NUMBERS = 6


class _Annotation(msgspec.Struct, gc=False):
    id: int
    segmentation: msgspec.Raw = msgspec.Raw(b'[]')


class _Document(msgspec.Struct, gc=False):
    annotations: list[_Annotation]


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: list[int] | str


_SEGMENTATIONS = msgspec.json.Decoder(list[list[list[float]] | _Rle])


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlines:
    """The polygons of O objects in columns; S polygons of together P corners.

    The polygons of object ``o`` are ``object_offsets[o]:object_offsets[o + 1]``, those with most corners first; the
    corners of polygon ``s`` are ``part_offsets[s]:part_offsets[s + 1]``.

    Attributes:
        corners: (P, 2) float32, x and y in pixels of the original image; half the memory of float64, and the
            precision in which the MLPerf reference keeps them.
        part_offsets: (S + 1,) int64.
        object_offsets: (O + 1,) int64.
    """

    corners: NDArray[np.float32]
    part_offsets: NDArray[np.int64]
    object_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.object_offsets) - 1

    def extents(self) -> NDArray[np.float32]:
        """Return left, top, right and bottom (O, 4) of all polygons of each object; NaN where it has none."""
        starts = self.part_offsets[self.object_offsets]
        drawn = np.flatnonzero(np.diff(starts))
        found = np.full((len(self), 4), np.nan, dtype=np.float32)
        if len(drawn):
            found[drawn, :2] = np.minimum.reduceat(self.corners, starts[drawn], axis=0)
            found[drawn, 2:] = np.maximum.reduceat(self.corners, starts[drawn], axis=0)
        return found


def read_outlines(path: Path, annotation_ids: NDArray[np.int64]) -> Outlines:
    """Read the masks of annotations as polygons.

    An object given as run lengths (in COCO only crowds are, which nothing trains on) becomes one polygon that encloses
    exactly its pixels. Polygons of fewer than three corners are left out; an object may end up with none.

    Args:
        path: COCO annotation file with ``segmentation``.
        annotation_ids: (O,) the annotations to read, in the order of the result.

    Raises:
        UserError: the file cannot be read, an annotation is missing, or its segmentation is empty or damaged.
    """
    try:
        with path.open('rb') as stream:
            # The map goes with the last raw value that points into it, so nothing here closes it.
            text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        found = msgspec.json.decode(text, type=_Document).annotations
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: {error}; is this a COCO annotation file?') from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    except ValueError as error:  # not JSON, not UTF-8, or empty
        raise UserError(f'{path}: is not valid JSON ({error}); check its size and fetch it again') from error
    wanted = [found[row] for row in _rows(path, found, annotation_ids)]
    pieces = [_parse(path, wanted[start:start + _PARSED_AT_ONCE]) for start in range(0, len(wanted), _PARSED_AT_ONCE)]
    corners, lengths, parts = (list(column) for column in zip(*pieces, strict=True)) if pieces else ([], [], [])
    return Outlines(
        corners=np.concatenate([np.empty(0, np.float32), *corners]).reshape(-1, 2),
        part_offsets=_offsets(lengths) // 2, object_offsets=_offsets(parts))


def _rows(path: Path, found: Sequence[_Annotation], wanted: NDArray[np.int64]) -> list[int]:
    ids = np.fromiter((annotation.id for annotation in found), np.int64, len(found))
    order = np.argsort(ids)
    place = np.searchsorted(ids, wanted, sorter=order)
    known = place < len(ids)
    known[known] = ids[order[place[known]]] == wanted[known]
    if not known.all():
        raise UserError(f'{path}: annotations: id {wanted[~known][0]} is absent, and so are {(~known).sum() - 1} more; '
                        'is it the file that the box annotations were made from?')
    rows: list[int] = order[place].tolist()
    return rows


def _parse(path: Path, annotations: Sequence[_Annotation]
           ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of all polygons, how many each polygon has, and how many polygons each annotation has."""
    try:
        decoded = _SEGMENTATIONS.decode(b'[' + b','.join(annotation.segmentation for annotation in annotations) + b']')
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: {_name_broken(annotations)}: segmentation: {error}') from error
    objects = []
    for annotation, segmentation in zip(annotations, decoded, strict=True):
        where = f'{path}: annotation {annotation.id}: segmentation'
        polygons = [_enclose(segmentation, where)] if isinstance(segmentation, _Rle) else segmentation
        if not polygons:
            raise UserError(f'{where}: is empty; mask training needs the original file, not a trimmed one')
        if any(len(polygon) % 2 for polygon in polygons):
            raise UserError(f'{where}: a polygon has an odd number of coordinates')
        polygons = [polygon for polygon in polygons if len(polygon) >= _LEAST_NUMBERS]
        objects.append(sorted(polygons, key=len, reverse=True) if len(polygons) > 1 else polygons)
    numbers = np.fromiter(chain.from_iterable(chain.from_iterable(objects)), np.float32)
    lengths = np.fromiter((len(polygon) for polygons in objects for polygon in polygons), np.int64)
    return numbers, lengths, np.fromiter(map(len, objects), np.int64)


def _name_broken(annotations: Sequence[_Annotation]) -> str:
    """Return which of the annotations, decoded together, is at fault."""
    for annotation in annotations:
        try:
            _SEGMENTATIONS.decode(b'[' + bytes(annotation.segmentation) + b']')
        except msgspec.ValidationError:
            return f'annotation {annotation.id}'
    return 'annotations'


def _enclose(rle: _Rle, where: str) -> list[float]:
    """Return one closed line around all pixels of a mask: x0, y0, x1, y1, ...

    It runs around each vertical run of pixels in turn, and home over the same bridges, which cancel out: a pixel is
    inside where the line is crossed an odd number of times.
    """
    height, width = rle.size
    try:
        counts = rle.counts
        encoded = {'size': [height, width], 'counts': counts}
        if not isinstance(counts, str):
            if sum(counts) != height * width:
                raise ValueError(f'counts add up to {sum(counts)} pixels')
            encoded = mask_utils.frPyObjects(encoded, height, width)
        mask = mask_utils.decode(encoded)
    except (ValueError, OverflowError) as error:
        raise UserError(f'{where}: is not a mask of {width} x {height} pixels ({error})') from error
    edges = np.diff(mask.T.astype(np.int8), axis=1, prepend=0, append=0)
    left, top = np.nonzero(edges == 1)
    bottom = np.nonzero(edges == -1)[1]
    right = left + 1
    loops = np.stack([np.stack(corner, axis=1) for corner in (
        (left, top), (right, top), (right, bottom), (left, bottom), (left, top))], axis=1)
    line = np.concatenate([loops.reshape(-1, 2), loops[-2:0:-1, 0]])
    flat: list[float] = line.astype(np.float64).reshape(-1).tolist()
    return flat


def _offsets(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
