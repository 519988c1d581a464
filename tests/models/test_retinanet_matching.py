from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from mlperf_det.models import blocks
from mlperf_det.models.anchors import cell_anchors, octave_sizes, pyramid_anchors, pyramid_grids
from mlperf_det.models.retinanet_matching import BACKGROUND, IGNORED, gather_matched, match_anchors


@pytest.fixture(scope='module')
def anchors() -> Tensor:
    cells = [cell_anchors(octave_sizes(base), (0.5, 1.0, 2.0)) for base in (32, 64, 128, 256, 512)]
    return pyramid_anchors(800, pyramid_grids(800, 3, 7), cells)


def padded(images: list[Tensor], rows: int) -> tuple[Tensor, Tensor]:
    boxes, labels = torch.zeros(len(images), rows, 4), torch.full((len(images), rows), -1)
    for index, image in enumerate(images):
        boxes[index, :len(image)], labels[index, :len(image)] = image, torch.arange(len(image))
    return boxes, labels


def random_boxes(count: int) -> Tensor:
    size = 800 * torch.rand(count, 2).pow(3).clamp(min=1e-3)
    corner = torch.rand(count, 2) * (800 - size)
    return torch.cat([corner, corner + size], dim=1)


def expected(anchors: Tensor, boxes: Tensor) -> Tensor:
    if not len(boxes):
        return torch.full((len(anchors),), -1)
    return Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, anchors))


def test_published_counts(anchors: Tensor) -> None:
    boxes, labels = padded([torch.tensor([[100.0, 120, 300, 420], [10, 10, 26, 30], [0, 0, 800, 800]])], 3)
    matched = match_anchors(anchors, boxes, labels)[0]
    values, counts = matched.unique(return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        IGNORED: 114, BACKGROUND: 119_878, 0: 35, 1: 4, 2: 56}


@pytest.mark.parametrize('block', [1, 120_087 * 3 * 3, 2**40])
def test_equal_torchvisions_matcher_whatever_the_block(anchors: Tensor, block: int,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, '_CPU_ELEMENTS_PER_THREAD', block)
    images = [random_boxes(7), torch.zeros(0, 4), random_boxes(2)]
    boxes, labels = padded(images, 10)
    matched = match_anchors(anchors, boxes, labels)
    for index, image in enumerate(images):
        assert torch.equal(matched[index], expected(anchors, image))


def test_ties_and_duplicates_as_torchvision(anchors: Tensor) -> None:
    on_anchors = anchors[torch.randint(90_000, (4,))].clamp(0, 800)
    image = torch.cat([on_anchors, on_anchors, anchors[-1:]])  # twice the same box: the first wins
    boxes, labels = padded([image], 16)
    assert torch.equal(match_anchors(anchors, boxes, labels)[0], expected(anchors, image))


def test_a_rescued_anchor_keeps_its_own_best_box() -> None:
    # The first anchor is the only one that touches the second box, but overlaps the first box more.
    anchors = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    boxes, labels = padded([torch.tensor([[0.0, 0, 10, 11], [9, 9, 30, 30]])], 4)
    assert match_anchors(anchors, boxes, labels).tolist() == [[0, BACKGROUND]]


def test_padding_rescues_nothing(anchors: Tensor) -> None:
    boxes, labels = padded([torch.zeros(0, 4), torch.zeros(0, 4)], 5)
    assert (match_anchors(anchors, boxes, labels) == BACKGROUND).all()
    assert (match_anchors(anchors, boxes[:, :0], labels[:, :0]) == BACKGROUND).all()


def test_gathering_gives_class_and_box_of_the_match() -> None:
    boxes, labels = torch.rand(2, 3, 4), torch.tensor([[5, 6, -1], [-1, -1, -1]])
    matched = torch.tensor([[1, BACKGROUND, 0, IGNORED], [BACKGROUND] * 4])
    matched_boxes, classes = gather_matched(matched, boxes, labels)
    assert classes.tolist() == [[6, BACKGROUND, 5, IGNORED], [BACKGROUND] * 4]
    assert torch.equal(matched_boxes[0, 0], boxes[0, 1])
    assert torch.equal(matched_boxes[0, 2], boxes[0, 0])
    assert gather_matched(matched.clamp(max=-1), boxes[:, :0], labels[:, :0])[1].tolist() == matched.clamp(
        max=-1).tolist()
