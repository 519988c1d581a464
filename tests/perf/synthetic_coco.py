"""COCO ground truth of any size, and detections like a detector's: near objects, wrong classes, background."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from mlperf_det.evaluation.rows import DetectionRows, make_rows


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of what.

    Attributes:
        images: number of images.
        size: width and height of all images, pixels.
        categories: number of categories.
        objects_per_image: mean; the number is drawn for each image.
        crowd_share: of the objects, groups that are marked as crowd.
        detections_per_image: of every image.
        class_skew: exponent of the classes' frequencies by rank: 0 all alike, 1 as words in a language.
        masks: objects and detections have one: the ellipse in the box.
    """

    images: int
    size: tuple[int, int]
    categories: int
    objects_per_image: float
    crowd_share: float
    detections_per_image: int
    class_skew: float
    masks: bool


@dataclass(frozen=True, kw_only=True)
class Objects:
    """Ground truth in columns, ordered by image. Image ids and category ids count from 1."""

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]


def draw_objects(scale: Scale, rng: np.random.Generator) -> Objects:
    image_ids = np.repeat(np.arange(1, scale.images + 1), rng.poisson(scale.objects_per_image, scale.images))
    return Objects(image_ids=image_ids, labels=_labels(scale, len(image_ids), rng),
                   boxes=_boxes(scale, len(image_ids), rng), crowd=rng.random(len(image_ids)) < scale.crowd_share)


def draw_detections(scale: Scale, objects: Objects, rng: np.random.Generator) -> DetectionRows:
    """55 % lie near an object, 70 % of these with its class and a higher score."""
    images = np.arange(1, scale.images + 1)
    ids = np.repeat(images, scale.detections_per_image)
    first = np.searchsorted(objects.image_ids, images)[ids - 1]
    count = np.searchsorted(objects.image_ids, images, side='right')[ids - 1] - first
    on_object = (rng.random(len(ids)) < 0.55) & (count > 0)
    source = np.where(on_object, first + (rng.random(len(ids)) * np.maximum(count, 1)).astype(np.int64), 0)
    near = objects.boxes[source] * rng.normal(1, 0.05, (len(ids), 4))
    boxes = np.where(on_object[:, None], near, _boxes(scale, len(ids), rng))
    boxes = np.clip(boxes, 1, [scale.size[0] - 60, scale.size[1] - 60, *scale.size])
    boxes[:, 2:] = np.minimum(boxes[:, 2:], scale.size - boxes[:, :2])
    right = on_object & (rng.random(len(ids)) < 0.7)
    categories = np.where(right, objects.labels[source], _labels(scale, len(ids), rng))
    scores = rng.beta(np.where(right, 3, 1), 4).astype(np.float32)
    return make_rows(ids, categories, boxes, scores, seen_image_ids=images,
                     rles=_ellipses(boxes, scale.size) if scale.masks else None)


def write_annotations(path: Path, scale: Scale, objects: Objects) -> None:
    """Write the objects as a COCO annotation file."""
    areas = objects.boxes[:, 2] * objects.boxes[:, 3]
    masks: dict[int, Any] = {}
    if scale.masks:
        masks = {index: {'segmentation': rle} for index, rle in enumerate(_ellipses(objects.boxes, scale.size))}
        areas = np.array([float(mask_utils.area(each['segmentation'])) for each in masks.values()])
    columns = zip(objects.image_ids.tolist(), objects.labels.tolist(), objects.boxes.tolist(), objects.crowd.tolist(),
                  areas.tolist(), strict=True)
    path.write_text(json.dumps({
        'images': [{'id': i, 'width': scale.size[0], 'height': scale.size[1]} for i in range(1, scale.images + 1)],
        'categories': [{'id': i, 'name': str(i)} for i in range(1, scale.categories + 1)],
        'annotations': [{'id': index + 1, 'image_id': image, 'category_id': label, 'bbox': box, 'area': area,
                         'iscrowd': int(crowd), **masks.get(index, {})}
                        for index, (image, label, box, crowd, area) in enumerate(columns)]}))


def first_images(scale: Scale, objects: Objects, rows: DetectionRows, images: int
                 ) -> tuple[Scale, Objects, DetectionRows]:
    """Return the same of the first images only."""
    kept, found = objects.image_ids <= images, rows.image_ids <= images
    return (
        replace(scale, images=images),
        Objects(**{name: column[kept] for name, column in vars(objects).items()}),
        make_rows(rows.image_ids[found], rows.category_ids[found], rows.boxes[found], rows.scores[found],
                  seen_image_ids=np.arange(1, images + 1)))


def _labels(scale: Scale, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    frequency = 1 / np.arange(1, scale.categories + 1) ** scale.class_skew
    return rng.choice(scale.categories, count, p=frequency / frequency.sum()) + 1


def _boxes(scale: Scale, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Left, top, width, height inside the image; sides spread evenly in the logarithm, as in COCO."""
    sides = np.exp(rng.uniform(np.log(8), np.log(0.8 * min(scale.size)), (count, 2)))
    corner = rng.random((count, 2)) * np.maximum(scale.size - sides, 1)
    return np.concatenate([corner, np.minimum(sides, scale.size - corner)], axis=1)


def _ellipses(boxes: NDArray[np.float64], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The ellipse in each box, a polygon of 24 corners, as RLE."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1) / 2 + 0.5
    corners = (boxes[:, None, :2] + outline * boxes[:, None, 2:]).reshape(len(boxes), -1).tolist()
    rles = (mask_utils.frPyObjects([polygon], size[1], size[0])[0] for polygon in corners)
    return [{'size': list(rle['size']), 'counts': rle['counts'].decode('ascii')} for rle in rles]
