"""COCO annotation files as the evaluator needs them: checked once, small facts kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlperf_det.errors import UserError


class _Image(msgspec.Struct):
    id: int
    height: int | None = None
    width: int | None = None


class _Category(msgspec.Struct):
    id: int
    name: str = ''


class _Annotation(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    area: float
    bbox: tuple[float, float, float, float]
    # Kept as bytes: only its presence matters here; the engine reads the file itself.
    segmentation: msgspec.Raw = msgspec.Raw()


class _Annotations(msgspec.Struct):
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
    image_ids = _unique_ids(path, 'images', content.images)
    category_ids = _unique_ids(path, 'categories', content.categories)
    if _unique_ids(path, 'annotations', content.annotations)[0] == 0:
        # pycocotools marks an unmatched detection with annotation id 0, so a match with that annotation counts as none.
        raise UserError(f'{path}: annotations: id 0 is scored wrongly by pycocotools; number annotations from 1')
    known_images, known_categories = set(image_ids.tolist()), set(category_ids.tolist())
    for index, annotation in enumerate(content.annotations):
        if annotation.image_id not in known_images:
            raise UserError(f'{path}: annotations[{index}]: image_id {annotation.image_id} is not in images')
        if annotation.category_id not in known_categories:
            raise UserError(f'{path}: annotations[{index}]: category_id {annotation.category_id} is not in categories')
    return CocoGroundTruth(
        path=path, image_ids=image_ids,
        image_sizes=MappingProxyType({image.id: (image.height, image.width) for image in content.images
                                      if image.height is not None and image.width is not None}),
        category_names=MappingProxyType({c.id: c.name for c in sorted(content.categories, key=lambda c: c.id)}),
        has_masks=all(bytes(a.segmentation) not in (b'', b'[]', b'null') for a in content.annotations))


def _unique_ids(path: Path, field: str, entries: Sequence[_Image | _Category | _Annotation]) -> NDArray[np.int64]:
    """Return the ids, ascending, after checking that they are distinct and exact as float64 (engines want arrays)."""
    counts = Counter(entry.id for entry in entries)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise UserError(f'{path}: {field}: {len(repeated)} ids occur more than once, first {repeated[0]}')
    outside = [key for key in counts if not 0 <= key <= 2**53]
    if outside:
        raise UserError(f'{path}: {field}: id {outside[0]} is outside 0 to 2**53')
    return np.array(sorted(counts), dtype=np.int64)
