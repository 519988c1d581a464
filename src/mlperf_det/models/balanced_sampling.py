"""Drawing positives and negatives for a loss: uniform, without replacement, all images at once, no host."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn, in S slots an image: the positives first, then the negatives.

    Attributes:
        index: (N, S) int64; 0 in slots that are not used.
        positive: (N, S) bool.
        used: (N, S) bool; False from where candidates ran out.
    """

    index: Tensor
    positive: Tensor
    used: Tensor


def draw_balanced(positive: Tensor, negative: Tensor, *, slots: int, most_positive: int) -> Drawn:
    """Draw at most ``most_positive`` positives and fill up with negatives.

    Every candidate gets a random key and the largest keys win, so no count ever reaches the host. Draws from the
    default generator of the device.

    Args:
        positive: (N, A) bool.
        negative: (N, A) bool, disjoint from it.
        slots: S, most candidates of an image.
        most_positive: most positives among them.
    """
    candidates = positive.shape[1]
    keys = torch.rand(positive.shape, device=positive.device)
    best_positive = torch.where(positive, keys, -1.0).topk(min(most_positive, candidates))
    best_negative = torch.where(negative, keys, -1.0).topk(min(slots, candidates))
    positives = (best_positive.values >= 0).sum(dim=1, keepdim=True)
    negatives = (best_negative.values >= 0).sum(dim=1, keepdim=True)
    slot = torch.arange(slots, device=positive.device).expand(len(positive), -1)
    is_positive = slot < positives
    used = slot < positives + negatives
    from_positive = best_positive.indices.gather(1, slot.clamp(max=best_positive.indices.shape[1] - 1))
    from_negative = best_negative.indices.gather(
        1, (slot - positives).clamp(min=0, max=best_negative.indices.shape[1] - 1))
    index = torch.where(is_positive, from_positive, from_negative)
    return Drawn(index=torch.where(used, index, 0), positive=is_positive, used=used)
