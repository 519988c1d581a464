"""COCO evaluation against pycocotools: parse annotations, match, accumulate, summarise; all numbers identical.

Both sides begin with the annotation file and what their callers have: the peer the dicts of a result file, ours the
columns that the evaluation gathers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlperf_det.evaluation.coco import result_dicts, score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import DetectionRows, make_rows
from tests.perf.case import Case

HEIGHT, WIDTH, CATEGORIES = 480, 640, 80


def cases(images: int | None = None, detections_per_image: int = 100) -> list[Case]:
    """The COCO val2017 scale: 5,000 images of 7.3 objects; environment PERF_EVALUATION_IMAGES makes it smaller."""
    images = images or int(os.environ.get('PERF_EVALUATION_IMAGES', '5000'))
    folder = tempfile.TemporaryDirectory(prefix='perf-evaluation-')
    path, rows = synthetic(images, detections_per_image, Path(folder.name))
    note = f'{images} images x {detections_per_image} detections; annotation file parsed on both sides'

    def ours(iou_type: str, _keep: Any = folder) -> list[float]:
        return list(score(read_ground_truth(path), rows, [iou_type])[iou_type].numbers().values())

    return [Case(name=f'COCO evaluation, {what}', peer=partial(peer, path, result_dicts(rows, iou_type), iou_type),
                 ours=partial(ours, iou_type), equal=assert_identical, target=target, rounds=1, note=note)
            for what, iou_type, target in (('boxes', 'bbox', 40.0), ('masks', 'segm', 8.0))]


def peer(path: Path, results: list[dict[str, Any]], iou_type: str) -> list[float]:
    """pycocotools as its own demo uses it."""
    fresh = [dict(result) for result in results]    # loadRes changes them; half a percent of its time
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(fresh), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def assert_identical(peers: list[float], ours: list[float]) -> None:
    assert len(ours) == 12
    assert ours == peers
    assert ours[0] > 0.05, 'hardly a detection matches: the comparison would prove nothing'


def synthetic(images: int, detections_per_image: int, folder: Path, seed: int = 2017) -> tuple[Path, DetectionRows]:
    """Write annotations and make detections like a detector's: near objects, duplicates, wrong classes, background."""
    rng = np.random.default_rng(seed)
    objects = rng.poisson(7.3, images)
    image_of = np.repeat(np.arange(1, images + 1), objects)
    boxes = random_boxes(rng, len(image_of))
    labels = rng.integers(1, CATEGORIES + 1, len(image_of))
    crowds = rng.random(len(image_of)) < 0.01
    rles = ellipses(boxes)
    annotations = [
        {'id': index + 1, 'image_id': int(image_of[index]), 'category_id': int(labels[index]),
         'iscrowd': int(crowds[index]), 'bbox': boxes[index].tolist(), 'area': float(mask_utils.area(rles[index])),
         'segmentation': text(rles[index])} for index in range(len(image_of))]
    path = folder / 'annotations.json'
    path.write_text(json.dumps({
        'images': [{'id': i, 'height': HEIGHT, 'width': WIDTH} for i in range(1, images + 1)],
        'categories': [{'id': i, 'name': str(i)} for i in range(1, CATEGORIES + 1)], 'annotations': annotations}))
    ids = np.repeat(np.arange(1, images + 1), detections_per_image)
    first = np.concatenate([[0], np.cumsum(objects)[:-1]])[ids - 1]
    count = objects[ids - 1]
    source = first + (rng.random(len(ids)) * np.maximum(count, 1)).astype(np.int64)
    on_object = (rng.random(len(ids)) < 0.55) & (count > 0)
    source = np.where(on_object, source, 0)
    near = boxes[source] * rng.normal(1, 0.05, (len(ids), 4))
    found = np.where(on_object[:, None], near, random_boxes(rng, len(ids)))
    found = np.clip(found, 1, [WIDTH - 60, HEIGHT - 60, WIDTH, HEIGHT])
    found[:, 2:] = np.minimum(found[:, 2:], [WIDTH, HEIGHT] - found[:, :2])
    right = on_object & (rng.random(len(ids)) < 0.7)
    categories = np.where(right, labels[source], rng.integers(1, CATEGORIES + 1, len(ids)))
    scores = rng.beta(np.where(right, 3, 1), 4).astype(np.float32)
    return path, make_rows(ids, categories, found, scores, seen_image_ids=np.arange(1, images + 1),
                           rles=[text(rle) for rle in ellipses(found)])


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Left, top, width, height inside the image; sizes spread evenly in the logarithm, as in COCO."""
    size = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corner = rng.random((count, 2)) * np.maximum([WIDTH, HEIGHT] - size, 1)
    return np.concatenate([corner, np.minimum(size, [WIDTH, HEIGHT] - corner)], axis=1)


def ellipses(boxes: np.ndarray) -> list[dict[str, Any]]:
    """One RLE a box: the ellipse in it, as a polygon of 24 corners."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1) / 2 + 0.5
    polygons = boxes[:, None, :2] + outline * boxes[:, None, 2:]
    corners = polygons.reshape(len(boxes), 48).tolist()
    return [mask_utils.frPyObjects([polygon], HEIGHT, WIDTH)[0] for polygon in corners]


def text(rle: dict[str, Any]) -> dict[str, Any]:
    return {'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')}
