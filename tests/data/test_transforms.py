"""Crop, mirror and resize: the reference's rules hold for every draw; pixels follow Pillow."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlperf_det.data import ssd_augment
from mlperf_det.data.color_jitter import ColorJitter
from mlperf_det.data.ssd_augment import MODES, mirror, random_crop
from mlperf_det.data.transforms import SquashTransform, SsdTrainTransform, squash

NO_JITTER = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0)


@st.composite
def box_lists(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    corners = rng.uniform(0, 0.8, (draw(st.integers(1, 12)), 2))
    sizes = rng.uniform(0.01, 1, corners.shape) * (1 - corners)
    return np.concatenate([corners, corners + sizes], axis=1)


def iou_with(window: tuple[float, float, float, float], box: np.ndarray) -> float:
    width = min(window[2], box[2]) - max(window[0], box[0])
    height = min(window[3], box[3]) - max(window[1], box[1])
    overlap = max(width, 0) * max(height, 0)
    area = (box[2] - box[0]) * (box[3] - box[1]) + (window[2] - window[0]) * (window[3] - window[1])
    return overlap / (area - overlap)


class SpyRng:
    """A generator that remembers the modes it drew."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.modes: list[float | None] = []

    def integers(self, high: int) -> int:
        mode = int(self._rng.integers(high))
        self.modes.append(MODES[mode])
        return mode

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._rng.random(shape)


@settings(max_examples=300, deadline=None)
@given(boxes=box_lists(), seed=st.integers(0, 2**32), attempts=st.sampled_from([1, 50]))
def test_every_accepted_crop_obeys_the_rules(boxes: np.ndarray, seed: int, attempts: int) -> None:
    rng = SpyRng(seed)
    crop = random_crop(boxes, attempts, rng)
    threshold = rng.modes[-1]
    if threshold is None:
        assert crop.window is None
        assert crop.kept.all()
        np.testing.assert_array_equal(crop.boxes, boxes)
        return
    left, top, right, bottom = crop.window
    width, height = right - left, bottom - top
    assert 0 <= left < right <= 1 + 1e-12
    assert 0 <= top < bottom <= 1 + 1e-12
    assert 0.3 <= width <= 1 + 1e-12
    assert 0.3 <= height <= 1 + 1e-12
    assert 0.5 - 1e-9 <= width / height <= 2 + 1e-9
    if threshold > 0:
        # All boxes of the image, not only those that are kept.
        assert min(iou_with(crop.window, box) for box in boxes) > threshold - 1e-12
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > (left, top)) & (centres < (right, bottom))).all(axis=1)
    np.testing.assert_array_equal(crop.kept, inside)
    assert inside.any()
    assert (crop.boxes >= 0).all()
    assert (crop.boxes <= 1).all()
    assert (crop.boxes[:, 2:] > crop.boxes[:, :2]).all()
    # Mapped back, a kept box is its part inside the window.
    back = crop.boxes * [width, height, width, height] + [left, top, left, top]
    expected = np.clip(boxes[inside], [left, top, left, top], [right, bottom, right, bottom])
    np.testing.assert_allclose(back, expected, atol=1e-12)


def test_modes_are_drawn_uniformly_and_redrawn_after_each_failure() -> None:
    # A small box fails every threshold, so only "unchanged" and "no constraint" ever return.
    boxes = np.array([[0.5, 0.5, 0.52, 0.52]])
    drawn: Counter[float | None] = Counter()
    returned: Counter[float | None] = Counter()
    for seed in range(2000):
        rng = SpyRng(seed)
        random_crop(boxes, 1, rng)
        drawn.update(rng.modes)
        returned[rng.modes[-1]] += 1
    total = sum(drawn.values())
    for mode in MODES:
        # Binomial: four standard deviations.
        assert abs(drawn[mode] / total - 1 / 7) < 4 * np.sqrt(6 / 49 / total)
    assert set(returned) == {None, float('-inf')}
    assert returned[None] > returned[float('-inf')], 'a crop can miss the box, the unchanged image cannot'
    assert returned[None] / 2000 > 1 / 2


def test_more_attempts_make_constrained_crops_more_frequent() -> None:
    boxes = np.array([[0.1, 0.1, 0.9, 0.9]])

    def whole_images(attempts: int) -> int:
        return sum(random_crop(boxes, attempts, np.random.default_rng(seed)).window is None for seed in range(1500))

    assert whole_images(50) < 0.75 * whole_images(1)


def test_an_image_without_boxes_stays_whole() -> None:
    crop = random_crop(np.zeros((0, 4)), 1, np.random.default_rng(0))
    assert crop.window is None
    assert crop.boxes.shape == (0, 4)


def test_pixels_of_a_crop_are_truncated_and_never_empty() -> None:
    crop = ssd_augment.Crop(window=(0.255, 0.5, 0.999, 0.9), kept=np.ones(0, bool), boxes=np.zeros((0, 4)))
    assert crop.pixels(100, 200) == (slice(50, 90), slice(51, 199))
    assert crop.pixels(1, 1) == (slice(0, 1), slice(0, 1))


@given(boxes=box_lists())
def test_mirroring_twice_changes_nothing(boxes: np.ndarray) -> None:
    mirrored = mirror(boxes)
    np.testing.assert_allclose(mirror(mirrored), boxes, atol=1e-15)
    np.testing.assert_allclose(mirrored[:, 2] - mirrored[:, 0], boxes[:, 2] - boxes[:, 0], atol=1e-15)
    np.testing.assert_array_equal(mirrored[:, 1::2], boxes[:, 1::2])


@pytest.mark.parametrize('shape', [(480, 640), (640, 427), (300, 300), (97, 211), (30, 20)])
def test_squash_is_within_one_level_of_pillow(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng()
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    mine = squash(image, 300, antialias=True).permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(image).resize((300, 300), Image.Resampling.BILINEAR))
    difference = np.abs(mine.astype(int) - expected)
    # Both round after each of two passes. A second level needs neighbours that all round apart, and the last pass too.
    assert difference.max() <= 2
    assert (difference <= 1).mean() > 1 - 1e-4


def marked_image(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Black, with a white rectangle at ltrb ``box``."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    return image


@pytest.mark.parametrize('seed', range(40))
def test_boxes_follow_the_pixels(seed: int) -> None:
    height, width, box = 240, 320, (90, 60, 230, 190)
    boxes = np.array([box]) / (width, height, width, height)
    transform = SsdTrainTransform(300, 1, NO_JITTER)
    rng = np.random.default_rng(seed)
    image, targets, labels = transform(marked_image(height, width, box), boxes, np.array([3]), rng)
    assert image.shape == (3, 300, 300)
    assert image.dtype == torch.uint8
    assert targets.dtype == torch.float32
    assert labels.tolist() == [3]
    bright = image[0] > 127
    rows, columns = torch.nonzero(bright.any(dim=1)), torch.nonzero(bright.any(dim=0))
    found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    # Whole pixels of the crop against exact fractions: a source pixel is at most 300 / 72 pixels of the result.
    torch.testing.assert_close(found.float(), targets[0], atol=4.5, rtol=0)


def test_half_of_the_images_are_mirrored() -> None:
    boxes = np.array([[0.0, 0.2, 0.4, 0.9]])
    image = marked_image(40, 40, (0, 0, 1, 1))
    transform = SsdTrainTransform(16, 1, NO_JITTER)
    mirrored = 0
    for seed in range(800):
        rng = np.random.default_rng(seed)
        _, targets, _ = transform(image, boxes, np.array([0]), rng)
        # The box touches the left edge in every crop; mirrored it touches the right one.
        mirrored += bool(targets[0, 2] == 16 and targets[0, 0] > 0)
    assert 300 < mirrored < 500


def test_the_same_generator_state_gives_the_same_sample_and_another_one_does_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes, labels = np.array([[0.1, 0.1, 0.8, 0.9]]), np.array([1])
    transform = SsdTrainTransform(64, 50)
    first, again, other = (transform(image, boxes, labels, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_the_evaluation_transform_only_resizes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    rng = np.random.default_rng(3)
    state = rng.bit_generator.state
    transform = SquashTransform(64, antialias=True)
    pixels, boxes, labels = transform(image, np.array([[0.25, 0.5, 1, 1]]), np.array([5]), rng)
    assert torch.equal(pixels, squash(image, 64, antialias=True))
    assert boxes.tolist() == [[16, 32, 64, 64]]
    assert labels.tolist() == [5]
    assert rng.bit_generator.state == state
