"""Regions and the second stage's losses against the reference's rules, written out image by image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from mlperf_det.models.roi_losses import box_loss, classifier_loss, mask_loss
from mlperf_det.models.roi_sampling import Regions, active_slots, draw_regions

CLASSES = 6


def random_problem(seed: int, *, proposals: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Proposals of three images, half of them near a box; the images have four boxes, one, none."""
    generator = torch.Generator().manual_seed(seed)
    side = 20 + 200 * torch.rand(3, 4, 2, generator=generator)
    corner = 300 * torch.rand(3, 4, 2, generator=generator)
    boxes, labels = torch.cat([corner, corner + side], dim=2), torch.full((3, 4), -1)
    labels[0], labels[1, 0] = torch.tensor([0, 2, 4, 2]), 1
    boxes[labels < 0] = 0
    near = boxes[:, torch.randint(4, (proposals // 2,), generator=generator)]
    near = near + torch.randn(near.shape, generator=generator) * 8
    corner = 400 * torch.rand(3, proposals - near.shape[1], 2, generator=generator)
    far = torch.cat([corner, corner + 10 + 200 * torch.rand(corner.shape, generator=generator)], dim=2)
    found = torch.cat([near, far], dim=1)
    found[..., 2:] = torch.maximum(found[..., 2:], found[..., :2] + 1)
    return found, torch.rand(3, proposals, generator=generator) > 0.2, boxes, labels


def draw(seed: int, slots: int = 128) -> tuple[Regions, tuple[Tensor, Tensor, Tensor, Tensor]]:
    problem = random_problem(seed)
    return draw_regions(*problem, slots=slots), problem


@settings(max_examples=4)
@given(seed=st.integers(0, 2**62))
def test_classes_and_objects_follow_the_best_overlap(seed: int) -> None:
    regions, (proposals, present, boxes, labels) = draw(seed)
    for image in range(3):
        real = boxes[image, labels[image] >= 0]
        candidates = torch.cat([proposals[image, present[image]], real])
        used = regions.used[image]
        assert used.sum() == 128
        for row in range(int(used.sum())):
            box = regions.boxes[image, row]
            assert (candidates == box).all(dim=1).any(), 'a region that is neither a proposal nor a box'
            iou, best = box_iou(box[None], real).max(dim=1) if len(real) else (torch.zeros(1), torch.zeros(1).long())
            foreground = iou.item() >= 0.5
            assert regions.positive[image, row] == foreground
            expected = labels[image, best].item() + 1 if foreground else 0
            assert regions.classes[image, row] == expected
            if foreground:
                assert regions.objects[image, row] == best.item()
                assert torch.equal(regions.targets[image, row], real[best[0]])
        assert regions.positive[image].sum() <= 32
    assert regions.positive[0].sum() == 32, 'a quarter is foreground where there is enough'
    assert not regions.positive[2].any()


def test_the_boxes_themselves_are_regions() -> None:
    _, _, boxes, labels = random_problem(9)
    nothing = torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.bool)
    regions = draw_regions(*nothing, boxes, labels, slots=16)
    assert regions.used.sum(dim=1).tolist() == [4, 1, 0]
    assert torch.equal(regions.used, regions.positive)
    assert {tuple(box) for box in regions.boxes[0, :4].tolist()} == {tuple(box) for box in boxes[0].tolist()}


def test_a_batch_without_boxes() -> None:
    proposals, present, _, _ = random_problem(2)
    regions = draw_regions(proposals, present, torch.zeros(3, 8, 4), torch.full((3, 8), -1), slots=64)
    assert regions.used.all()
    assert not regions.positive.any()
    assert not regions.classes.any()


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


@settings(max_examples=2)
@given(seed=st.integers(0, 2**62))
def test_losses(seed: int) -> None:
    regions, _ = draw(seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3 * 128, CLASSES, generator=generator)
    offsets = torch.randn(3 * 128, CLASSES, 4, generator=generator)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    entropy = distance = 0.0
    rows = [(i, r) for i in range(3) for r in range(128)]
    for row, (image, slot) in enumerate(rows):
        cls = int(regions.classes[image, slot])
        entropy -= logits[row].double().log_softmax(0)[cls].item()
        if cls:
            wanted = coder.encode_single(regions.targets[image, slot][None], regions.boxes[image, slot][None])[0]
            distance += sum(smooth_l1(value) for value in (offsets[row, cls] - wanted).tolist())
    assert classifier_loss(logits, regions).item() == pytest.approx(entropy / len(rows), rel=1e-4)
    assert box_loss(offsets, regions).item() == pytest.approx(distance / len(rows), rel=1e-4)
    assert distance > 0


def test_slots_without_a_region_count_in_no_loss() -> None:
    proposals, present, boxes, labels = random_problem(3, proposals=40)
    regions = draw_regions(proposals, present, boxes, labels, slots=128)
    used = regions.used.flatten()
    assert 0 < used.sum() < len(used)
    logits, offsets = torch.randn(3 * 128, CLASSES), torch.randn(3 * 128, CLASSES, 4)
    before = classifier_loss(logits, regions), box_loss(offsets, regions)
    logits[~used], offsets[~used] = 1e6, 1e6
    assert (classifier_loss(logits, regions), box_loss(offsets, regions)) == before
    expected = torch.nn.functional.cross_entropy(logits[used], regions.classes.flatten()[used])
    torch.testing.assert_close(before[0], expected)


def test_background_without_width_leaves_the_gradient_finite() -> None:
    proposals, present, boxes, labels = random_problem(3, proposals=40)
    proposals[..., 2] = proposals[..., 0]
    regions = draw_regions(proposals, present, boxes, labels, slots=128)
    offsets = torch.randn(3 * 128, CLASSES, 4, requires_grad=True)
    box_loss(offsets, regions).backward()
    assert offsets.grad.isfinite().all()
    assert offsets.grad.any()


def test_mask_loss_is_the_mean_over_foreground_pixels() -> None:
    logits, targets = torch.randn(5, 28, 28), torch.randint(2, (5, 28, 28)).float()
    positive = torch.tensor([True, False, True, True, False])
    probability = torch.where(targets[positive] > 0, logits[positive].sigmoid(), 1 - logits[positive].sigmoid())
    torch.testing.assert_close(mask_loss(logits, targets, positive), -probability.log().mean())


def test_mask_loss_without_foreground_is_zero_but_has_gradients() -> None:
    logits = torch.randn(1, 28, 28, requires_grad=True)
    loss = mask_loss(logits, torch.ones(1, 28, 28), torch.tensor([False]))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros(1, 28, 28))


def test_a_head_always_gets_a_slot() -> None:
    active = torch.tensor([[False, True, False], [True, False, True]])
    assert active_slots(active).tolist() == [1, 3, 5]
    assert active_slots(torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0]
