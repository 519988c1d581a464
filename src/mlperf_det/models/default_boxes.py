"""SSD's default boxes ("SSD: Single Shot MultiBox Detector", Liu et al. 2016, in MLPerf's exact form)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mlperf_det.models.ssd_architecture import SsdArchitecture


def level_shapes(architecture: SsdArchitecture, level: int) -> list[tuple[float, float]]:
    """Return (width, height) of each default box of ``level`` in fractions of the image, in the order of the table.

    The order is: the square of the level's scale, the square of the geometric mean with the next scale, then for each
    extra ratio the wide and the tall box of the level's area.
    """
    scale = architecture.scales[level] / architecture.image_size
    next_scale = architecture.scales[level + 1] / architecture.image_size
    mean = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (mean, mean)]
    for ratio in architecture.aspect_ratios[level]:
        root = math.sqrt(ratio)
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    return shapes


def default_boxes(architecture: SsdArchitecture) -> Tensor:
    """Return the table of default boxes: (A, 4) float32 centre x, centre y, width, height, fractions of the image.

    Order: level, shape, row, column (the MLPerf reference's; the network's heads use the same). All four numbers are
    clamped to [0, 1], as the reference does before it derives corners; corners may still lie outside the image.
    """
    return torch.tensor(list(_rows(architecture)), dtype=torch.float32).clamp_(0, 1)


def _rows(architecture: SsdArchitecture) -> Iterator[tuple[float, float, float, float]]:
    for level, (size, step) in enumerate(zip(architecture.feature_sizes, architecture.steps, strict=True)):
        # Steps are round numbers of pixels, not image_size / size: the last centre of a level may exceed 1.
        centres = [(cell + 0.5) * step / architecture.image_size for cell in range(size)]
        for width, height in level_shapes(architecture, level):
            for y in centres:
                for x in centres:
                    yield x, y, width, height
