"""Non-maximum suppression of many groups of boxes at once, with results of a fixed shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from mlperf_det.models.legacy_boxes import pairwise_iou

#: Rounds on an accelerator. A round settles every box whose suppressors are settled, so what matters is the longest
#: chain of boxes that each suppress the next: ten or so among 2000 proposals, since the order by score is nearly
#: random with regard to place (Blelloch et al., Greedy Sequential Maximal Independent Set, bound it by log² n).
ROUNDS = 48


@torch.library.custom_op('mlperf_det::grouped_nms', mutates_args=())
def grouped_nms(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Return (N, G, C) bool: which boxes of each group no better, kept box overlaps beyond the threshold.

    On the CPU each group goes through torchvision's sequential operator. An accelerator would have to hand its results,
    whose number depends on the data, to the host; it runs `settle_in_rounds` instead, which is exact as long as no
    chain of suppressions is longer than `ROUNDS`, and otherwise drops the boxes whose fate is still open.

    Args:
        boxes: (N, G, C, 4) float32 half-open, each group in falling order of score.
        valid: (N, G, C) bool; other boxes neither suppress nor are kept.
        iou_threshold: strict.
    """
    if boxes.device.type != 'cpu':
        return settle_in_rounds(boxes, valid, iou_threshold, ROUNDS)
    keep = torch.zeros_like(valid)
    falling = torch.arange(boxes.shape[2], 0, -1, dtype=torch.float32)
    for group, present, kept in zip(boxes.flatten(0, 1), valid.flatten(0, 1), keep.flatten(0, 1), strict=True):
        real = present.nonzero().squeeze(1)
        kept[real[nms(group[real], falling[real], iou_threshold)]] = True
    return keep


@grouped_nms.register_fake
def _(boxes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid)


def settle_in_rounds(boxes: Tensor, valid: Tensor, iou_threshold: float, rounds: int) -> Tensor:
    """Return what `grouped_nms` returns, by a fixed number of operations and without the host.

    Each round keeps the open boxes that no open box before them overlaps and then drops what those overlap.
    """
    count = boxes.shape[2]
    suppresses = torch.stack([pairwise_iou(image, image) > iou_threshold for image in boxes])
    # Half precision: sums of zeros and ones are only compared with zero, and matrix units read half as much.
    number = torch.float32 if boxes.device.type == 'cpu' else torch.float16
    earlier = suppresses.flatten(0, 1).triu_(1).to(number)
    kept = torch.zeros(len(earlier), 1, count, dtype=number, device=boxes.device)
    open_boxes = valid.reshape(-1, 1, count).to(number)
    for _ in range(rounds):
        safe = open_boxes * (torch.bmm(open_boxes, earlier) == 0)
        kept = kept + safe
        open_boxes = (open_boxes - safe) * (torch.bmm(safe, earlier) == 0)
    return (kept > 0).view_as(valid)
