"""Run lengths made inside the box are the very string that pasting the mask and encoding the image gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from mlperf_det.evaluation import mask_rle
from mlperf_det.evaluation.mask_rle import encode_masks, mask_encoder
from mlperf_det.evaluation.rows import rows_from_detections
from mlperf_det.models.detections import Detections
from tests.evaluation.pasting import paste_and_encode


def random_masks(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 28, 28) float32."""
    if kind == 'noise':
        return rng.random((count, 28, 28), dtype=np.float32)
    if kind == 'ties':      # whole areas of exactly 0.5, and crossings exactly on pixels
        return rng.choice(np.array([0, 0.25, 0.5, 0.75, 1], np.float32), (count, 28, 28))
    if kind == 'constant':
        return np.ones((count, 28, 28), np.float32) * rng.choice([0, 0.5, 0.50001, 1], (count, 1, 1)).astype(np.float32)
    coarse = torch.from_numpy(rng.normal(1, 3, (count, 1, 6, 6)).astype(np.float32))
    return F.interpolate(coarse, size=28, mode='bicubic')[:, 0].sigmoid().numpy()


def random_boxes(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 4) float64 of float32 values: of one pixel and more, some beyond the border, some with whole edges."""
    sides = np.exp(rng.uniform(0, np.log(1.2 * max(height, width)), (count, 2)))
    sides[rng.random(count) < 0.1] = 1
    left_top = rng.uniform(-0.2, 1, (count, 2)) * [width, height]
    boxes = np.concatenate([left_top, left_top + sides], axis=1)
    clipped = rng.random(count) < 0.6
    boxes[clipped] = boxes[clipped].clip(0, [width, height] * 2)
    whole = rng.random(count) < 0.3
    boxes[whole] = np.round(boxes[whole])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return boxes.astype(np.float32).astype(np.float64)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**63), kind=st.sampled_from(['noise', 'ties', 'constant', 'blob']),
       height=st.integers(1, 400), width=st.integers(1, 400))
def test_the_string_is_that_of_the_pasted_mask(seed: int, kind: str, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    masks, boxes = random_masks(kind, 8, rng), random_boxes(8, height, width, rng)
    for mask, box, rle in zip(masks, boxes, encode_masks(masks, boxes, height, width), strict=True):
        assert dict(rle) == paste_and_encode(mask, box, height, width), box


def test_the_certain_path_alone_is_nearly_always_taken_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were every mask too near to call, the comparison above would compare the resize with itself."""
    asked = []
    by_resizing = mask_rle._crossings_by_resizing
    monkeypatch.setattr(mask_rle, '_crossings_by_resizing',
                        lambda *arguments: asked.append(1) or by_resizing(*arguments))
    rng = np.random.default_rng()
    encode_masks(random_masks('blob', 400, rng), random_boxes(400, 300, 400, rng), 300, 400)
    assert len(asked) < 120


@pytest.mark.parametrize('threads', [1, 3])
def test_masks_of_several_images_and_many_chunks(threads: int) -> None:
    rng = np.random.default_rng()
    count = 200
    sizes = np.array([[60, 200], [333, 111], [90, 91]])
    images = rng.integers(0, 3, count)
    masks = random_masks('blob', count, rng)
    boxes = np.concatenate([random_boxes(1, *sizes[image], rng) for image in images])
    rles = mask_encoder(torch.from_numpy(sizes), threads=threads)(masks, boxes, images)
    assert len(rles) == count
    for index, rle in enumerate(rles):
        assert dict(rle) == paste_and_encode(masks[index], boxes[index], *sizes[images[index]].tolist())


def test_no_masks() -> None:
    assert encode_masks(np.empty((0, 28, 28), np.float32), np.empty((0, 4)), 10, 10) == []


def test_a_mask_outside_its_image_is_empty() -> None:
    full, beyond = np.ones((1, 28, 28), np.float32), np.array([[500.0, 500.0, 600.0, 600.0]])
    (rle,) = encode_masks(full, beyond, 100, 100)
    assert mask_utils.area(rle) == 0
    assert not mask_utils.decode(rle).any()


def test_large_images_take_long_numbers() -> None:
    masks, box = np.ones((1, 28, 28), np.float32), np.array([[9000.0, 9000.0, 9010.0, 9020.0]])
    (rle,) = encode_masks(masks, box, 12000, 12000)
    assert dict(rle) == paste_and_encode(masks[0], box[0], 12000, 12000)


def test_rows_of_detections_carry_the_masks_of_their_boxes() -> None:
    """Through the seam: a full mask covers its half-open box."""
    detections = Detections(
        boxes=torch.tensor([[[10.0, 20.0, 38.0, 48.0], [0, 0, 0, 0]]]), scores=torch.tensor([[0.9, 0.0]]),
        labels=torch.tensor([[1, 0]]), valid=torch.tensor([[True, False]]), masks=torch.ones(1, 2, 28, 28))
    rows = rows_from_detections(detections, [7], [3, 5], mask_encoder([[60, 50]]))
    assert rows.rles is not None
    (rle,) = rows.rles
    pixels = mask_utils.decode(rle)
    assert pixels.shape == (60, 50)
    # Up to the pixel by which the bordered mask is wider than its box.
    assert pixels[20:47, 10:37].all()
    assert pixels.sum() <= 30 * 30
