"""The two losses of the region proposal network.

Source: the MLPerf Mask R-CNN reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.anchor_offsets import encode_offsets
from mlperf_det.models.balanced_sampling import Drawn, draw_balanced
from mlperf_det.models.maskrcnn_anchors import inside_image
from mlperf_det.models.retinanet_matching import BACKGROUND, gather_matched, match_anchors

#: IoU below which an anchor is background, and from which it is matched.
BACKGROUND_IOU, FOREGROUND_IOU = 0.3, 0.7
#: Anchors of an image that the losses see, and most positives among them.
ANCHORS_PER_IMAGE, MOST_POSITIVE = 256, 128
#: Where the smooth L1 loss turns from quadratic to linear.
BETA = 1 / 9


@torch.no_grad()
def draw_anchors(anchors: Tensor, boxes: Tensor, labels: Tensor, sizes: Tensor) -> tuple[Drawn, Tensor]:
    """Match the anchors and draw those that the losses see.

    An anchor is positive from an IoU of 0.7 or if it reaches a box's highest IoU, negative below 0.3. Matching comes
    first; then anchors that cross the border of the image are left out.

    Args:
        anchors: twins (A, 4) of all levels.
        boxes: twins (N, M, 4), padded.
        labels: (N, M) int64, -1 in padding.
        sizes: (N, 2) int64, height and width of the unpadded images.

    Returns:
        The draw, and the twins (N, S, 4) of the boxes that its anchors are matched to, meaningful where positive.
    """
    matched = match_anchors(anchors, boxes, labels, background_iou=BACKGROUND_IOU, foreground_iou=FOREGROUND_IOU)
    visible = inside_image(anchors, sizes)
    drawn = draw_balanced((matched >= 0) & visible, (matched == BACKGROUND) & visible,
                          slots=ANCHORS_PER_IMAGE, most_positive=MOST_POSITIVE)
    targets, _ = gather_matched(matched.gather(1, drawn.index), boxes, labels)
    return drawn, targets


def rpn_losses(logits: Tensor, offsets: Tensor, anchors: Tensor, drawn: Drawn, targets: Tensor) -> Mapping[str, Tensor]:
    """Return ``objectness`` (binary cross entropy) and ``rpn_box_reg`` (smooth L1), both over all drawn anchors.

    Args:
        logits: (N, S) float32, of the drawn anchors.
        offsets: (N, S, 4) float32, likewise.
        anchors: twins (A, 4) of all levels.
        drawn: the anchors that count, S an image.
        targets: twins (N, S, 4) of their boxes.
    """
    count = drawn.used.sum().clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(logits, drawn.positive.float(), reduction='none')
    references = anchors[drawn.index]
    # Anchors without a box stand in for their box, so that no logarithm of padding reaches the gradient.
    wanted = encode_offsets(torch.where(drawn.positive[..., None], targets, references), references)
    distance = F.smooth_l1_loss(offsets, wanted, beta=BETA, reduction='none').sum(dim=2)
    return {'objectness': torch.where(drawn.used, entropy, 0.0).sum() / count,
            'rpn_box_reg': torch.where(drawn.positive, distance, 0.0).sum() / count}
