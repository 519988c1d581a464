"""Reading COCO ground truth into columns.

Masks are not read here: they are large, only one benchmark needs them, and they join by `Annotations.annotation_ids`.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlperf_det.errors import UserError

T = TypeVar('T')
#: records that an error message lists before it only counts
_LISTED = 3


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Document(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """COCO ground truth of one split in columns. I images in file order, C categories, B boxes grouped by image.

    The boxes of image ``i`` are the rows ``offsets[i]:offsets[i + 1]``, in file order.

    Attributes:
        path: the file.
        image_ids: (I,) int64.
        heights: (I,) int64, pixels, as the file states.
        widths: (I,) int64, pixels, as the file states.
        file_names: I names, relative to the image folder.
        category_ids: (C,) int64, original ids in file order (COCO: 1 to 90 with gaps).
        category_names: C names.
        offsets: (I + 1,) int64.
        boxes: (B, 4) float64, left, top, width, height in pixels; width and height are positive.
        labels: (B,) int64, 0-based index into the categories.
        areas: (B,) float64, pixels (of the mask, not of the box); NaN where the file states none.
        crowd: (B,) bool; False where the file does not say.
        annotation_ids: (B,) int64.
        degenerate: boxes left out because their width or height is not positive.
        unknown_images: ids of annotations left out because no image record has their image id.
        scorable: every annotation states ``area`` and ``iscrowd``, without which no COCO score can be computed.
    """

    path: Path
    image_ids: NDArray[np.int64]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    file_names: Sequence[str]
    category_ids: NDArray[np.int64]
    category_names: tuple[str, ...]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    annotation_ids: NDArray[np.int64]
    degenerate: int
    unknown_images: tuple[int, ...]
    scorable: bool

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def of_image(self, index: int) -> slice:
        """Return the rows of the boxes of the ``index``-th image."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    @property
    def boxes_per_image(self) -> NDArray[np.int64]:
        """(I,) int64."""
        return np.diff(self.offsets)


def read_annotations(path: Path, *, on_unknown_image: Literal['error', 'drop'] = 'error') -> Annotations:
    """Read a COCO annotation file, original or trimmed.

    Images without boxes stay; boxes without a positive width and height are left out and counted.

    Args:
        path: the JSON file.
        on_unknown_image: what to do with annotations whose image has no record; 'drop' lists them in the result.

    Raises:
        UserError: the file cannot be read, is not JSON, lacks a field, has one of a wrong type or an impossible size,
            repeats an id or a file name, or an annotation names an unknown category or (on 'error') an unknown image.
    """
    document = decode_file(path, msgspec.json.Decoder(_Document))
    image_ids = _unique_ids(path, 'images', [image.id for image in document.images])
    category_ids = _unique_ids(path, 'categories', [category.id for category in document.categories])
    if not len(image_ids) or not len(category_ids):
        raise UserError(f'{path}: {"categories" if len(image_ids) else "images"}: the list is empty')
    heights = np.array([image.height for image in document.images], dtype=np.int64)
    widths = np.array([image.width for image in document.images], dtype=np.int64)
    impossible = np.flatnonzero((heights < 1) | (widths < 1))
    if impossible.size:
        _refuse(path, 'images', impossible, 'height and width must be positive')
    file_names = tuple(image.file_name for image in document.images)
    if len(set(file_names)) != len(file_names):
        seen: set[str] = set()
        twice = next(name for name in file_names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f'{path}: images: file_name {twice!r} occurs more than once')

    annotations = document.annotations
    count = len(annotations)
    annotation_ids = _unique_ids(path, 'annotations', [annotation.id for annotation in annotations])
    boxes = np.fromiter(chain.from_iterable(a.bbox for a in annotations), np.float64, 4 * count).reshape(count, 4)
    image_rows = _positions(image_ids, np.fromiter((a.image_id for a in annotations), np.int64, count))
    labels = _positions(category_ids, np.fromiter((a.category_id for a in annotations), np.int64, count))
    areas = np.fromiter((np.nan if a.area is None else a.area for a in annotations), np.float64, count)
    crowd = np.fromiter((bool(a.iscrowd) for a in annotations), np.bool_, count)
    if (labels < 0).any():
        _refuse(path, 'annotations', np.flatnonzero(labels < 0), 'category_id is in no record of categories')
    unknown = image_rows < 0
    if unknown.any() and on_unknown_image == 'error':
        _refuse(path, 'annotations', np.flatnonzero(unknown), 'image_id is in no record of images')
    degenerate = ~((boxes[:, 2] > 0) & (boxes[:, 3] > 0)) & ~unknown

    kept = np.flatnonzero(~unknown & ~degenerate)
    order = kept[np.argsort(image_rows[kept], kind='stable')]
    offsets = np.zeros(len(image_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(image_rows[kept], minlength=len(image_ids)), out=offsets[1:])
    return Annotations(
        path=path, image_ids=image_ids, heights=heights, widths=widths, file_names=file_names,
        category_ids=category_ids, category_names=tuple(category.name for category in document.categories),
        offsets=offsets, boxes=boxes[order], labels=labels[order], areas=areas[order], crowd=crowd[order],
        annotation_ids=annotation_ids[order], degenerate=int(degenerate.sum()),
        unknown_images=tuple(annotation_ids[unknown].tolist()),
        scorable=all(a.area is not None and a.iscrowd is not None for a in annotations))


def decode_file(path: Path, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON file without holding a copy of its text.

    Raises:
        UserError: the file cannot be read, is not JSON, or does not have the decoder's form; names the record.
    """
    try:
        with path.open('rb') as stream:
            if not stream.seek(0, 2):
                raise UserError(f'{path}: is empty; download or generate it again')
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text, memoryview(text) as view:
                return decoder.decode(view)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: {error}; is this a COCO annotation file?') from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: is not valid JSON ({error}); it may be cut off: check its size and fetch it again'
                        ) from error


def _unique_ids(path: Path, table: str, ids: list[int]) -> NDArray[np.int64]:
    try:
        array = np.array(ids, dtype=np.int64)
    except OverflowError as error:
        raise UserError(f'{path}: {table}: an id does not fit into 64 bits') from error
    values, counts = np.unique(array, return_counts=True)
    if len(values) != len(array):
        twice = values[counts > 1]
        raise UserError(f'{path}: {table}: {len(twice)} ids occur more than once, the first is {twice[0]}')
    return array


def _positions(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each wanted id in ``ids``, -1 where it is absent."""
    order = np.argsort(ids)
    found = np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)
    return np.where(ids[order[found]] == wanted, order[found], -1)


def _refuse(path: Path, table: str, rows: NDArray[np.intp], what: str) -> NoReturn:
    listed = ', '.join(f'{table}[{row}]' for row in rows[:_LISTED])
    more = f' and {len(rows) - _LISTED} more' if len(rows) > _LISTED else ''
    raise UserError(f'{path}: {listed}{more}: {what}')
