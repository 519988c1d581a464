"""The geometric augmentation of SSD: a random crop constrained by IoU, and the mirror image of boxes.

Source: "SSD: Single Shot MultiBox Detector" (Liu et al., 2016), section 2.2, in the stricter form of the MLPerf
reference: every box of the image, not any, must overlap the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: One is drawn uniformly: keep the whole image (None), or crop with IoU above the number; -inf: without constraint.
MODES: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, float('-inf'))
#: Sides of a crop, as fractions of the image's.
_SIDES = (0.3, 1.0)
#: Least and largest width / height of a crop, in fractions of the image's sides.
_ASPECT = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of an image and the objects whose centre lies in it.

    Attributes:
        window: left, top, right, bottom as fractions of the image; None: the whole image.
        kept: (M,) bool, the boxes that stay.
        boxes: (kept, 4) float64 ltrb, clipped to the window, as fractions of the window.
    """

    window: tuple[float, float, float, float] | None
    kept: NDArray[np.bool_]
    boxes: NDArray[np.float64]

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of the window in an image, its edges truncated to whole pixels, at least one."""
        if self.window is None:
            return slice(0, height), slice(0, width)
        left, top, right, bottom = self.window
        return _truncated(top, bottom, height), _truncated(left, right, width)


def random_crop(boxes: NDArray[np.float64], attempts: int, rng: np.random.Generator) -> Crop:
    """Draw a crop: a mode, up to ``attempts`` windows of it, and a new mode until a window is accepted.

    A window is accepted if width / height lies in [1/2, 2], every box has an IoU with it strictly above the mode's
    threshold, and the centre of at least one box lies strictly inside.

    Args:
        boxes: (M, 4) ltrb fractions of the image.
        attempts: windows tried before a new mode is drawn (MLPerf allows 1 and 50).
        rng: source of randomness.
    """
    while True:
        threshold = MODES[rng.integers(len(MODES))]
        if threshold is None:
            return Crop(window=None, kept=np.ones(len(boxes), dtype=np.bool_), boxes=boxes)
        # All attempts at once: they are independent, so taking the first accepted one is the same as stopping there.
        windows = _draw_windows(attempts, rng)
        inside = _centres_inside(boxes, windows)
        accepted = inside.any(axis=1)
        if threshold > 0 and accepted.any():
            accepted &= (_iou(boxes, windows) > threshold).all(axis=1)
        if accepted.any():
            first = int(accepted.argmax())
            return _crop_to(boxes, windows[first], inside[first])


def mirror(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the boxes, (M, 4) ltrb fractions, of the horizontally mirrored image."""
    mirrored = boxes.copy()
    mirrored[:, 0] = 1 - boxes[:, 2]
    mirrored[:, 2] = 1 - boxes[:, 0]
    return mirrored


def _draw_windows(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw ``count`` windows and return those of legal aspect: (at most count, 4) ltrb."""
    sizes, corners = rng.random((2, count, 2))
    sizes *= _SIDES[1] - _SIDES[0]
    sizes += _SIDES[0]
    corners *= 1 - sizes
    aspect = sizes[:, 0] / sizes[:, 1]
    legal = (aspect >= _ASPECT[0]) & (aspect <= _ASPECT[1])
    windows: NDArray[np.float64] = np.concatenate([corners, corners + sizes], axis=1)[legal]
    return windows


def _centres_inside(boxes: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (windows, boxes): whether the centre of the box lies strictly inside the window."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    strictly_inside = (centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])
    return np.logical_and(strictly_inside[..., 0], strictly_inside[..., 1])


def _iou(boxes: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (windows, boxes) intersection over union."""
    sides = np.minimum(boxes[:, 2:], windows[:, None, 2:]) - np.maximum(boxes[:, :2], windows[:, None, :2])
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    iou: NDArray[np.float64] = intersection / (_areas(boxes) + _areas(windows)[:, None] - intersection)
    return iou


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _truncated(start: float, stop: float, pixels: int) -> slice:
    first = int(start * pixels)
    return slice(first, max(int(stop * pixels), first + 1))


def _crop_to(boxes: NDArray[np.float64], window: NDArray[np.float64], kept: NDArray[np.bool_]) -> Crop:
    corner, size = window[:2], window[2:] - window[:2]
    relative = (boxes[kept].reshape(-1, 2, 2) - corner) / size
    left, top, right, bottom = (float(edge) for edge in window)
    return Crop(window=(left, top, right, bottom), kept=kept, boxes=relative.clip(0, 1).reshape(-1, 4))
