"""Anchor labels and losses against the reference's rules, written out image by image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from mlperf_det.models.balanced_sampling import Drawn
from mlperf_det.models.legacy_boxes import to_inclusive
from mlperf_det.models.maskrcnn_anchors import STRIDES, cell_anchors, pyramid_anchors
from mlperf_det.models.rpn_loss import ANCHORS_PER_IMAGE, draw_anchors, rpn_losses

SIZES = torch.tensor([[210, 270], [224, 288], [224, 288]])


@pytest.fixture(scope='module')
def anchors() -> Tensor:
    grids = [(56, 72), (28, 36), (14, 18), (7, 9), (4, 5)]
    return torch.cat(pyramid_anchors(torch.stack([cell_anchors(stride, 8) for stride in STRIDES]), grids))


def random_boxes(seed: int) -> tuple[Tensor, Tensor]:
    """Twins and labels of three images: five boxes, two, none; padded to eight."""
    generator = torch.Generator().manual_seed(seed)
    side = 8 + 150 * torch.rand(3, 8, 2, generator=generator) ** 2
    corner = torch.rand(3, 8, 2, generator=generator) * (torch.tensor([270., 210]) - side)
    labels = torch.full((3, 8), -1)
    labels[0, :5], labels[1, :2] = 3, 7
    return torch.cat([corner, corner + side], dim=2) * (labels >= 0)[..., None], labels


def labels_by_the_rules(anchors: Tensor, boxes: Tensor, size: Tensor) -> Tensor:
    """1, 0 or -1 for each anchor: torchvision's matcher, then the visibility of the inclusive corners."""
    if len(boxes):
        matched = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(boxes, anchors))
        labels = torch.where(matched >= 0, 1, torch.where(matched == -1, 0, -1))
    else:
        labels = torch.zeros(len(anchors), dtype=torch.int64)
    inclusive = to_inclusive(anchors)
    visible = ((inclusive[:, 0] >= 0) & (inclusive[:, 1] >= 0) & (inclusive[:, 2] < size[1])
               & (inclusive[:, 3] < size[0]))
    return torch.where(visible, labels, -1)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**62))
def test_drawn_anchors_have_the_labels_of_the_rules(anchors: Tensor, seed: int) -> None:
    boxes, labels = random_boxes(seed)
    drawn, targets = draw_anchors(anchors, boxes, labels, SIZES)
    for image in range(3):
        real = boxes[image, labels[image] >= 0]
        expected = labels_by_the_rules(anchors, real, SIZES[image])
        used, positive = drawn.used[image], drawn.positive[image]
        assert used.sum() == ANCHORS_PER_IMAGE
        assert (expected[drawn.index[image][used]] == positive[used].long()).all()
        assert positive.sum() == min(128, (expected == 1).sum())
        if positive.any():
            best = box_iou(anchors[drawn.index[image][positive]], real).max(dim=1).indices
            assert torch.equal(targets[image][positive], real[best])
    assert drawn.positive[0].any()
    assert not drawn.positive[2].any()


def test_anchors_that_cross_the_border_are_never_drawn(anchors: Tensor) -> None:
    boxes, labels = torch.tensor([[[0., 0, 20, 12]]]), torch.zeros(1, 1, dtype=torch.int64)
    size = torch.tensor([[224, 288]])
    everywhere = labels_by_the_rules(anchors + 1000, boxes[0] + 1000, torch.tensor([5000, 5000]))
    matched = everywhere == 1
    assert matched.any()
    assert (labels_by_the_rules(anchors, boxes[0], size[0])[matched] == -1).all(), 'all of its matches lie outside'
    drawn, _ = draw_anchors(anchors, boxes, labels, size)
    assert not drawn.positive.any()
    inclusive = to_inclusive(anchors[drawn.index[0]])
    assert (inclusive >= 0).all()
    assert (inclusive[:, 2] < 288).all()
    assert (inclusive[:, 3] < 224).all()


def smooth_l1(difference: float, beta: float) -> float:
    size = abs(difference)
    return 0.5 * size * size / beta if size < beta else size - 0.5 * beta


def test_losses(anchors: Tensor) -> None:
    torch.manual_seed(1)
    boxes, labels = random_boxes(1)
    logits, offsets = torch.randn(3, len(anchors)), torch.randn(3, len(anchors), 4) * 0.2
    drawn, targets = draw_anchors(anchors, boxes, labels, SIZES)
    chosen = drawn.index[..., None].expand(-1, -1, 4)
    losses = rpn_losses(logits.gather(1, drawn.index), offsets.gather(1, chosen), anchors, drawn, targets)
    entropy = distance = 0.0
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    for image in range(3):
        index, positive = drawn.index[image], drawn.positive[image]
        probability = logits[image, index].double().sigmoid()
        entropy += -torch.where(positive, probability, 1 - probability).log().sum().item()
        wanted = coder.encode_single(targets[image][positive], anchors[index[positive]])
        distance += sum(smooth_l1(value, 1 / 9)
                        for value in (offsets[image, index[positive]] - wanted).flatten().tolist())
    count = drawn.used.sum().item()
    assert count == 3 * 256
    assert losses['objectness'].item() == pytest.approx(entropy / count, rel=1e-4)
    assert losses['rpn_box_reg'].item() == pytest.approx(distance / count, rel=1e-4)
    assert distance > 0


def test_nothing_drawn_gives_zero_and_finite_gradients(anchors: Tensor) -> None:
    logits = torch.randn(1, 256, requires_grad=True)
    offsets = torch.randn(1, 256, 4, requires_grad=True)
    none = torch.zeros(1, 256, dtype=torch.bool)
    drawn = Drawn(index=torch.zeros(1, 256, dtype=torch.int64), positive=none, used=none)
    losses = rpn_losses(logits, offsets, anchors, drawn, torch.zeros(1, 256, 4))
    sum(losses.values()).backward()
    assert [value.item() for value in losses.values()] == [0, 0]
    assert logits.grad.abs().sum() == offsets.grad.abs().sum() == 0
