"""Detections from the second stage's outputs: fixed shapes, all images at once, nothing asked of the host.

Source: the MLPerf Mask R-CNN reference, computed in float32 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlperf_det.models.legacy_boxes import clip, decode_box_outputs, rescale
from mlperf_det.models.retinanet_postprocess import class_wise_nms

#: A score must exceed the threshold; a box is suppressed by a better one of its class from beyond this IoU.
SCORE_THRESHOLD, NMS_IOU = 0.05, 0.5
#: Most detections of an image over all classes. The COCO scorer reads no more than that.
DETECTIONS_PER_IMAGE = 100


@dataclass(frozen=True, kw_only=True)
class FoundBoxes:
    """The detections of N images, K slots each, best first.

    Attributes:
        boxes: twins (N, K, 4) in pixels of the network's input.
        scores: (N, K) float32, 0 in empty slots.
        classes: (N, K) int64 from 1 on, 0 in empty slots.
        valid: (N, K) bool.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    valid: Tensor


def find_boxes(logits: Tensor, offsets: Tensor, proposals: Tensor, present: Tensor, sizes: Tensor) -> FoundBoxes:
    """Return at most 100 boxes of each image; a proposal may give boxes of several classes.

    Args:
        logits: (N, P, classes) float32; class 0 is background.
        offsets: (N, P, classes, 4) float32.
        proposals: twins (N, P, 4).
        present: (N, P) bool, which proposals are real.
        sizes: (N, 2) int64, height and width of the unpadded images.
    """
    scores = logits.softmax(dim=2)[..., 1:] * present[..., None]
    scores = torch.where(scores > SCORE_THRESHOLD, scores, 0.0)
    boxes = clip(decode_box_outputs(offsets[:, :, 1:], proposals[:, :, None]), sizes)
    classes = torch.arange(1, logits.shape[2], device=logits.device).expand_as(scores)
    boxes, scores, classes = boxes.flatten(1, 2), scores.flatten(1), classes.flatten(1)
    kept, valid = class_wise_nms(boxes, scores, classes, NMS_IOU, DETECTIONS_PER_IMAGE)
    return FoundBoxes(boxes=boxes.gather(1, kept[..., None].expand(-1, -1, 4)),
                      scores=torch.where(valid, scores.gather(1, kept), 0.0),
                      classes=torch.where(valid, classes.gather(1, kept), 0), valid=valid)


def to_original(boxes: Tensor, network_sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Return boxes (N, K, 4) in pixels of the original images: width and height each by its own ratio.

    Inclusive corners are scaled; what is returned is half-open, so that right - left is the width COCO counts.

    Args:
        boxes: twins in pixels of the network's input.
        network_sizes: (N, 2) int64, height and width of the resized, unpadded images.
        original_sizes: (N, 2) int64.
    """
    ratios = (original_sizes.float() / network_sizes.float()).flip(1).repeat(1, 2)
    return rescale(boxes, ratios[:, None])
