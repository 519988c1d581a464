"""Detections from RetinaNet's outputs: fixed shapes, all images at once, nothing asked of the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlperf_det.models.anchor_offsets import decode_offsets
from mlperf_det.models.detections import Detections

#: Values of the MLPerf reference, which are torchvision's defaults: a score must exceed the threshold, a box is
#: suppressed by a better one of its class from beyond this IoU.
SCORE_THRESHOLD, NMS_IOU = 0.05, 0.5
CANDIDATES_PER_LEVEL, DETECTIONS_PER_IMAGE = 1000, 300


def postprocess(logits: Sequence[Tensor], offsets: Sequence[Tensor], anchors: Sequence[Tensor], *, image_size: int,
                sizes: Tensor) -> Detections:
    """Return the detections of N images, as torchvision's RetinaNet computes them image by image.

    Per level the 1000 best scores above 0.05 are decoded and clipped to the image; non-maximum suppression within
    each class then leaves at most 300 detections, whose boxes are scaled to the original images. An anchor may give
    detections of several classes. Works in float32.

    Args:
        logits: per level, (N, A_l, K).
        offsets: per level, (N, A_l, 4).
        anchors: per level, (A_l, 4) float32 in pixels of the network's input.
        image_size: side of the network's square input, pixels.
        sizes: (N, 2) int64, height and width of the original images.
    """
    candidates = [_level_candidates(level_logits.float(), level_offsets.float(), level_anchors, image_size)
                  for level_logits, level_offsets, level_anchors in zip(logits, offsets, anchors, strict=True)]
    boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*candidates, strict=True))
    kept, valid = class_wise_nms(boxes, scores, labels, NMS_IOU, DETECTIONS_PER_IMAGE)
    scale = sizes.flip(1).repeat(1, 2)[:, None].float() / image_size
    kept_boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4)) * scale
    return Detections(boxes=torch.where(valid[..., None], kept_boxes, 0.0),
                      scores=torch.where(valid, scores.gather(1, kept), 0.0),
                      labels=torch.where(valid, labels.gather(1, kept), -1), valid=valid)


def _level_candidates(logits: Tensor, offsets: Tensor, anchors: Tensor, image_size: int
                      ) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (N, C, 4), scores (N, C) and labels (N, C) of a level; scores not above the threshold are 0.

    The C best (anchor, class) pairs belong to the C anchors with the best class, so a maximum over the classes
    spares sorting all pairs.
    """
    images, count, classes = logits.shape
    best_anchors = logits.amax(dim=2).topk(min(CANDIDATES_PER_LEVEL, count)).indices.sort().values
    pairs = logits.gather(1, best_anchors[..., None].expand(-1, -1, classes)).flatten(1)
    best_logits, best_pairs = pairs.topk(min(CANDIDATES_PER_LEVEL, pairs.shape[1]))
    anchor_index = best_anchors.gather(1, best_pairs // classes)
    box_index = anchor_index[..., None].expand(-1, -1, 4)
    boxes = decode_offsets(offsets.gather(1, box_index), anchors.expand(images, -1, -1).gather(1, box_index))
    scores = best_logits.sigmoid()
    return boxes.clamp(0, image_size), torch.where(scores > SCORE_THRESHOLD, scores, 0.0), best_pairs % classes


@torch.library.custom_op('mlperf_det::class_wise_nms', mutates_args=())
def class_wise_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, keep: int
                   ) -> tuple[Tensor, Tensor]:
    """Return the ``keep`` best boxes of each image that no better box of their class overlaps beyond the threshold.

    Greedy, as torchvision's ``nms``, but for all images at once: each round takes every image's best remaining box
    and strikes out what it suppresses. The number of rounds is fixed, so a GPU runs it without asking the host.

    Args:
        boxes: (N, C, 4) float32.
        scores: (N, C) float32; 0 marks a slot that holds no box.
        labels: (N, C) int64.
        iou_threshold: strict upper bound of the IoU of two kept boxes of a class.
        keep: boxes to keep, an image.

    Returns:
        (N, keep) int64 indices in falling order of score, and (N, keep) bool: False from where boxes ran out.
    """
    left, top, right, bottom = (side.contiguous() for side in boxes.unbind(-1))
    areas = (right - left) * (bottom - top)
    remaining = scores.clone()
    kept, valid = [], []
    for _ in range(keep):
        score, best = remaining.max(dim=1, keepdim=True)
        best_left, best_top, best_right, best_bottom, best_area = (
            values.gather(1, best) for values in (left, top, right, bottom, areas))
        width = (torch.minimum(right, best_right) - torch.maximum(left, best_left)).clamp_(min=0)
        height = (torch.minimum(bottom, best_bottom) - torch.maximum(top, best_top)).clamp_(min=0)
        intersection = width.mul_(height)
        iou = intersection / (areas + best_area - intersection)
        remaining.masked_fill_((iou > iou_threshold) & (labels == labels.gather(1, best)), 0.0)
        remaining.scatter_(1, best, 0.0)  # a box without area suppresses nothing, itself included
        kept.append(best)
        valid.append(score > 0)
    return torch.cat(kept, dim=1), torch.cat(valid, dim=1)


@class_wise_nms.register_fake
def _(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, keep: int) -> tuple[Tensor, Tensor]:
    return labels.new_empty(len(labels), keep), labels.new_empty((len(labels), keep), dtype=torch.bool)
