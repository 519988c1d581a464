"""Region proposal network: its head, and proposals from the head's outputs.

Source: Ren et al., Faster R-CNN; Lin et al., Feature Pyramid Networks; the MLPerf Mask R-CNN reference for the
selection. Shapes are fixed by the sizes of the images alone, and nothing is asked of the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.models.anchor_offsets import decode_offsets
from mlperf_det.models.grouped_nms import grouped_nms
from mlperf_det.models.legacy_boxes import clip
from mlperf_det.models.maskrcnn_anchors import ANCHORS_PER_CELL

NMS_IOU = 0.7


class RpnHead(nn.Module):
    """A 3x3 convolution shared by all levels, then a logit and four offsets of each anchor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, ANCHORS_PER_CELL, 1)
        self.bbox_pred = nn.Conv2d(channels, ANCHORS_PER_CELL * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level the logits (N, A_l) and offsets (N, A_l, 4), float32 whatever the compute dtype.

        The two output layers are one convolution in float32: rounded logits would tie, and rounded offsets of large
        anchors would be off by pixels.
        """
        logits, offsets = [], []
        for level in pyramid:
            hidden = F.relu(self.conv(level), inplace=True)
            with torch.autocast(hidden.device.type, enabled=False):
                weight = torch.cat([self.cls_logits.weight, self.bbox_pred.weight])
                bias = torch.cat([self.cls_logits.bias, self.bbox_pred.bias])  # type: ignore[list-item]
                outputs = F.conv2d(hidden.float(), weight, bias).permute(0, 2, 3, 1)
            logits.append(outputs[..., :ANCHORS_PER_CELL].flatten(1))
            offsets.append(outputs[..., ANCHORS_PER_CELL:].reshape(len(level), -1, 4))
        return logits, offsets


@torch.no_grad()
def propose(logits: Sequence[Tensor], offsets: Sequence[Tensor], anchors: Sequence[Tensor], sizes: Tensor, *,
            per_level: int) -> tuple[Tensor, Tensor]:
    """Return the proposals of all levels that suppression leaves.

    Per image and level the ``per_level`` best anchors are decoded and clipped to the image, and suppressed above an
    IoU of 0.7. Boxes of any size and score stay.

    Args:
        logits: per level, (N, A_l) float32.
        offsets: per level, (N, A_l, 4) float32.
        anchors: per level, twins (A_l, 4).
        sizes: (N, 2) int64, height and width of the unpadded images.
        per_level: most proposals of a level.

    Returns:
        twins (N, P, 4) and their logits (N, P); -inf marks what was suppressed, and slots that a small level leaves.
    """
    boxes, scores = [], []
    for level_logits, level_offsets, level in zip(logits, offsets, anchors, strict=True):
        best, index = level_logits.topk(min(per_level, level_logits.shape[1]))
        chosen = index[..., None].expand(-1, -1, 4)
        decoded = decode_offsets(level_offsets.gather(1, chosen), level.expand(len(index), -1, -1).gather(1, chosen))
        rest = per_level - index.shape[1]
        boxes.append(F.pad(clip(decoded, sizes), (0, 0, 0, rest)))
        scores.append(F.pad(best, (0, rest), value=-torch.inf))
    stacked, ranked = torch.stack(boxes, dim=1), torch.stack(scores, dim=1)
    kept = grouped_nms(stacked, ranked > -torch.inf, NMS_IOU)
    return stacked.flatten(1, 2), torch.where(kept, ranked, -torch.inf).flatten(1)


def select_over_batch(scores: Tensor, count: int) -> Tensor:
    """Say (N, P) which proposals are among the ``count`` best of the whole batch: the cut that training uses.

    An image whose proposals all score low may keep few.
    """
    best = scores.flatten().topk(min(count, scores.numel()))
    chosen = torch.zeros_like(scores, dtype=torch.bool).flatten().scatter(0, best.indices, best.values > -torch.inf)
    return chosen.view_as(scores)


def select_per_image(boxes: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` best proposals (N, count, 4) of each image, and which of them are real (N, count)."""
    best = scores.topk(min(count, scores.shape[1]))
    return boxes.gather(1, best.indices[..., None].expand(-1, -1, 4)), best.values > -torch.inf
