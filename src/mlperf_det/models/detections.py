"""What a detector returns at inference: fixed shapes, so that no step needs the host."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detections of N images, K slots each, best first; unused slots have ``valid`` False.

    Attributes:
        boxes: (N, K, 4) float32, left, top, right, bottom in pixels of the original image.
        scores: (N, K) float32 in [0, 1].
        labels: (N, K) int64, contiguous 0-based category index (the order of the dataset's categories).
        valid: (N, K) bool.
        masks: (N, K, 28, 28) float32 mask probabilities of the predicted class, or None for box detectors.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None
