from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.box_coding import centers_to_corners
from mlperf_det.models.default_boxes import default_boxes
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.models.ssd_loss import build_targets, ssd_losses

BOXES = 8732


@pytest.fixture(scope='module')
def defaults() -> Tensor:
    return default_boxes(SSD300_RESNET34)


@pytest.fixture(scope='module')
def sample(defaults: Tensor) -> tuple[Tensor, Tensor]:
    boxes = torch.tensor([[[.1, .2, .5, .7], [.6, .6, .65, .68]]])
    return build_targets(boxes, torch.tensor([[0, 1]]), defaults, centers_to_corners(defaults))


def reference_losses(localization: Tensor, logits: Tensor, offsets: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The loss as published: masks from two argsorts, image by image."""
    box_losses, class_losses = [], []
    for image in range(len(classes)):
        positive = classes[image] > 0
        count = int(positive.sum())
        error = F.smooth_l1_loss(localization[image].T, offsets[image], reduction='none').sum(dim=1)
        entropy = -logits[image].T.log_softmax(dim=1)[torch.arange(classes.shape[1]), classes[image]]
        mined = entropy.detach().clone()
        mined[positive] = 0
        rank = mined.argsort(descending=True).argsort()
        chosen = positive | (rank < min(3 * count, classes.shape[1]))
        scale = 1 / count if count else 0.0
        box_losses.append(error[positive].sum() * scale)
        class_losses.append(entropy[chosen].sum() * scale)
    return torch.stack(box_losses).mean(), torch.stack(class_losses).mean()


def test_targets_of_the_published_sample(sample: tuple[Tensor, Tensor]) -> None:
    offsets, classes = sample
    torch.testing.assert_close(
        offsets[0, [8084, 5267]],
        torch.tensor([[.8125, -.7313, -.1264, .9893], [-.3367, -1.3469, .0505, -1.0652]]), rtol=0, atol=5e-5)
    assert classes[0].bincount().tolist() == [BOXES - 16, 12, 4]
    assert (offsets[0][classes[0] == 0] == 0).all()


def test_losses_of_zero_outputs(sample: tuple[Tensor, Tensor]) -> None:
    losses = ssd_losses(torch.zeros(1, 4, BOXES), torch.zeros(1, 81, BOXES), *sample)
    assert float(losses['localization']) == pytest.approx(2.6793, abs=5e-5)
    assert float(losses['classification']) == pytest.approx(4 * math.log(81), abs=1e-5)
    assert float(sum(losses.values())) == pytest.approx(20.2571, abs=1e-4)


def test_losses_of_the_published_waves(sample: tuple[Tensor, Tensor]) -> None:
    index = torch.arange(BOXES, dtype=torch.float32)
    localization = torch.sin(0.01 * index * torch.arange(1, 5).unsqueeze(1)).unsqueeze(0)
    logits = torch.cos(0.001 * index * torch.arange(1, 82).unsqueeze(1)).unsqueeze(0)
    losses = ssd_losses(localization, logits, *sample)
    assert float(losses['localization']) == pytest.approx(3.4221, abs=1e-4)
    assert float(losses['classification']) == pytest.approx(22.4855, abs=1e-4)


def random_problem(images: int, boxes: int, positives: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    classes = torch.zeros(images, boxes, dtype=torch.int64)
    for image, count in enumerate(positives):
        classes[image, torch.randperm(boxes)[:count]] = torch.randint(1, 7, (count,))
    offsets = torch.randn(images, boxes, 4) * (classes > 0).unsqueeze(-1)
    return (torch.randn(images, 4, boxes, requires_grad=True), torch.randn(images, 7, boxes, requires_grad=True),
            offsets, classes)


def test_losses_and_gradients_equal_the_published_form() -> None:
    # the third image has more positives than a quarter, the fourth none, the fifth nothing but positives
    localization, logits, offsets, classes = random_problem(5, 120, [1, 9, 40, 0, 120])
    ours = ssd_losses(localization, logits, offsets, classes)
    gradients = torch.autograd.grad(ours['localization'] + ours['classification'], (localization, logits))
    box_loss, class_loss = reference_losses(localization, logits, offsets, classes)
    torch.testing.assert_close(ours['localization'], box_loss)
    torch.testing.assert_close(ours['classification'], class_loss)
    expected = torch.autograd.grad(box_loss + class_loss, (localization, logits))
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_an_image_without_boxes_has_loss_zero_and_finite_gradients(defaults: Tensor) -> None:
    corners = centers_to_corners(defaults)
    for labels in (torch.full((1, 3), -1), torch.zeros(1, 0, dtype=torch.int64)):
        offsets, classes = build_targets(torch.zeros(1, labels.shape[1], 4), labels, defaults, corners)
        outputs = [torch.randn(1, width, BOXES, requires_grad=True) for width in (4, 81)]
        losses = ssd_losses(*outputs, offsets, classes)
        assert all(loss.item() == 0 for loss in losses.values())
        for gradient in torch.autograd.grad(losses['localization'] + losses['classification'], outputs):
            assert (gradient == 0).all()


def test_the_loss_does_not_depend_on_order_or_sharding() -> None:
    localization, logits, offsets, classes = random_problem(4, 200, [3, 17, 1, 8])
    whole = ssd_losses(localization, logits, offsets, classes)
    shuffled = torch.tensor([2, 0, 3, 1])
    again = ssd_losses(localization[shuffled], logits[shuffled], offsets[shuffled], classes[shuffled])
    halves = [ssd_losses(localization[part], logits[part], offsets[part], classes[part])
              for part in (slice(0, 2), slice(2, 4))]
    for name, loss in whole.items():
        torch.testing.assert_close(again[name], loss)
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, loss)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_scored_in_float32(dtype: torch.dtype) -> None:
    localization, logits, offsets, classes = random_problem(2, 200, [5, 9])
    low = localization.detach().to(dtype), logits.detach().to(dtype)
    losses = ssd_losses(*low, offsets, classes)
    expected = ssd_losses(low[0].float(), low[1].float(), offsets, classes)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected[name])
