"""Boxes of the Detectron family, whose right and bottom pixels belong to the box, as their half-open twins.

An inclusive box (x1, y1, x2, y2) is x2 - x1 + 1 pixels wide. Its twin (x1, y1, x2 + 1, y2 + 1) has the same width as a
plain difference, so IoU, box coding and suppression of half-open boxes give the inclusive formulas' results. All code
of Mask R-CNN passes twins; `to_inclusive` stands where the reference works on the corners themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlperf_det.models.anchor_offsets import decode_offsets, encode_offsets

#: Factors of the second stage's centre and size offsets; those of the first are 1 (MLPerf reference).
CENTRE_WEIGHT, SIZE_WEIGHT = 10.0, 5.0


def to_inclusive(twins: Tensor) -> Tensor:
    """Return the inclusive corners (..., 4) of half-open twins (..., 4)."""
    return torch.cat([twins[..., :2], twins[..., 2:] - 1], dim=-1)


def to_twins(inclusive: Tensor) -> Tensor:
    """Return the half-open twins (..., 4) of inclusive corners (..., 4)."""
    return torch.cat([inclusive[..., :2], inclusive[..., 2:] + 1], dim=-1)


def clip(twins: Tensor, sizes: Tensor) -> Tensor:
    """Return the boxes with inclusive corners clamped to the image; what the border cuts keeps at least a pixel.

    Args:
        twins: (N, ..., 4) float32.
        sizes: (N, 2) int64, height and width of each image.
    """
    far = sizes.flip(1).repeat(1, 2).to(twins.dtype)
    near = torch.zeros_like(far)
    near[:, 2:] = 1
    far[:, :2] -= 1
    shape = (len(sizes), *(1,) * (twins.dim() - 2), 4)
    return torch.minimum(torch.maximum(twins, near.view(shape)), far.view(shape))


def rescale(twins: Tensor, ratios: Tensor) -> Tensor:
    """Return the twins after their inclusive corners were multiplied by ``ratios`` (broadcastable, x, y, x, y)."""
    return to_twins(to_inclusive(twins) * ratios)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU (..., P, M) of twins (..., P, 4) with twins (..., M, 4); 0 where both have no area."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    overlap = (torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
               ).clamp(min=0).prod(dim=-1)
    area, other = ((boxes[..., 2:] - boxes[..., :2]).prod(dim=-1) for boxes in (first, second))
    union = area + other - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode_box_targets(boxes: Tensor, references: Tensor) -> Tensor:
    """Return the second stage's weighted offsets (..., 4) from reference twins to box twins."""
    offsets = encode_offsets(boxes, references)
    return torch.cat([offsets[..., :2] * CENTRE_WEIGHT, offsets[..., 2:] * SIZE_WEIGHT], dim=-1)


def decode_box_outputs(offsets: Tensor, references: Tensor) -> Tensor:
    """Return the twins (..., 4) that the second stage's weighted offsets make of reference twins."""
    plain = torch.cat([offsets[..., :2] / CENTRE_WEIGHT, offsets[..., 2:] / SIZE_WEIGHT], dim=-1)
    return decode_offsets(plain, references)
