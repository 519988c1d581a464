"""From SSD's outputs to detections, batched over images and classes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from mlperf_det.models.box_coding import decode
from mlperf_det.models.detections import Detections

#: Boxes must score strictly more than this (MLPerf reference, v0.5 to v1.1).
SCORE_THRESHOLD = 0.05
#: Boxes of a class that overlap a better one by this much or more are dropped.
NMS_IOU = 0.5
#: Best boxes of each class that enter suppression.
CANDIDATES_PER_CLASS = 200
#: Best boxes of an image over all classes that are returned.
DETECTIONS_PER_IMAGE = 200

# torchvision's nms drops boxes strictly above its threshold: the next float32 below makes that "at or above".
_STRICT_THRESHOLD = NMS_IOU - 2.0**-25
# A margin of a thousandth keeps rounding from deciding before the softmax does.
_LEAST_LOGIT = math.log(SCORE_THRESHOLD) - 1e-3
# Bounds the pairwise bit mask of one call to hundreds of MB even while an early model scores everything.
_IMAGES_PER_NMS = 16


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """One row for each (image, class, box) that is still in the race, sorted by image, class and falling score."""

    image: Tensor
    label: Tensor
    box: Tensor
    score: Tensor

    def __getitem__(self, rows: Tensor) -> _Candidates:
        return _Candidates(image=self.image[rows], label=self.label[rows], box=self.box[rows], score=self.score[rows])


def postprocess(localization: Tensor, logits: Tensor, defaults: Tensor, sizes: Tensor) -> Detections:
    """Turn the network's outputs into detections.

    Softmax, score threshold, the best 200 of each class, greedy suppression within the class, the best 200 of the
    image. Boxes are not clipped to the image. Images without detections have no valid slot.

    Args:
        localization: (N, 4, A) predicted offsets.
        logits: (N, C + 1, A) class scores, index 0 the background.
        defaults: (A, 4) float32 default boxes, centre and size, fractions of the image.
        sizes: (N, 2) int64 height and width of the original images.
    """
    candidates = _select(logits.float())
    corners = decode(localization.float()[candidates.image, :, candidates.box], defaults[candidates.box])
    kept = _suppress(candidates, corners, images=len(sizes), classes=logits.shape[1] - 1)
    candidates, corners = candidates[kept], corners[kept]
    best = candidates.score.argsort(descending=True, stable=True)
    best = best[candidates.image[best].argsort(stable=True)]
    candidates, corners = candidates[best], corners[best]
    slot = _rank_within(candidates.image)
    return _fill(candidates, corners * sizes.flip(1).repeat(1, 2)[candidates.image], slot, images=len(sizes))


def _select(logits: Tensor) -> _Candidates:
    """Return the candidates of (N, C + 1, A) float32 class scores."""
    # A probability p of a class needs a logit of at least background + log(p): most boxes fail without a softmax.
    hopeful = logits[:, 1:].amax(dim=1) > logits[:, 0] + _LEAST_LOGIT
    hopeful_image, hopeful_box = hopeful.nonzero(as_tuple=True)
    scores = logits[hopeful_image, :, hopeful_box].softmax(dim=1)[:, 1:]
    row, label = (scores > SCORE_THRESHOLD).nonzero(as_tuple=True)
    image, box, score = hopeful_image[row], hopeful_box[row], scores[row, label]
    order = score.argsort(descending=True, stable=True)
    group = image * scores.shape[1] + label
    order = order[group[order].argsort(stable=True)]
    order = order[_rank_within(group[order]) < CANDIDATES_PER_CLASS]
    return _Candidates(image=image[order], label=label[order], box=box[order], score=score[order])


def _rank_within(group: Tensor) -> Tensor:
    """Return each row's position within its run of equal values of the sorted ``group``."""
    return torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)


def _suppress(candidates: _Candidates, corners: Tensor, *, images: int, classes: int) -> Tensor:
    """Return the rows that survive greedy suppression within their image and class."""
    if len(corners) == 0:
        return candidates.image
    # Groups are moved apart so far that they cannot meet. In float64 the shift, a whole multiple of a power of two,
    # leaves every bit of a float32 coordinate above 2**-10 in place, so that overlaps of exactly 0.5 stay exact.
    span = torch.exp2((corners.abs().max().double() + 1).log2().ceil() + 1)
    shifted = corners.double() + ((candidates.image * classes + candidates.label) * span).unsqueeze(1)
    scores = candidates.score.double()
    # nms compares within the whole list that it is given: short lists save time on a CPU and memory on a GPU.
    step = 1 if corners.device.type == 'cpu' else _IMAGES_PER_NMS
    bounds = torch.arange(0, images + step, step, device=corners.device)
    rows = torch.searchsorted(candidates.image, bounds).tolist()
    return torch.cat([
        nms(shifted[start:end], scores[start:end], _STRICT_THRESHOLD) + start
        for start, end in itertools.pairwise(rows)])


def _fill(candidates: _Candidates, boxes: Tensor, slot: Tensor, *, images: int) -> Detections:
    """Put rows, which name their image and slot, into the fixed shape; slots past the last are dropped."""
    fits = slot < DETECTIONS_PER_IMAGE
    place = (candidates.image[fits], slot[fits])
    shape = (images, DETECTIONS_PER_IMAGE)
    return Detections(
        boxes=boxes.new_zeros((*shape, 4)).index_put(place, boxes[fits]),
        scores=boxes.new_zeros(shape).index_put(place, candidates.score[fits]),
        labels=candidates.label.new_zeros(shape).index_put(place, candidates.label[fits]),
        valid=torch.zeros(shape, dtype=torch.bool, device=boxes.device).index_put(
            place, torch.ones_like(fits[fits])),
    )
