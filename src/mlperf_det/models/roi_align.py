"""RoIAlign over the levels of a feature pyramid.

Source: He et al., Mask R-CNN; Lin et al., Feature Pyramid Networks, equation 1; the MLPerf reference for the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mlperf_det.models.fixed_shapes import wants_fixed_shapes
from mlperf_det.models.legacy_boxes import to_inclusive

#: Strides of the levels that regions are taken from: P2 to P5.
STRIDES = (4, 8, 16, 32)
#: A region of this side belongs to P4.
CANONICAL_SIDE, CANONICAL_LEVEL, FIRST_LEVEL = 224, 4, 2
#: Points along a side of a bin.
SAMPLING_RATIO = 2
#: Where no region lies; its points are outside any feature map and cost next to nothing.
_NOWHERE = -1e6


def region_levels(twins: Tensor) -> Tensor:
    """Return the index (R,) int64 of the level of each region (R, 4): 0 for P2 to 3 for P5, by its inclusive area."""
    area = (twins[:, 2:] - twins[:, :2]).prod(dim=1)
    level = torch.floor(CANONICAL_LEVEL + torch.log2(area.sqrt() / CANONICAL_SIDE + 1e-6))
    return level.clamp(FIRST_LEVEL, FIRST_LEVEL + len(STRIDES) - 1).long() - FIRST_LEVEL


def pyramid_roi_align(pyramid: Sequence[Tensor], images: Tensor, twins: Tensor, side: int) -> Tensor:
    """Return the features (R, channels, side, side) of regions.

    Corners are the inclusive ones and there is no offset by half a pixel.

    Args:
        pyramid: P2 to P5, each (N, channels, H, W) float32; further levels are not used.
        images: (R,) int64, the image of each region.
        twins: (R, 4) float32.
        side: bins along a side.
    """
    pick = _by_masking if wants_fixed_shapes(twins.device) else _by_index
    # A diverging network proposes NaN, with which torchvision's operator reads outside of its memory. The features are
    # NaN by then too, so the loss says what happened.
    twins = twins.nan_to_num(0.0)
    levels = region_levels(twins)
    regions = torch.cat([images[:, None].to(twins.dtype), to_inclusive(twins)], dim=1)
    with torch.autocast(twins.device.type, enabled=False):
        return pick(pyramid[:len(STRIDES)], regions, levels, side)


def _align(features: Tensor, regions: Tensor, stride: int, side: int) -> Tensor:
    aligned: Tensor = roi_align(features, regions, (side, side), spatial_scale=1 / stride,
                                sampling_ratio=SAMPLING_RATIO, aligned=False)
    return aligned


def _by_index(pyramid: Sequence[Tensor], regions: Tensor, levels: Tensor, side: int) -> Tensor:
    """Give each level its regions, whose number the host must know."""
    parts, rows = [], []
    for index, (features, stride) in enumerate(zip(pyramid, STRIDES, strict=True)):
        of_level = (levels == index).nonzero().squeeze(1)
        rows.append(of_level)
        parts.append(_align(features, regions[of_level], stride, side))
    return torch.cat(parts)[torch.cat(rows).argsort()]


def _by_masking(pyramid: Sequence[Tensor], regions: Tensor, levels: Tensor, side: int) -> Tensor:
    """Give each level all regions, those of other levels moved out of sight, where they contribute zeros."""
    total = pyramid[0].new_zeros(())
    for index, (features, stride) in enumerate(zip(pyramid, STRIDES, strict=True)):
        corners = torch.where((levels == index)[:, None], regions[:, 1:], _NOWHERE)
        total = total + _align(features, torch.cat([regions[:, :1], corners], dim=1), stride, side)
    return total
