from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from mlperf_det.models.grouped_nms import ROUNDS, grouped_nms, settle_in_rounds


def clustered_boxes(images: int, groups: int, count: int, seed: int) -> Tensor:
    """Boxes in heaps, as proposals are: about half of them are suppressed."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(images, groups, max(1, count // 8), 2, generator=generator) * 500
    pick = torch.randint(centres.shape[2], (images, groups, count), generator=generator)
    centre = centres.gather(2, pick[..., None].expand(-1, -1, -1, 2))
    centre = centre + torch.randn(images, groups, count, 2, generator=generator) * 4
    side = 60 * (1 + 0.15 * torch.randn(images, groups, count, 2, generator=generator)).abs()
    return torch.cat([centre - side / 2, centre + side / 2], dim=-1)


def one_by_one(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    keep = torch.zeros_like(valid)
    for image in range(len(boxes)):
        for group in range(boxes.shape[1]):
            rows = valid[image, group].nonzero().squeeze(1)
            scores = torch.arange(len(rows), 0, -1).float()
            keep[image, group, rows[nms(boxes[image, group, rows], scores, threshold)]] = True
    return keep


@pytest.mark.parametrize('seed', range(3))
def test_both_forms_equal_torchvision(seed: int) -> None:
    boxes = clustered_boxes(2, 5, 400, seed)
    valid = torch.rand(2, 5, 400, generator=torch.Generator().manual_seed(seed)) > 0.1
    valid[1, 3] = False
    expected = one_by_one(boxes, valid, 0.7)
    assert 0.2 < expected.float().mean() < 0.8
    assert torch.equal(grouped_nms(boxes, valid, 0.7), expected)
    assert torch.equal(settle_in_rounds(boxes, valid, 0.7, ROUNDS), expected)


def test_full_size_needs_far_fewer_rounds_than_there_are() -> None:
    boxes = clustered_boxes(1, 1, 2000, seed=7)
    valid = torch.ones(1, 1, 2000, dtype=torch.bool)
    assert torch.equal(settle_in_rounds(boxes, valid, 0.7, ROUNDS // 3), one_by_one(boxes, valid, 0.7))


def test_a_chain_longer_than_the_rounds_loses_boxes_but_keeps_no_overlapping_pair() -> None:
    count = 40  # each box overlaps its neighbours alone, so box i waits for box i - 1
    left = torch.arange(count) * 10.0
    boxes = torch.stack([left, torch.zeros(count), left + 100, torch.ones(count) * 100], dim=1)[None, None]
    valid = torch.ones(1, 1, count, dtype=torch.bool)
    exact = one_by_one(boxes, valid, 0.8)
    assert exact[0, 0].tolist() == [i % 2 == 0 for i in range(count)]
    assert torch.equal(settle_in_rounds(boxes, valid, 0.8, count // 2), exact)
    short = settle_in_rounds(boxes, valid, 0.8, 5)
    assert short.sum() == 5
    assert not (short & ~exact).any()
