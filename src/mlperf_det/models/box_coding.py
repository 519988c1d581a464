"""Boxes as corners, as centre and size, and as regression offsets from reference boxes (Fast R-CNN's coding)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Factors of SSD's centre and size offsets (variances 0.1 and 0.2 of the SSD paper's code).
CENTER_WEIGHT = 10.0
SIZE_WEIGHT = 5.0
#: A box that should be larger than so many of its reference is held there: it overlaps nothing either way. Where a
#: young detector goes astray the exponential would overflow, and one infinite box spoils the suppression of all others.
LARGEST_RATIO = 1000.0


def corners_to_centers(boxes: Tensor) -> Tensor:
    """Turn (..., 4) left, top, right, bottom into centre x, centre y, width, height."""
    top_left, bottom_right = boxes.chunk(2, dim=-1)
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def centers_to_corners(boxes: Tensor) -> Tensor:
    """Turn (..., 4) centre x, centre y, width, height into left, top, right, bottom."""
    center, size = boxes.chunk(2, dim=-1)
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """Return the offsets from ``references`` to ``boxes``: centre shifts in reference sizes, logs of size ratios.

    Args:
        boxes: (..., 4) left, top, right, bottom; a side of length zero gives -inf.
        references: (..., 4) centre x, centre y, width, height, broadcastable to ``boxes``.
    """
    center, size = corners_to_centers(boxes).chunk(2, dim=-1)
    reference_center, reference_size = references.chunk(2, dim=-1)
    return torch.cat((
        CENTER_WEIGHT * (center - reference_center) / reference_size,
        SIZE_WEIGHT * (size / reference_size).log()), dim=-1)


def decode(offsets: Tensor, references: Tensor) -> Tensor:
    """Return the boxes (..., 4) left, top, right, bottom that ``offsets`` name: the inverse of `encode`.

    Sizes are held at `LARGEST_RATIO` times the reference.
    """
    center_offset, size_offset = offsets.chunk(2, dim=-1)
    reference_center, reference_size = references.chunk(2, dim=-1)
    center = center_offset / CENTER_WEIGHT * reference_size + reference_center
    size = (size_offset / SIZE_WEIGHT).clamp(max=math.log(LARGEST_RATIO)).exp() * reference_size
    return centers_to_corners(torch.cat((center, size), dim=-1))
