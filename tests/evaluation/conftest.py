"""Random, nasty COCO cases: what detectors and annotation files can do to a metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mlperf_det.evaluation.rows import DetectionRows, make_rows


class Case(NamedTuple):
    annotations: Path
    rows: DetectionRows


def random_box(rng: np.random.Generator, height: int, width: int) -> list[float]:
    """A box inside the image; areas of exactly 32 x 32 and 96 x 96 pixels and integer corners are frequent."""
    side = float(rng.choice([0, 8, 31, 32, 33, 95, 96, 97, rng.uniform(1, min(height, width))]))
    w, h = (side, side) if rng.random() < 0.6 else (side, float(rng.integers(1, height)))
    w, h = min(w, width - 1.0), min(h, height - 1.0)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return [x, y, w, h] if rng.random() < 0.5 else [float(int(x)), float(int(y)), w, h]


def rle_of(box: list[float], height: int, width: int) -> dict[str, Any]:
    """The mask of a box, as a result file has it."""
    x, y, w, h = box
    rle = mask_utils.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], height, width)[0]
    return {'size': rle['size'], 'counts': rle['counts'].decode('ascii')}


def make_case(seed: int, folder: Path, *, masks: bool) -> Case:
    """Write an annotation file and return detections for it."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(100, 200)), int(rng.integers(100, 200))
    image_ids = rng.choice(10**6, size=int(rng.integers(1, 9)), replace=False).tolist()
    category_ids = sorted(rng.choice(500, size=int(rng.integers(1, 5)), replace=False).tolist())
    annotations: list[dict[str, Any]] = []
    for image_id in image_ids[: max(1, len(image_ids) - int(rng.integers(0, 3)))]:      # the others stay empty
        for _ in range(int(rng.integers(1, 12))):
            box = random_box(rng, height, width)
            crowd = int(rng.random() < 0.15)
            x, y, w, h = box
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append({
                'id': int(len(annotations) * 7 + 1), 'image_id': image_id,
                'category_id': int(rng.choice(category_ids[:-1] or category_ids)),      # one without ground truth
                'bbox': box, 'area': w * h, 'iscrowd': crowd,
                'segmentation': rle_of(box, height, width) if crowd else [polygon]})
    content: dict[str, Any] = {
        'images': [{'id': i, 'height': height, 'width': width, 'file_name': f'{i}.jpg'} for i in image_ids],
        'categories': [{'id': i, 'name': f'c{i}'} for i in category_ids], 'annotations': annotations}
    if rng.random() < 0.5:
        content['info'] = {}
    path = folder / f'{seed}-{masks}.json'
    path.write_text(json.dumps(content))
    return Case(path, _detect(rng, annotations, image_ids, category_ids, (height, width), masks=masks))


def _detect(rng: np.random.Generator, annotations: list[dict[str, Any]], image_ids: list[int], category_ids: list[int],
            size: tuple[int, int], *, masks: bool) -> DetectionRows:
    ids, categories, boxes = [], [], []
    for image_id in image_ids:
        own = [a for a in annotations if a['image_id'] == image_id]
        count = int(rng.choice([0, 3, 20, 140]))
        for _ in range(count):
            copied = own[int(rng.integers(len(own)))] if own and rng.random() < 0.6 else None
            box = list(copied['bbox']) if copied else random_box(rng, *size)
            if copied and rng.random() < 0.7:
                box[2] = max(0.0, box[2] * float(rng.choice([0.5, 0.75, 0.9])))          # IoU on the thresholds
            ids.append(image_id)
            categories.append(copied['category_id'] if copied and rng.random() < 0.8 else int(rng.choice(category_ids)))
            boxes.append(box)
    scores = rng.choice([0.1, 0.5, 0.5, 0.9, 1.0], size=len(ids)) if rng.random() < 0.5 else rng.random(len(ids))
    order = rng.permutation(len(ids))
    return make_rows([ids[i] for i in order], [categories[i] for i in order], [boxes[i] for i in order], scores,
                     rles=[rle_of(boxes[i], *size) for i in order] if masks else None, seen_image_ids=image_ids)


@pytest.fixture
def nasty_case(tmp_path: Path) -> Callable[..., Case]:
    """A function of a seed and ``masks`` that makes a case in the test's own folder."""
    def make(seed: int, *, masks: bool = False) -> Case:
        return make_case(seed, tmp_path, masks=masks)
    return make
