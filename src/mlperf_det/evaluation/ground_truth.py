"""COCO annotation files as the evaluator needs them: checked once, small facts kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlperf_det.errors import UserError


class _Image(msgspec.Struct, gc=False):
    id: int
    height: int | None = None
    width: int | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str = ''


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    area: float
    bbox: tuple[float, float, float, float]
    # Kept as bytes: only its presence matters here; the engine reads the file itself.
    segmentation: msgspec.Raw = msgspec.Raw()


class _Annotations(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoGroundTruth:
    """The facts of a COCO annotation file against which detections are checked and scored.

    Attributes:
        path: the file; engines read it themselves.
        image_ids: (I,) int64, ascending.
        image_sizes: image id -> (height, width); images whose size the file leaves out are absent.
        category_names: category id -> name, in ascending order of the ids.
        has_masks: every annotation has a segmentation.
    """

    path: Path
    image_ids: NDArray[np.int64]
    image_sizes: Mapping[int, tuple[int, int]]
    category_names: Mapping[int, str]
    has_masks: bool


def read_ground_truth(path: Path) -> CocoGroundTruth:
    """Read and check an annotation file; ``info`` and ``licenses`` may be missing.

    Raises:
        UserError: the file cannot be read, is not a COCO annotation file, repeats an id, refers to an unknown image or
            category, or has no annotation at all (no score could be computed).
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_Annotations)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); give a COCO annotation file') from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f'{path}: not a COCO annotation file: {error}') from error
    if not content.annotations:
        raise UserError(f'{path}: no annotations, so no score can be computed; is it the file of a test split?')
    annotations = content.annotations
    image_ids = _unique_ids(path, 'images', [image.id for image in content.images])
    category_ids = _unique_ids(path, 'categories', [category.id for category in content.categories])
    if _unique_ids(path, 'annotations', [annotation.id for annotation in annotations])[0] == 0:
        # pycocotools marks an unmatched detection with annotation id 0, so a match with that annotation counts as none.
        raise UserError(f'{path}: annotations: id 0 is scored wrongly by pycocotools; number annotations from 1')
    _check_known(path, 'image_id', [annotation.image_id for annotation in annotations], image_ids, 'images')
    _check_known(path, 'category_id', [annotation.category_id for annotation in annotations], category_ids,
                 'categories')
    return CocoGroundTruth(
        path=path, image_ids=image_ids,
        image_sizes=MappingProxyType({image.id: (image.height, image.width) for image in content.images
                                      if image.height is not None and image.width is not None}),
        category_names=MappingProxyType({c.id: c.name for c in sorted(content.categories, key=lambda c: c.id)}),
        has_masks=all(bytes(a.segmentation) not in (b'', b'[]', b'null') for a in annotations))


def _unique_ids(path: Path, field: str, ids: list[int]) -> NDArray[np.int64]:
    """Return the ids, ascending, after checking that they are distinct and exact as float64 (engines want arrays)."""
    if ids and not 0 <= min(ids) <= max(ids) <= 2**53:
        outside = next(each for each in ids if not 0 <= each <= 2**53)
        raise UserError(f'{path}: {field}: id {outside} is outside 0 to 2**53')
    unique, counts = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
    repeated = unique[counts > 1]
    if len(repeated):
        raise UserError(f'{path}: {field}: {len(repeated)} ids occur more than once, first {repeated[0]}')
    return unique


def _check_known(path: Path, name: str, ids: list[int], known: NDArray[np.int64], field: str) -> None:
    unknown = set(ids).difference(known.tolist())
    if unknown:
        index = next(index for index, each in enumerate(ids) if each in unknown)
        raise UserError(f'{path}: annotations[{index}]: {name} {ids[index]} is not in {field}')
