from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from mlperf_det.models.legacy_boxes import to_inclusive
from mlperf_det.models.roi_align import STRIDES, _by_index, _by_masking, pyramid_roi_align, region_levels


def random_regions(count: int, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """A pyramid of two images of 512x640, and boxes of all sizes as twins, also at the border."""
    generator = torch.Generator().manual_seed(seed)
    pyramid = [torch.randn(2, 3, 512 // s, 640 // s, generator=generator) for s in STRIDES]
    side = 3 + 500 * torch.rand(count, 1, generator=generator) * (0.5 + torch.rand(count, 2, generator=generator))
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([640., 512]) - side.clamp(max=500))
    twins = torch.cat([corner, torch.minimum(corner + side, torch.tensor([640., 512]))], dim=1)
    return pyramid, torch.randint(2, (count,), generator=generator), twins


@pytest.mark.parametrize(('side', 'level'), [
    (10, 2), (111.99, 2), (112, 3), (223.9, 3), (224, 4), (447.9, 4), (448, 5), (2000, 5)])
def test_levels_by_the_inclusive_side(side: float, level: int) -> None:
    inclusive = torch.tensor([[5., 5, 5 + side - 1, 5 + side - 1]])
    twin = inclusive + torch.tensor([0., 0, 1, 1])
    assert region_levels(twin).item() + 2 == level
    assert level == min(5, max(2, math.floor(4 + math.log2(side / 224 + 1e-6))))


def test_a_region_that_is_no_number_gives_features_that_are_none() -> None:
    pyramid, images, twins = random_regions(5, seed=4)
    twins[2] = math.nan
    found = pyramid_roi_align([level * math.nan for level in pyramid], images, twins, 7)
    assert found.shape == (5, 3, 7, 7)
    assert found.isnan().all()


@pytest.mark.parametrize('side', [7, 14])
def test_equals_each_region_by_itself(side: int) -> None:
    pyramid, images, twins = random_regions(60, seed=1)
    found = pyramid_roi_align(pyramid, images, twins, side)
    levels = region_levels(twins)
    assert len(set(levels.tolist())) >= 3
    for row in range(len(twins)):
        level = int(levels[row])
        region = torch.cat([images[row:row + 1, None].float(), to_inclusive(twins[row:row + 1])], dim=1)
        expected = roi_align(pyramid[level], region, (side, side), 1 / STRIDES[level], 2, False)
        torch.testing.assert_close(found[row:row + 1], expected)


def test_equals_torchvision_where_it_is_given_inclusive_boxes_of_the_same_level() -> None:
    pyramid, images, twins = random_regions(60, seed=2)
    inclusive = to_inclusive(twins)
    torchvision = MultiScaleRoIAlign(['0', '1', '2', '3'], 7, 2)
    peer = torchvision(dict(zip('0123', pyramid, strict=True)),
                       [inclusive[images == 0], inclusive[images == 1]], [(512, 640)] * 2)
    # torchvision picks the level by the area without the last pixel; compare where that is the same
    plain = region_levels(inclusive)
    order = torch.cat([(images == 0).nonzero(), (images == 1).nonzero()]).squeeze(1)
    same = (plain == region_levels(twins))[order]
    assert same.sum() > 55
    torch.testing.assert_close(pyramid_roi_align(pyramid, images, twins, 7)[order][same], peer[same])


def test_the_form_for_accelerators_is_the_same_in_both_directions() -> None:
    pyramid, images, twins = random_regions(40, seed=3)
    twins[:20] = twins[:20] * 0.1 + torch.tensor([575., 455, 576, 456])  # small ones in the far corner
    regions, levels = torch.cat([images[:, None].float(), to_inclusive(twins)], dim=1), region_levels(twins)
    results = []
    for form in (_by_index, _by_masking):
        leaves = [level.clone().requires_grad_() for level in pyramid]
        features = form(leaves, regions, levels, 7)
        (features * torch.arange(features.numel()).view_as(features).cos()).sum().backward()
        results.append([features.detach(), *(leaf.grad for leaf in leaves)])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)
