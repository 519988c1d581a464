"""Twins give what the inclusive formulas of the reference give; these are written out here, slowly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mlperf_det.models.legacy_boxes import (
    clip,
    decode_box_outputs,
    encode_box_targets,
    pairwise_iou,
    rescale,
    to_inclusive,
    to_twins,
)


def random_inclusive(count: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 600
    side = 10 + torch.rand(count, 2, generator=generator) * 300
    return torch.cat([corner, corner + side], dim=1)


@pytest.fixture
def generator() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


def legacy_iou(a: list[float], b: list[float]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def legacy_encode(box: list[float], reference: list[float]) -> list[float]:
    (w, h, x, y), (rw, rh, rx, ry) = (
        (b[2] - b[0] + 1, b[3] - b[1] + 1, b[0] + (b[2] - b[0] + 1) / 2, b[1] + (b[3] - b[1] + 1) / 2)
        for b in (box, reference))
    return [10 * (x - rx) / rw, 10 * (y - ry) / rh, 5 * math.log(w / rw), 5 * math.log(h / rh)]


def test_iou(generator: torch.Generator) -> None:
    first, second = random_inclusive(20, generator), random_inclusive(30, generator)
    found = pairwise_iou(to_twins(first), to_twins(second))
    expected = torch.tensor([[legacy_iou(a, b) for b in second.tolist()] for a in first.tolist()])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert (expected > 0).any()


def test_iou_by_hand() -> None:
    # 10x10 and 10x10 pixels that share a column of 10: 10 / 190; touching but not sharing a pixel: 0.
    boxes = to_twins(torch.tensor([[0., 0, 9, 9], [9, 0, 18, 9], [10, 0, 19, 9]]))
    torch.testing.assert_close(pairwise_iou(boxes[:1], boxes)[0], torch.tensor([1, 10 / 190, 0]))
    assert pairwise_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_coding(generator: torch.Generator) -> None:
    boxes, references = random_inclusive(50, generator), random_inclusive(50, generator)
    offsets = encode_box_targets(to_twins(boxes), to_twins(references))
    expected = torch.tensor([legacy_encode(b, r) for b, r in zip(boxes.tolist(), references.tolist(), strict=True)])
    torch.testing.assert_close(offsets, expected, atol=1e-4, rtol=1e-4)
    decoded = to_inclusive(decode_box_outputs(offsets, to_twins(references)))
    torch.testing.assert_close(decoded, boxes, atol=5e-3, rtol=1e-4)


def test_scales_are_bounded_when_decoded() -> None:
    reference = to_twins(torch.tensor([[0., 0, 15, 15]]))
    box = decode_box_outputs(torch.tensor([[0., 0, 100, 100]]), reference)
    assert (box[0, 2] - box[0, 0]).item() == pytest.approx(1000, rel=1e-5)


def test_clip_clamps_the_inclusive_corners(generator: torch.Generator) -> None:
    inclusive = (random_inclusive(2 * 40, generator) * 2 - 300).view(2, 40, 4)
    sizes = torch.tensor([[400, 500], [333, 211]])
    found = to_inclusive(clip(to_twins(inclusive), sizes))
    for image, (height, width) in enumerate(sizes.tolist()):
        for index, most in enumerate((width - 1, height - 1) * 2):
            torch.testing.assert_close(found[image, :, index], inclusive[image, :, index].clamp(0, most),
                                       atol=1e-4, rtol=0)
    assert ((found[..., 2:] - found[..., :2]) >= 0).all()


def test_clip_by_hand() -> None:
    twins = torch.tensor([[[-20., -20, -5, -5], [700, 500, 800, 600], [10, 10, 20, 20]]])
    expected = torch.tensor([[[0., 0, 1, 1], [639, 479, 640, 480], [10, 10, 20, 20]]])
    assert torch.equal(clip(twins, torch.tensor([[480, 640]])), expected)


def test_resizing_multiplies_inclusive_corners() -> None:
    # Inclusive (10, 20, 29, 39) times (1.5, 2) is (15, 40, 43.5, 78): its twin ends a pixel later.
    found = rescale(torch.tensor([[10., 20, 30, 40]]), torch.tensor([[1.5, 2, 1.5, 2]]))
    assert torch.equal(found, torch.tensor([[15., 40, 44.5, 79]]))
