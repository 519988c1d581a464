"""Read COCO result files, the JSON lists in which detectors hand in boxes or masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlperf_det.errors import UserError
from mlperf_det.evaluation.ground_truth import CocoGroundTruth
from mlperf_det.evaluation.rle import are_sound
from mlperf_det.evaluation.rows import DetectionRows, Rle, make_rows


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    #: compressed, or run lengths in column order, beginning with background
    counts: str | list[int]


class _Result(msgspec.Struct):
    image_id: int
    category_id: int
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Rle | list[list[float]] | None = None


def read_result_file(path: Path, ground_truth: CocoGroundTruth, iou_type: str) -> DetectionRows:
    """Read a result file for one metric; the other metric's field is ignored.

    Masks may be RLE, compressed or not, or polygons, which are drawn as COCO draws them. For ``segm`` a ``bbox`` beside
    the mask is ignored: pycocotools would take the area of the box for that of the mask (as Detectron2 notes too).

    Raises:
        UserError: the file cannot be read, an entry lacks a field or has a wrong type, names an unknown image or
            category, or its mask is not of its image.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=list[_Result])
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); give a COCO result file') from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f'{path}: not a COCO result file (a JSON list of detections): {error}') from error
    field = 'segmentation' if iou_type == 'segm' else 'bbox'
    for index, result in enumerate(results):
        if getattr(result, field) is None:
            raise UserError(f'{path}: [{index}] has no {field}, which --iou-type {iou_type} needs')
    image_ids = [result.image_id for result in results]
    category_ids = [result.category_id for result in results]
    _check_known(path, 'image_id', image_ids, set(ground_truth.image_ids.tolist()), ground_truth.path)
    _check_known(path, 'category_id', category_ids, set(ground_truth.category_names), ground_truth.path)
    rles: list[Rle] | None = None
    boxes: Any = np.zeros((len(results), 4))
    if iou_type == 'segm':
        rles = _rles(path, results, ground_truth)
    else:
        boxes = [result.bbox for result in results]
    return make_rows(image_ids, category_ids, boxes, [result.score for result in results], rles=rles,
                     seen_image_ids=np.unique(np.array(image_ids, dtype=np.int64)))


def _check_known(path: Path, name: str, ids: list[int], known: set[int], annotations: Path) -> None:
    unknown = [index for index, value in enumerate(ids) if value not in known]
    if unknown:
        raise UserError(f'{path}: {len(unknown)} of {len(ids)} detections have a {name} that {annotations} lacks, '
                        f'first [{unknown[0]}] with {ids[unknown[0]]}; are they of another split?')


def _rles(path: Path, results: Sequence[_Result], ground_truth: CocoGroundTruth) -> list[Rle]:
    """Return the masks as compressed RLE of the size of their image."""
    rles = [_rle(f'{path}: [{index}]', result, ground_truth) for index, result in enumerate(results)]
    damaged = np.flatnonzero(~are_sound(rles))
    if len(damaged):
        index = int(damaged[0])
        height, width = rles[index]['size']
        raise UserError(f'{path}: [{index}] the mask is damaged: its run lengths are not those of {height * width} '
                        f'pixels ({len(damaged)} of {len(rles)} masks are damaged)')
    return rles


def _rle(place: str, result: _Result, ground_truth: CocoGroundTruth) -> Rle:
    from pycocotools import mask as mask_utils  # not needed for boxes
    found = result.segmentation
    size = ground_truth.image_sizes.get(result.image_id)
    if isinstance(found, _Rle):
        if size is not None and found.size != size:
            raise UserError(f'{place} mask size {list(found.size)} is not the [height, width] {list(size)} of image '
                            f'{result.image_id}')
        if isinstance(found.counts, str):
            return {'size': list(found.size), 'counts': found.counts}
        if not found.counts or min(found.counts) < 0 or sum(found.counts) != found.size[0] * found.size[1]:
            raise UserError(f'{place} the mask is damaged: its run lengths are not those of '
                            f'{found.size[0] * found.size[1]} pixels')
        return _compressed(mask_utils.frPyObjects({'size': list(found.size), 'counts': found.counts}, *found.size))
    if size is None:
        raise UserError(f'{place} is a polygon, but {ground_truth.path} has no height and width of image '
                        f'{result.image_id}; give the masks as RLE')
    polygons = found or []
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise UserError(f'{place} polygons need at least three points, given as x, y, x, y, ...')
    return _compressed(mask_utils.merge(mask_utils.frPyObjects(polygons, *size)))


def _compressed(rle: dict[str, Any]) -> Rle:
    return {'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')}
