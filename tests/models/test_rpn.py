"""Proposals against a plain loop with torchvision's operators and the reference's inclusive formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, nms

from mlperf_det.models.legacy_boxes import to_inclusive, to_twins
from mlperf_det.models.maskrcnn_anchors import STRIDES, cell_anchors, pyramid_anchors
from mlperf_det.models.rpn import RpnHead, propose, select_over_batch, select_per_image, surroundings

GRIDS = [(56, 72), (28, 36), (14, 18), (7, 9), (4, 5)]
SIZES = torch.tensor([[224, 288], [201, 260]])


def random_outputs(seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    anchors = pyramid_anchors(torch.stack([cell_anchors(stride, 8) for stride in STRIDES]), GRIDS)
    logits = [torch.randn(2, len(level), generator=generator) for level in anchors]
    offsets = [torch.randn(2, len(level), 4, generator=generator) * 0.4 for level in anchors]
    return logits, offsets, anchors


def legacy_decode(offset: Tensor, anchor: Tensor, height: int, width: int) -> list[float]:
    """The reference's decoding and clipping of one inclusive anchor, in Python numbers."""
    (dx, dy, dw, dh), (x1, y1, x2, y2) = offset.tolist(), anchor.tolist()
    w, h = x2 - x1 + 1, y2 - y1 + 1
    cx, cy = x1 + 0.5 * w + dx * w, y1 + 0.5 * h + dy * h
    most = math.log(1000 / 16)
    pw, ph = math.exp(min(dw, most)) * w, math.exp(min(dh, most)) * h
    corners = cx - 0.5 * pw, cy - 0.5 * ph, cx + 0.5 * pw - 1, cy + 0.5 * ph - 1
    return [min(max(value, 0), side - 1) for value, side in zip(corners, (width, height) * 2, strict=True)]


def proposals_one_by_one(image: int, per_level: int, outputs: tuple[list[Tensor], ...]) -> list[tuple[float, Tensor]]:
    """Score and inclusive box of each proposal of an image, best first; inputs that rounding decides are left out."""
    found = []
    for logits, offsets, anchors in zip(*outputs, strict=True):
        best = logits[image].argsort(descending=True)[:per_level]
        boxes = torch.tensor([legacy_decode(offsets[image, i], to_inclusive(anchors[i]), *SIZES[image].tolist())
                              for i in best.tolist()])
        assume(((box_iou(to_twins(boxes), to_twins(boxes)) - 0.7).abs() > 1e-5).all())
        kept = nms(to_twins(boxes), logits[image, best], 0.7)
        found += list(zip(logits[image, best][kept].tolist(), boxes[kept], strict=True))
    assume(len({score for score, _ in found}) == len(found))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize('per_level', [60, 500])
@settings(max_examples=3)
@given(seed=st.integers(0, 2**62))
def test_proposals(per_level: int, seed: int) -> None:
    outputs = random_outputs(seed)
    boxes, scores = propose(*outputs, SIZES, per_level=per_level)
    assert boxes.shape == (2, 5 * per_level, 4)
    for image in range(2):
        expected = proposals_one_by_one(image, per_level, outputs)
        real = scores[image] > -torch.inf
        assert real.sum() == len(expected) < 5 * per_level
        order = scores[image].argsort(descending=True)[:len(expected)]
        torch.testing.assert_close(scores[image, order], torch.tensor([score for score, _ in expected]))
        torch.testing.assert_close(to_inclusive(boxes[image, order]), torch.stack([box for _, box in expected]),
                                   atol=1e-3, rtol=1e-4)


def test_tiny_boxes_stay() -> None:
    logits, offsets, anchors = random_outputs(3)
    for level in offsets:
        level[..., 2:] = -20.0
    boxes, scores = propose(logits, offsets, anchors, SIZES, per_level=50)
    sides = (boxes[..., 2:] - boxes[..., :2])[scores > -torch.inf]
    assert (sides <= 1).any()
    assert len(sides) > 400, 'boxes thinner than a pixel were dropped'


def test_training_cuts_over_the_whole_batch_not_per_image() -> None:
    scores = torch.tensor([[9., 8, 7, -torch.inf], [6., 1, 0, -2]])
    assert select_over_batch(scores, 4).tolist() == [[True, True, True, False], [True, False, False, False]]
    assert select_over_batch(scores, 100).sum() == 7, 'suppressed proposals must not come back'


def test_evaluation_cuts_per_image() -> None:
    boxes = torch.arange(2 * 4 * 4).view(2, 4, 4).float()
    scores = torch.tensor([[1., 3, -torch.inf, 2], [-torch.inf, -torch.inf, 0, -torch.inf]])
    chosen, present = select_per_image(boxes, scores, 3)
    assert torch.equal(chosen[0], boxes[0, [1, 3, 0]])
    assert present.tolist() == [[True] * 3, [True, False, False]]
    assert torch.equal(chosen[1, 0], boxes[1, 2])


def random_pyramid(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 16, *grid, generator=generator) for grid in GRIDS[2:]]


def maps_of_layers(head: RpnHead, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The head written out layer by layer, on all anchors and with gradients: (N, A) and (N, A, 4)."""
    logits, offsets = [], []
    for level in pyramid:
        hidden = head.conv(level).relu()
        height, width = level.shape[2:]
        logits.append(head.cls_logits(hidden).permute(0, 2, 3, 1).reshape(2, height * width * 3))
        offsets.append(head.bbox_pred(hidden).view(2, 3, 4, height, width).permute(0, 3, 4, 1, 2).reshape(2, -1, 4))
    return torch.cat(logits, dim=1), torch.cat(offsets, dim=1)


def test_head_is_that_of_its_layers_and_orders_anchors_as_the_anchors_are() -> None:
    head, pyramid = RpnHead(16), random_pyramid(1)
    for found, expected in zip(head(pyramid), maps_of_layers(head, pyramid), strict=True):
        torch.testing.assert_close(torch.cat(found, dim=1), expected)


def test_surroundings_are_what_a_convolution_sees() -> None:
    pyramid = random_pyramid(2)
    everywhere = torch.cat([F.unfold(level, 3, padding=1).view(2, 16, 9, -1) for level in pyramid], dim=3)
    cells = torch.stack([torch.randperm(everywhere.shape[3]) for _ in range(2)])
    expected = everywhere.permute(0, 3, 2, 1).gather(1, cells[..., None, None].expand(-1, -1, 9, 16))
    assert torch.equal(surroundings(pyramid, cells), expected)


def test_chosen_anchors_have_the_values_and_the_gradients_of_the_whole_maps() -> None:
    head = RpnHead(16)
    anchors = torch.randint(3 * sum(h * w for h, w in GRIDS[2:]), (2, 40))
    anchors[:, :6] = torch.tensor([0, 1, 2, 2, 2, 4])  # a corner, one cell's three anchors, an anchor drawn thrice
    results = []
    for chosen_only in (False, True):
        pyramid = [level.requires_grad_() for level in random_pyramid(3)]
        head.zero_grad()
        if chosen_only:
            logits, offsets = head.of_anchors(pyramid, anchors)
        else:
            logits, offsets = maps_of_layers(head, pyramid)
            logits, offsets = logits.gather(1, anchors), offsets.gather(1, anchors[..., None].expand(-1, -1, 4))
        (logits.tanh().sum() + (offsets * torch.arange(320.0).view(2, 40, 4)).tanh().sum()).backward()
        results.append([logits, offsets, *(level.grad for level in pyramid), *(p.grad for p in head.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_head_is_exact_in_reduced_precision() -> None:
    head = RpnHead(16)
    torch.nn.init.constant_(head.cls_logits.bias, 100.0)  # bfloat16 knows 100 and 100.5, nothing between
    pyramid = [torch.randn(1, 16, 8, 8)]
    with torch.autocast('cpu', torch.bfloat16):
        logits, _ = head(pyramid)
        again, _ = head.of_anchors(pyramid, torch.arange(192)[None])
    assert logits[0].dtype == again.dtype == torch.float32
    assert len(logits[0].unique()) > 150
    torch.testing.assert_close(again, logits[0], rtol=0, atol=1e-3)
