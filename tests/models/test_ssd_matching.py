from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mlperf_det.models.box_coding import centers_to_corners
from mlperf_det.models.default_boxes import default_boxes
from mlperf_det.models.ssd_architecture import SSD300_RESNET34, SSD_SMOKE
from mlperf_det.models.ssd_matching import match, pairwise_iou


def match_one_image(boxes: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """The rules written as loops, for one image without padding."""
    iou = box_iou(boxes, corners)
    assigned = torch.zeros(len(corners), dtype=torch.int64)
    positive = torch.zeros(len(corners), dtype=torch.bool)
    for box in range(len(corners)):
        best = max(range(len(boxes)), key=lambda truth: (float(iou[truth, box]), -truth))
        assigned[box], positive[box] = best, float(iou[best, box]) > 0.5
    for truth in range(len(boxes)):
        forced = max(range(len(corners)), key=lambda box: (float(iou[truth, box]), -box))
        assigned[forced], positive[forced] = truth, True
    return assigned, positive


@pytest.fixture(scope='module')
def corners() -> Tensor:
    return centers_to_corners(default_boxes(SSD300_RESNET34))


def test_published_sample(corners: Tensor) -> None:
    boxes = torch.tensor([[[.1, .2, .5, .7], [.6, .6, .65, .68]]])
    assigned, positive = match(boxes, torch.tensor([[True, True]]), corners)
    assert positive[0].nonzero().flatten().tolist() == [
        897, 935, 5229, 5267, 7974, 7984, 8074, 8075, 8084, 8085, 8284, 8285, 8553, 8578, 8623, 8628]
    assert assigned[0, positive[0]].bincount().tolist() == [12, 4]
    assert assigned[0, [8084, 5267]].tolist() == [0, 1]


def test_of_equal_boxes_the_first_takes_all_but_the_forced_one(corners: Tensor) -> None:
    boxes = torch.tensor([[[.1, .2, .5, .7], [.1, .2, .5, .7]]])
    assigned, positive = match(boxes, torch.tensor([[True, True]]), corners)
    assert int((positive & (assigned == 0)).sum()) == 11
    assert (positive & (assigned == 1))[0].nonzero().flatten().tolist() == [8084]


def test_an_overlap_of_exactly_one_half_is_not_positive() -> None:
    corners = torch.tensor([[0., 0, 1, 1], [0, 0, 1, .5], [0, 0, .5, 1]])
    boxes = torch.tensor([[[0., 0, 1, 1]]])
    assert pairwise_iou(boxes, corners)[0, 0].tolist() == [1.0, 0.5, 0.5]
    assert match(boxes, torch.tensor([[True]]), corners)[1].tolist() == [[True, False, False]]


def test_a_truth_that_overlaps_little_still_gets_its_best_box(corners: Tensor) -> None:
    boxes = torch.tensor([[[.4, .4, .402, .402]]])
    assert int(match(boxes, torch.tensor([[True]]), corners)[1].sum()) == 1


def test_random_batches_equal_the_rules_written_as_loops() -> None:
    corners = centers_to_corners(default_boxes(SSD_SMOKE))
    counts = [7, 1, 12, 4]
    boxes, valid = torch.zeros(4, 12, 4), torch.zeros(4, 12, dtype=torch.bool)
    for image, count in enumerate(counts):
        corner = torch.rand(count, 2) * 0.7
        boxes[image, :count] = torch.cat((corner, corner + 0.03 + torch.rand(count, 2) * 0.27), dim=1)
        valid[image, :count] = True
    boxes[2, 8] = boxes[2, 3]  # an exact tie
    assigned, positive = match(boxes, valid, corners)
    for image, count in enumerate(counts):
        expected, expected_positive = match_one_image(boxes[image, :count], corners)
        torch.testing.assert_close(positive[image], expected_positive, rtol=0, atol=0)
        torch.testing.assert_close(assigned[image][expected_positive], expected[expected_positive], rtol=0, atol=0)


def test_padding_never_matches_even_where_it_would_fit(corners: Tensor) -> None:
    boxes = torch.tensor([[[.1, .2, .5, .7], [.6, .6, .65, .68]], [[.1, .2, .5, .7], [.2, .2, .9, .9]]])
    assigned, positive = match(boxes, torch.tensor([[True, False], [False, False]]), corners)
    assert int(positive[0].sum()) == 12
    assert not positive[1].any()
    assert (assigned[0][positive[0]] == 0).all()
