"""Mask work of Mask R-CNN against pycocotools' and the reference's way: training targets; detections to run lengths."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as mask_utils

from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.coco_masks import read_outlines
from mlperf_det.data.maskrcnn_input import training_targets
from mlperf_det.data.polygon_raster import MASK_SIDE, Polygons, make_polygons, mask_targets
from mlperf_det.evaluation.mask_rle import encode_masks
from tests.evaluation.pasting import paste_and_encode
from tests.perf.case import Case

REAL_ANNOTATIONS = (Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'coco2017-mini' / 'annotations'
                    / 'instances_train2017.json')
HEIGHT, WIDTH = 480, 640
#: Positive regions of one image and of four, with the target; of one image they are too few to outweigh the calls.
REGIONS = {128: None, 512: 5.0}
#: of an image
DETECTIONS = 100


def cases() -> list[Case]:
    return [*(_targets(regions, target) for regions, target in REGIONS.items()), _run_lengths()]


def _targets(regions: int, target: float | None) -> Case:
    """Objects of COCO, or like COCO's; regions near their boxes."""
    rng = np.random.default_rng(regions)
    polygons, kind = _real_objects() if REAL_ANNOTATIONS.is_file() else (_objects(rng), 'synthetic outlines')
    objects = rng.integers(0, len(polygons.object_offsets) - 1, regions)
    rois = np.stack([_near_box(polygons, index, rng) for index in objects])

    def peer() -> np.ndarray:
        return np.stack([_draw_by_pycocotools(parts, roi) for parts, roi in zip(pieces, rois, strict=True)])

    pieces = [_pieces(polygons, index) for index in objects]
    arguments = polygons, torch.from_numpy(objects), torch.from_numpy(rois)
    return Case(name=f'mask targets, {regions} regions', peer=peer, ours=lambda: mask_targets(*arguments).numpy(),
                equal=_same_pixels, target=target, rounds=25, note=f'{kind}; bit-equal')


def _real_objects() -> tuple[Polygons, str]:
    annotations = training_targets(read_annotations(REAL_ANNOTATIONS))
    outlines = read_outlines(REAL_ANNOTATIONS, annotations.annotation_ids)
    polygons = make_polygons(outlines.corners.astype(np.float64), outlines.part_offsets, outlines.object_offsets)
    return polygons, f'outlines of {len(outlines)} COCO objects'


def _objects(rng: np.random.Generator, count: int = 60) -> Polygons:
    """20 to 60 corners, one object in ten of two polygons."""
    corners, lengths, parts = [], [], []
    for _ in range(count):
        centre, radius = rng.uniform(100, 700, 2), np.exp(rng.uniform(np.log(10), np.log(250)))
        sizes = sorted(rng.integers(20, 61, 2 if rng.random() < 0.1 else 1).tolist(), reverse=True)
        for size in sizes:
            angles = np.sort(rng.uniform(0, 2 * np.pi, size))
            waves = 1 + 0.3 * np.sin(3 * angles + rng.uniform(0, 6)) + rng.normal(0, 0.02, size)
            circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            corners.append(np.round(centre + radius * waves[:, None] * circle, 2))
        lengths += sizes
        parts.append(len(sizes))
    return make_polygons(np.concatenate(corners), np.cumsum([0, *lengths]), np.cumsum([0, *parts]))


def _pieces(polygons: Polygons, index: int) -> list[np.ndarray]:
    start, stop = polygons.object_offsets[index:index + 2].tolist()
    bounds = polygons.part_offsets[start:stop + 1].tolist()
    return [polygons.corners[first:last].numpy() for first, last in pairwise(bounds)]


def _near_box(polygons: Polygons, index: int, rng: np.random.Generator) -> np.ndarray:
    corners = np.concatenate(_pieces(polygons, index))
    first, last = corners.min(axis=0), corners.max(axis=0)
    return np.concatenate([first, last]) + rng.normal(0, 0.08, 4) * np.tile(last - first, 2)


def _draw_by_pycocotools(parts: list[np.ndarray], roi: np.ndarray) -> np.ndarray:
    scale = MASK_SIDE / np.maximum(roi[2:] - roi[:2], 1)
    flat = [((part - roi[:2]) * scale).reshape(-1) for part in parts]
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(flat, MASK_SIDE, MASK_SIDE)))


def _same_pixels(peers: np.ndarray, ours: np.ndarray) -> None:
    np.testing.assert_array_equal(ours, peers)
    assert 0.2 < ours.mean() < 0.8, 'the targets are nearly empty or full: the comparison would prove nothing'


def _run_lengths() -> Case:
    """Masks as a trained head gives them: smooth inside and outside, an edge of about two cells."""
    rng = np.random.default_rng(100)
    y, x = np.mgrid[:MASK_SIDE, :MASK_SIDE] - (MASK_SIDE - 1) / 2
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    waves = rng.normal(0, 0.12, (DETECTIONS, 4, 1, 1))
    edge = rng.uniform(8, 14, (DETECTIONS, 1, 1)) * (
        1 + sum(waves[:, k] * np.sin((k + 2) * angle + rng.uniform(0, 6)) for k in range(4)))
    masks = (1 / (1 + np.exp(1.5 * (distance - edge)))).astype(np.float32)
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (DETECTIONS, 2)))
    corners = rng.random((DETECTIONS, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
    boxes = np.concatenate([corners, np.minimum(corners + sides, [WIDTH, HEIGHT])], axis=1)
    boxes = boxes.astype(np.float32).astype(np.float64)
    return Case(
        name=f'pasting and run lengths, {DETECTIONS} masks',
        peer=lambda: [paste_and_encode(mask, box, HEIGHT, WIDTH)['counts']
                      for mask, box in zip(masks, boxes, strict=True)],
        ours=lambda: [rle['counts'] for rle in encode_masks(masks, boxes, HEIGHT, WIDTH)], equal=_same_strings,
        target=5.0, rounds=15, note=f'image of {WIDTH} x {HEIGHT}, boxes of 8 to 400 pixels; the same strings')


def _same_strings(peers: list[bytes], ours: list[bytes]) -> None:
    assert len(set(ours)) > 0.9 * len(ours)
    assert ours == peers, f'{sum(a != b for a, b in zip(ours, peers, strict=True))} masks differ'
