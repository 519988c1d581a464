"""Detections against the reference's loop over classes, with inclusive boxes and torchvision's operators."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, nms

from mlperf_det.models.legacy_boxes import to_inclusive, to_twins
from mlperf_det.models.maskrcnn_inference import find_boxes, to_original

CLASSES = 5
SIZES = torch.tensor([[300, 400], [250, 333]])


def random_outputs(seed: int, proposals: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, proposals, 2, generator=generator) * 250
    boxes = torch.cat([corner, corner + 10 + 80 * torch.rand(2, proposals, 2, generator=generator)], dim=2)
    return (torch.randn(2, proposals, CLASSES, generator=generator) * 2,
            torch.randn(2, proposals, CLASSES, 4, generator=generator) * 0.5, boxes,
            torch.rand(2, proposals, generator=generator) > 0.1)


def legacy_decode(offset: list[float], twin: Tensor, size: Tensor) -> list[float]:
    x1, y1, x2, y2 = to_inclusive(twin).tolist()
    w, h = x2 - x1 + 1, y2 - y1 + 1
    dx, dy, dw, dh = offset[0] / 10, offset[1] / 10, offset[2] / 5, offset[3] / 5
    most = math.log(1000 / 16)
    pw, ph = math.exp(min(dw, most)) * w, math.exp(min(dh, most)) * h
    cx, cy = x1 + 0.5 * w + dx * w, y1 + 0.5 * h + dy * h
    corners = cx - 0.5 * pw, cy - 0.5 * ph, cx + 0.5 * pw - 1, cy + 0.5 * ph - 1
    height, width = size.tolist()
    return [min(max(v, 0), most - 1) for v, most in zip(corners, (width, height) * 2, strict=True)]


def detections_by_class(logits: Tensor, offsets: Tensor, boxes: Tensor, size: Tensor
                        ) -> list[tuple[float, int, list[float]]]:
    """Score, class and inclusive box of the 100 best detections of one image; not where rounding decides."""
    found = []
    scores = logits.softmax(dim=1)
    assume(((scores - 0.05).abs() > 1e-6).all())
    for cls in range(1, CLASSES):
        rows = (scores[:, cls] > 0.05).nonzero().squeeze(1)
        if not len(rows):
            continue
        decoded = torch.tensor([legacy_decode(offsets[row, cls].tolist(), boxes[row], size) for row in rows.tolist()])
        assume(((box_iou(to_twins(decoded), to_twins(decoded)) - 0.5).abs() > 1e-5).all())
        for kept in nms(to_twins(decoded), scores[rows, cls], 0.5).tolist():
            found.append((scores[rows[kept], cls].item(), cls, decoded[kept].tolist()))
    assume(len({score for score, _, _ in found}) == len(found))
    return sorted(found, reverse=True)[:100]


@pytest.mark.parametrize('proposals', [30, 200])
@settings(max_examples=3)
@given(seed=st.integers(0, 2**62))
def test_equals_the_loop_over_classes(proposals: int, seed: int) -> None:
    logits, offsets, boxes, present = random_outputs(seed, proposals)
    found = find_boxes(logits, offsets, boxes, present, SIZES)
    assert found.boxes.shape == (2, 100, 4)
    for image in range(2):
        rows = present[image]
        expected = detections_by_class(logits[image, rows], offsets[image, rows], boxes[image, rows],
                                       SIZES[image])
        count = int(found.valid[image].sum())
        assert count == len(expected)
        torch.testing.assert_close(found.scores[image, :count], torch.tensor([score for score, _, _ in expected]))
        assert found.classes[image, :count].tolist() == [cls for _, cls, _ in expected]
        torch.testing.assert_close(to_inclusive(found.boxes[image, :count]),
                                   torch.tensor([box for _, _, box in expected]), atol=1e-3, rtol=1e-4)
        assert not found.scores[image, count:].any()
        assert not found.classes[image, count:].any()
    assert found.valid.all() == (proposals == 200)




def test_absent_proposals_and_low_scores_give_nothing() -> None:
    logits, offsets, boxes, present = random_outputs(2, 10)
    nothing = find_boxes(logits, offsets, boxes, torch.zeros_like(present), SIZES)
    assert not nothing.valid.any()
    logits[..., 0] = 10
    assert not find_boxes(logits, offsets, boxes, present, SIZES).valid.any()


def test_tiny_boxes_stay() -> None:
    logits, offsets, boxes, present = random_outputs(3, 200)
    offsets[..., 2:] = -100.0
    found = find_boxes(logits, offsets, boxes, present, SIZES)
    assert found.valid.all()
    assert (found.boxes[..., 2:] - found.boxes[..., :2]).min() < 1e-3, 'torchvision drops boxes under a hundredth'


def test_boxes_are_written_as_coco_counts_them() -> None:
    # Inclusive (10, 20, 49, 79) at 800x1066 of an image of 480x640; width in the file is x2 - x1 + 1 there.
    twin = to_twins(torch.tensor([[[10., 20, 49, 79]]]))
    original = to_original(twin, torch.tensor([[800, 1066]]), torch.tensor([[480, 640]]))[0, 0]
    x, y = 640 / 1066, 480 / 800
    expected = torch.tensor([10 * x, 20 * y, 49 * x - 10 * x + 1, 79 * y - 20 * y + 1])
    torch.testing.assert_close(torch.cat([original[:2], original[2:] - original[:2]]), expected)
