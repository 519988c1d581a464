"""Boxes as offsets from anchors: the parametrisation that the regression head learns.

Source: Girshick et al., Rich Feature Hierarchies (R-CNN), appendix C; all four weights are 1 in RetinaNet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Largest log scale that is decoded: a box grows to at most 1000 / 16 times its anchor (torchvision and Detectron).
MAX_LOG_SCALE = math.log(1000 / 16)


def encode_offsets(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the offsets (dx, dy, dw, dh) that turn anchors into boxes.

    Args:
        boxes: (..., 4) float32, left, top, right, bottom; sides must be positive.
        anchors: (..., 4) float32 of a shape that broadcasts against ``boxes``.
    """
    sides, anchor_sides = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]
    centres = boxes[..., :2] + 0.5 * sides
    anchor_centres = anchors[..., :2] + 0.5 * anchor_sides
    return torch.cat([(centres - anchor_centres) / anchor_sides, (sides / anchor_sides).log()], dim=-1)


def decode_offsets(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that ``offsets`` make of ``anchors``; log scales are clamped at `MAX_LOG_SCALE`.

    Args:
        offsets: (..., 4) float32, dx, dy, dw, dh.
        anchors: (..., 4) float32, left, top, right, bottom.
    """
    anchor_sides = anchors[..., 2:] - anchors[..., :2]
    anchor_centres = anchors[..., :2] + 0.5 * anchor_sides
    centres = offsets[..., :2] * anchor_sides + anchor_centres
    half_sides = 0.5 * (offsets[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_sides)
    return torch.cat([centres - half_sides, centres + half_sides], dim=-1)
