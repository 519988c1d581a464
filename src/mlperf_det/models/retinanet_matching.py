"""Assignment of ground truth to anchors, for all images of a batch at once and without the host."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.blocks import elements_per_block

#: What an anchor is matched to when it is not a box: background, or left out of the loss.
BACKGROUND, IGNORED = -1, -2
#: IoU below which an anchor is background, and from which it is matched (MLPerf reference).
BACKGROUND_IOU, FOREGROUND_IOU = 0.4, 0.5


def match_anchors(anchors: Tensor, boxes: Tensor, labels: Tensor, *, background_iou: float = BACKGROUND_IOU,
                  foreground_iou: float = FOREGROUND_IOU) -> Tensor:
    """Match every anchor to the box that it overlaps most, as torchvision's ``Matcher`` with low-quality matches.

    An anchor is matched from ``foreground_iou``, background below ``background_iou`` and ignored between; the defaults
    are RetinaNet's. In addition, every anchor that
    reaches a box's highest IoU (ties included) is matched to the box that *it* overlaps most. Padding is never
    matched, and all anchors of an image without boxes are background.

    Works through the boxes in blocks, so that memory stays bounded whatever the padding; a compiler is given one
    block, because it fuses the IoU into the reductions and never stores it.

    Args:
        anchors: (A, 4) float32, left, top, right, bottom.
        boxes: (N, M, 4) float32, padded.
        labels: (N, M) int64, negative in padding.
        background_iou: strict.
        foreground_iou: not strict.

    Returns:
        (N, A) int64: index of the box in 0..M-1, `BACKGROUND` or `IGNORED`.
    """
    images, padded = labels.shape
    if padded == 0:
        return torch.full((images, len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
    block = padded if torch.compiler.is_compiling() else _boxes_per_block(images * len(anchors), anchors.device)
    best_iou = anchors.new_full((images, len(anchors)), -1.0)
    best_box = torch.zeros_like(best_iou, dtype=torch.int64)
    rescued = torch.zeros_like(best_iou, dtype=torch.bool)
    for start in range(0, padded, block):
        real = (labels[:, start:start + block] >= 0)[..., None]
        # The mask keeps padding, whose IoU is 0 like that of a box far away, from being anybody's best.
        iou = torch.where(real, _pairwise_iou(boxes[:, start:start + block], anchors), -1.0)
        rescued |= ((iou == iou.amax(dim=2, keepdim=True)) & real).any(dim=1)
        block_iou, block_box = iou.max(dim=1)
        better = block_iou > best_iou
        best_box = torch.where(better, block_box + start, best_box)
        best_iou = torch.where(better, block_iou, best_iou)
    matched = torch.where(best_iou < foreground_iou, IGNORED, best_box)
    matched = torch.where(best_iou < background_iou, BACKGROUND, matched)
    return torch.where(rescued, best_box, matched)


def gather_matched(matched: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return box and class of every anchor.

    Args:
        matched: (N, A) int64 from `match_anchors`.
        boxes: (N, M, 4) float32.
        labels: (N, M) int64.

    Returns:
        boxes (N, A, 4), meaningful where matched; and classes (N, A) int64, `BACKGROUND` or `IGNORED` elsewhere.
    """
    if labels.shape[1] == 0:
        boxes, labels = F.pad(boxes, (0, 0, 0, 1)), F.pad(labels, (0, 1))
    index = matched.clamp(min=0)
    classes = torch.where(matched >= 0, labels.gather(1, index), matched)
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)), classes


def _boxes_per_block(pairs_per_box: int, device: torch.device) -> int:
    return max(1, elements_per_block(device) // pairs_per_box)


def _pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return (N, M, A) float32 IoU of (N, M, 4) boxes with (A, 4) anchors."""
    left, top, right, bottom = (side[..., None] for side in boxes.unbind(-1))
    anchor_left, anchor_top, anchor_right, anchor_bottom = anchors.unbind(-1)
    width = (torch.minimum(right, anchor_right) - torch.maximum(left, anchor_left)).clamp(min=0)
    height = (torch.minimum(bottom, anchor_bottom) - torch.maximum(top, anchor_top)).clamp(min=0)
    intersection = width * height
    anchor_area = (anchor_right - anchor_left) * (anchor_bottom - anchor_top)
    return intersection / ((right - left) * (bottom - top) + anchor_area - intersection)
