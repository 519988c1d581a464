"""Assignment of ground truth to SSD's default boxes, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

#: A default box is positive when its overlap is strictly greater (MLPerf reference).
MATCH_THRESHOLD = 0.5


def pairwise_iou(boxes: Tensor, references: Tensor) -> Tensor:
    """Return intersection over union of (N, M, 4) and (A, 4) corner boxes as (N, M, A)."""
    left, top, right, bottom = (side.unsqueeze(-1) for side in boxes.unbind(-1))
    ref_left, ref_top, ref_right, ref_bottom = references.unbind(-1)
    width = (torch.minimum(right, ref_right) - torch.maximum(left, ref_left)).clamp_(min=0)
    height = (torch.minimum(bottom, ref_bottom) - torch.maximum(top, ref_top)).clamp_(min=0)
    intersection = width * height
    area = (right - left) * (bottom - top)
    reference_area = (ref_right - ref_left) * (ref_bottom - ref_top)
    return intersection / (area + reference_area - intersection)


def match(boxes: Tensor, valid: Tensor, default_corners: Tensor) -> tuple[Tensor, Tensor]:
    """Assign to each default box at most one ground-truth box.

    A default box takes the ground truth of greatest overlap, the first on ties, if that overlap exceeds 0.5. Each
    ground truth also claims its own best default box, whatever the overlap; of several claims the last in list order
    wins. There is no band of ignored boxes (MLPerf reference, after the SSD paper).

    Args:
        boxes: (N, M, 4) float32 ground truth, left, top, right, bottom, M at least 1; unit as of ``default_corners``.
        valid: (N, M) bool, False for padding, which is never assigned.
        default_corners: (A, 4) float32 left, top, right, bottom.

    Returns:
        (N, A) int64 index of the assigned ground truth (0 where none), and (N, A) bool, True where one is assigned.
    """
    images, count = valid.shape
    iou = pairwise_iou(boxes, default_corners).masked_fill_(~valid.unsqueeze(-1), -1.0)
    best_iou, best_truth = iou.max(dim=1)
    # The greatest claimant index is the last claimant, so the order of a scatter's writes cannot matter.
    claimant = torch.arange(count, device=boxes.device).expand(images, count).masked_fill(~valid, -1)
    claimed_by = torch.full_like(best_truth, -1).scatter_reduce(1, iou.argmax(dim=2), claimant, 'amax')
    claimed = claimed_by >= 0
    positive = claimed | (best_iou > MATCH_THRESHOLD)
    return torch.where(claimed, claimed_by, best_truth), positive
