from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from mlperf_det.models.retinanet_postprocess import class_wise_nms, postprocess


def random_candidates(images: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    corner, size = torch.rand(images, count, 2) * 100, torch.rand(images, count, 2) * 60
    scores = torch.rand(images, count)
    return torch.cat([corner, corner + size], dim=2), torch.where(scores > 0.3, scores, 0.0), torch.randint(
        3, (images, count))


def expected_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Each class by itself, with torchvision's operator."""
    kept = []
    for label in labels.unique():
        rows = torch.where((labels == label) & (scores > 0))[0]
        kept.append(rows[nms(boxes[rows], scores[rows], threshold)])
    joined = torch.cat(kept)
    return joined[scores[joined].argsort(descending=True, stable=True)]


@pytest.mark.parametrize('threshold', [0.2, 0.5, 0.9])
def test_nms_equals_torchvisions_class_by_class(threshold: float) -> None:
    boxes, scores, labels = random_candidates(4, 700)
    kept, valid = class_wise_nms(boxes, scores, labels, threshold, 300)
    for image in range(4):
        expected = expected_nms(boxes[image], scores[image], labels[image], threshold)[:300]
        assert kept[image][valid[image]].tolist() == expected.tolist()


def test_nms_runs_out_of_boxes() -> None:
    boxes, scores, labels = random_candidates(2, 40)
    scores[1] = 0
    kept, valid = class_wise_nms(boxes, scores, labels, 0.5, 300)
    assert kept.shape == valid.shape == (2, 300)
    assert 0 < valid[0].sum() <= 40
    assert not valid[1].any()
    assert not (valid[:, 1:] & ~valid[:, :-1]).any(), 'valid slots come first'


def test_nms_keeps_boxes_that_meet_the_threshold_exactly_and_boxes_without_area() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 1], [0, 0, 1, 1], [5, 5, 5, 9], [5, 5, 5, 9]]])  # IoU of the first two: 1/2
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.zeros(1, 4, dtype=torch.int64)
    kept, valid = class_wise_nms(boxes, scores, labels, 0.5, 6)
    assert kept[0][valid[0]].tolist() == [0, 1, 2, 3]


def test_nms_keeps_pytorchs_contract() -> None:
    torch.library.opcheck(torch.ops.mlperf_det.class_wise_nms.default, (*random_candidates(2, 20), 0.5, 7))


def test_an_anchor_may_give_several_classes_and_the_threshold_is_strict() -> None:
    logits = torch.full((1, 2, 3), -9.0)
    logits[0, 0] = torch.tensor([2.0, 3.0, -2.9445])  # the last is a score just below 0.05
    anchors = torch.tensor([[10.0, 10, 50, 50], [-20, -20, 120, 130]])
    found = postprocess([logits], [torch.zeros(1, 2, 4)], [anchors], image_size=100, sizes=torch.tensor([[50, 200]]))
    assert found.valid.sum() == 2
    assert found.labels[0, :2].tolist() == [1, 0]
    assert found.boxes[0, 0].tolist() == [20, 5, 100, 25]  # x * 200 / 100, y * 50 / 100
    assert (found.labels[0, 2:] == -1).all()
    assert (found.boxes[0, 2:] == 0).all()


def test_half_precision_outputs_of_many_classes_are_decoded_in_float32() -> None:
    """Class 82 times 801 pixels, an offset that keeps classes apart, would overflow float16."""
    anchors = torch.tensor([[700.0, 700, 780, 790], [702, 701, 782, 791], [10, 20, 60, 90]])
    logits = torch.full((1, 3, 264), -9.0)
    logits[0, 0, 82], logits[0, 1, 82], logits[0, 1, 263], logits[0, 2, 263] = 3.0, 2.0, 1.0, 0.5
    offsets = (torch.randn(1, 3, 4) / 50).half()
    found, exact = (postprocess([logits.to(kind)], [offsets.to(kind)], [anchors], image_size=800,
                                sizes=torch.tensor([[1024, 683]])) for kind in (torch.float16, torch.float32))
    assert exact.labels[0, :4].tolist() == [82, 263, 263, -1], 'the second of class 82 is suppressed, others are not'
    for name in ('boxes', 'scores', 'labels', 'valid'):
        assert torch.equal(getattr(found, name), getattr(exact, name))
        assert getattr(found, name).dtype == getattr(exact, name).dtype


def test_boxes_are_clipped_to_the_image() -> None:
    logits = torch.full((1, 1, 1), 4.0)
    found = postprocess([logits], [torch.zeros(1, 1, 4)], [torch.tensor([[-20.0, -20, 120, 130]])], image_size=100,
                        sizes=torch.tensor([[100, 100]]))
    assert found.boxes[0, 0].tolist() == [0, 0, 100, 100]


def test_only_the_thousand_best_of_a_level_are_candidates() -> None:
    count = 1500
    logits = torch.arange(count).flip(0)[None, :, None] / 100 - 2.0  # scores fall along the level
    places = torch.arange(count) * 0.0 + 10 * torch.arange(count)
    anchors = torch.stack([places, torch.zeros(count), places + 5, torch.full((count,), 5.0)], dim=1)
    found = postprocess([logits, logits - 1], [torch.zeros(1, count, 4)] * 2, [anchors, anchors + 2], image_size=20_000,
                        sizes=torch.tensor([[20_000, 20_000]]))
    assert found.valid.all()
    assert found.boxes[0, 0].tolist() == [0, 0, 5, 5]
