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

    @torch.no_grad()
    def forward(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level the logits (N, A_l) and offsets (N, A_l, 4), float32 whatever the compute dtype.

        Without gradients, because nothing learns from proposals; losses take `of_anchors`.
        """
        logits, offsets = [], []
        for level in pyramid:
            hidden = F.relu(self.conv(level), inplace=True)
            with torch.autocast(hidden.device.type, enabled=False):
                outputs = F.conv2d(hidden.float(), *self._output_layer()).permute(0, 2, 3, 1)
            logits.append(outputs[..., :ANCHORS_PER_CELL].flatten(1))
            offsets.append(outputs[..., ANCHORS_PER_CELL:].reshape(len(level), -1, 4))
        return logits, offsets

    def of_anchors(self, pyramid: Sequence[Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same logits (N, S) and offsets (N, S, 4) of some anchors only, and let gradients through.

        The losses see 256 anchors of an image out of 270,000, so the gradient of the maps is zero nearly everywhere.
        Convolving the chosen cells once more and going back through those alone spares a sixth of a training step.

        Args:
            pyramid: as for `forward`.
            anchors: (N, S) int64, numbered through all levels.
        """
        patches = surroundings(pyramid, anchors // ANCHORS_PER_CELL).flatten(2)
        hidden = F.relu(F.linear(patches, self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias))
        with torch.autocast(hidden.device.type, enabled=False):
            weight, bias = self._output_layer()
            outputs = F.linear(hidden.float(), weight.flatten(1), bias)
        ratio = (anchors % ANCHORS_PER_CELL)[..., None]
        logits = outputs[..., :ANCHORS_PER_CELL].gather(2, ratio).squeeze(2)
        offsets = outputs[..., ANCHORS_PER_CELL:].view(*anchors.shape, ANCHORS_PER_CELL, 4)
        return logits, offsets.gather(2, ratio[..., None].expand(-1, -1, 1, 4)).squeeze(2)

    def _output_layer(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of both output layers as one.

        It works in float32: rounded logits would tie, and rounded offsets of large anchors would be off by pixels.
        """
        return (torch.cat([self.cls_logits.weight, self.bbox_pred.weight]),
                torch.cat([self.cls_logits.bias, self.bbox_pred.bias]))  # type: ignore[list-item]


def surroundings(pyramid: Sequence[Tensor], cells: Tensor) -> Tensor:
    """Return (N, S, 9, C): what a 3x3 convolution sees at the cells (N, S), row by row, with zeros beyond the border.

    Args:
        pyramid: levels (N, C, H, W).
        cells: int64, numbered through all levels, row by row.
    """
    offset = torch.arange(-1, 2, device=cells.device)
    total, first = pyramid[0].new_zeros(()), 0
    for level in pyramid:
        height, width = level.shape[2:]
        cell = cells - first
        of_level = (cell >= 0) & (cell < height * width)
        row, column = cell[..., None] // width + offset, cell[..., None] % width + offset
        inside = (of_level[..., None, None] & ((row >= 0) & (row < height))[..., None]
                  & ((column >= 0) & (column < width))[:, :, None])
        place = row.clamp(0, height - 1)[..., None] * width + column.clamp(0, width - 1)[:, :, None]
        index = place.flatten(1)[:, None].expand(-1, level.shape[1], -1)
        found = level.flatten(2).gather(2, index).view(*level.shape[:2], -1, 9).permute(0, 2, 3, 1)
        total = total + torch.where(inside.flatten(2)[..., None], found, 0.0)
        first += height * width
    return total


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
