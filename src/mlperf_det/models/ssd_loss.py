"""SSD's training loss: smooth L1 on offsets and cross-entropy with hard-negative mining, normalised image by image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.box_coding import encode
from mlperf_det.models.ssd_matching import match

#: Hard negatives for each positive (SSD paper, section 2.2).
NEGATIVES_PER_POSITIVE = 3


def build_targets(boxes: Tensor, labels: Tensor, defaults: Tensor, default_corners: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the network should output for the ground truth of a batch.

    Args:
        boxes: (N, M, 4) float32 left, top, right, bottom, fractions of the image.
        labels: (N, M) int64, 0-based class, -1 for padding.
        defaults: (A, 4) float32 default boxes, centre and size.
        default_corners: (A, 4) float32 the same as corners.

    Returns:
        (N, A, 4) float32 offsets, 0 where the default box is background; (N, A) int64 class from 1, 0 for background.
    """
    if boxes.shape[1] == 0:
        shape = (boxes.shape[0], defaults.shape[0])
        return boxes.new_zeros((*shape, 4)), labels.new_zeros(shape)
    truth, positive = match(boxes, labels >= 0, default_corners)
    matched = boxes.gather(1, truth.unsqueeze(-1).expand(-1, -1, 4))
    offsets = encode(matched, defaults).where(positive.unsqueeze(-1), 0.0)
    classes = (labels.gather(1, truth) + 1).where(positive, 0)
    return offsets, classes


def ssd_losses(localization: Tensor, logits: Tensor, offsets: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Return the two losses of a batch: the mean over images of each image's sum divided by its positives.

    An image with P positives takes the min(3P, A) other boxes of greatest cross-entropy as negatives; one without
    positives has loss 0 (MLPerf reference). Computed in float32 whatever the dtype of the network's outputs.

    Args:
        localization: (N, 4, A) predicted offsets.
        logits: (N, C + 1, A) class scores, index 0 the background.
        offsets: (N, A, 4) float32 target offsets.
        classes: (N, A) int64 target class, 0 for background.
    """
    positive = classes > 0
    positives = positive.sum(dim=1)
    box_error = F.smooth_l1_loss(localization.float(), offsets.transpose(1, 2), reduction='none').sum(dim=1)
    box_loss = box_error.where(positive, 0.0).sum(dim=1)

    entropy = F.cross_entropy(logits.float(), classes, reduction='none')
    positive_loss = entropy.where(positive, 0.0).sum(dim=1)
    # Cross-entropy is never negative, so positives set to 0 sort last; the sum of the first k needs no ranks.
    ranked = entropy.where(~positive, 0.0).sort(dim=1, descending=True).values
    rank = torch.arange(ranked.shape[1], device=ranked.device)
    chosen = rank < NEGATIVES_PER_POSITIVE * positives.unsqueeze(1)
    negative_loss = ranked.where(chosen, 0.0).sum(dim=1)

    normalizer = positives.clamp(min=1)
    return {
        'localization': (box_loss / normalizer).mean(),
        'classification': ((positive_loss + negative_loss) / normalizer).mean(),
    }
