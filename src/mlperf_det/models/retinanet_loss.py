"""RetinaNet's two losses for a whole batch: fixed shapes, no loop over images, nothing asked of the host.

Source: the MLPerf reference. Sums of each image are divided by its number of matched anchors (at least 1) and then
averaged over the images of the local batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mlperf_det.models.anchor_offsets import encode_offsets
from mlperf_det.models.focal_loss import focal_loss
from mlperf_det.models.retinanet_matching import IGNORED, gather_matched, match_anchors


def retinanet_losses(logits: Sequence[Tensor], offsets: Sequence[Tensor], anchors: Tensor, boxes: Tensor,
                     labels: Tensor) -> Mapping[str, Tensor]:
    """Return ``classification`` (sigmoid focal) and ``bbox_regression`` (L1 of the offsets), scalar float32.

    Args:
        logits: per level, (N, A_l, K); kept apart, because joining them would copy the largest tensor of the step.
        offsets: per level, (N, A_l, 4).
        anchors: (A, 4) float32 of all levels, left, top, right, bottom.
        boxes: (N, M, 4) float32, padded; real boxes have positive sides.
        labels: (N, M) int64, -1 in padding.
    """
    matched = match_anchors(anchors, boxes, labels)
    matched_boxes, classes = gather_matched(matched, boxes, labels)
    positive = matched >= 0
    image_weight = 1 / (positive.sum(dim=1, keepdim=True).clamp(min=1) * len(labels))
    row_weight = torch.where(matched == IGNORED, 0.0, image_weight)
    levels = [level.shape[1] for level in logits]
    parts = zip(logits, torch.split(classes, levels, 1), torch.split(row_weight, levels, 1), strict=True)
    classification = torch.stack([focal_loss(level.flatten(0, 1), level_classes.flatten(), level_weight.flatten())
                                  for level, level_classes, level_weight in parts]).sum()
    # Anchors without a box stand in for their box, so that no logarithm of padding reaches the gradient.
    target = encode_offsets(torch.where(positive[..., None], matched_boxes, anchors), anchors)
    distance = (torch.cat([level.float() for level in offsets], dim=1) - target).abs().sum(dim=2)
    return {'classification': classification,
            'bbox_regression': torch.where(positive, distance * image_weight, 0.0).sum()}
