"""Which regions the second stage is trained on, and what each of them should say.

Source: the MLPerf Mask R-CNN reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlperf_det.models.balanced_sampling import draw_balanced
from mlperf_det.models.fixed_shapes import wants_fixed_shapes
from mlperf_det.models.legacy_boxes import pairwise_iou

#: IoU from which a region has the class of the box that it overlaps most; below it is background.
FOREGROUND_IOU = 0.5
#: Share of the drawn regions that may be foreground.
POSITIVE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Regions:
    """S regions of each of N images to train on, foreground first.

    Attributes:
        boxes: twins (N, S, 4) float32.
        classes: (N, S) int64, 0 for background, k + 1 for category k.
        targets: twins (N, S, 4) of the boxes that the regions are matched to, meaningful where positive.
        objects: (N, S) int64, index of that box in the image.
        positive: (N, S) bool; only the first `most_positive` slots can be.
        used: (N, S) bool; False where an image had fewer regions.
        most_positive: most foreground regions of an image.
    """

    boxes: Tensor
    classes: Tensor
    targets: Tensor
    objects: Tensor
    positive: Tensor
    used: Tensor
    most_positive: int


@torch.no_grad()
def draw_regions(proposals: Tensor, present: Tensor, boxes: Tensor, labels: Tensor, *, slots: int) -> Regions:
    """Match proposals and the boxes themselves to the boxes, and draw the regions to train on.

    Args:
        proposals: twins (N, P, 4).
        present: (N, P) bool, which of them are real.
        boxes: twins (N, M, 4), padded; M is at least 1.
        labels: (N, M) int64, -1 in padding.
        slots: S.
    """
    real = labels >= 0
    candidates, present = torch.cat([proposals, boxes], dim=1), torch.cat([present, real], dim=1)
    overlap = torch.where(real[:, None], pairwise_iou(candidates, boxes), -1.0)
    best, matched = overlap.max(dim=2)
    positive = (best >= FOREGROUND_IOU) & present
    drawn = draw_balanced(positive, present & ~positive, slots=slots, most_positive=int(slots * POSITIVE_SHARE))
    index = drawn.index[..., None].expand(-1, -1, 4)
    chosen, objects = candidates.gather(1, index), matched.gather(1, drawn.index)
    return Regions(
        boxes=chosen, classes=torch.where(drawn.positive, labels.gather(1, objects) + 1, 0),
        targets=boxes.gather(1, objects[..., None].expand(-1, -1, 4)), objects=objects,
        positive=drawn.positive, used=drawn.used, most_positive=int(slots * POSITIVE_SHARE))


def active_slots(active: Tensor) -> Tensor:
    """Return the flat indices of the slots (N, S) that a head computes: at least one, so that it always has gradients.

    Where shapes must be fixed these are all slots.
    """
    if wants_fixed_shapes(active.device):
        return torch.arange(active.numel(), device=active.device)
    found = active.flatten().nonzero().squeeze(1)
    return found if len(found) else found.new_zeros(1)
