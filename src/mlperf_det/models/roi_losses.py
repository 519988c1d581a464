"""The three losses of the second stage. Source: the MLPerf Mask R-CNN reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.legacy_boxes import encode_box_targets
from mlperf_det.models.roi_sampling import Regions

#: Where the smooth L1 loss turns from quadratic to linear.
BETA = 1.0
_UNUSED = -1


def classifier_loss(logits: Tensor, regions: Regions) -> Tensor:
    """Return the cross entropy (scalar) of logits (N * S, classes), averaged over all drawn regions."""
    classes = torch.where(regions.used, regions.classes, _UNUSED).flatten()
    total = F.cross_entropy(logits, classes, ignore_index=_UNUSED, reduction='sum')
    return total / regions.used.sum().clamp(min=1)


def box_loss(offsets: Tensor, regions: Regions) -> Tensor:
    """Return the smooth L1 loss (scalar) of offsets (N * S, classes, 4).

    Summed over the offsets of the foreground regions' classes, divided by the number of all drawn regions.
    """
    first = regions.most_positive
    classes = regions.classes[:, :first, None, None].expand(-1, -1, 1, 4)
    found = offsets.view(*regions.used.shape, -1, 4)[:, :first].gather(2, classes).squeeze(2)
    positive = regions.positive[:, :first]
    # Background may have no width at all, whose logarithm must not reach the gradient: it is encoded as a unit square.
    unit = torch.zeros_like(regions.boxes[:, :first])
    unit[..., 2:] = 1
    wanted = encode_box_targets(torch.where(positive[..., None], regions.targets[:, :first], unit),
                                torch.where(positive[..., None], regions.boxes[:, :first], unit))
    distance = F.smooth_l1_loss(found, wanted, beta=BETA, reduction='none').sum(dim=2)
    return torch.where(positive, distance, 0.0).sum() / regions.used.sum().clamp(min=1)


def mask_loss(logits: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """Return the binary cross entropy (scalar), averaged over the pixels of the foreground regions; 0 without any.

    Args:
        logits: (R, 28, 28) float32.
        targets: (R, 28, 28) float32, 0 or 1.
        positive: (R,) bool.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction='none').mean(dim=(1, 2))
    return torch.where(positive, entropy, 0.0).sum() / positive.sum().clamp(min=1)
