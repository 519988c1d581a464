"""Anchors of Mask R-CNN's region proposal network: whole pixels, inclusive, at fixed strides.

Source: Detectron's anchor generation, which the MLPerf reference uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mlperf_det.models.legacy_boxes import to_twins

#: Pixels between the cells of P2 to P6.
STRIDES = (4, 8, 16, 32, 64)
#: Height over width of a cell's anchors.
ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHORS_PER_CELL = len(ASPECT_RATIOS)


def cell_anchors(stride: int, scale: int) -> Tensor:
    """Return the inclusive anchors (3, 4) of a level's first cell, centred on (stride - 1) / 2.

    Sides are rounded (halves to even) at the scale of the stride and then multiplied.

    Args:
        stride: pixels between cells.
        scale: anchor size over the stride; 8 in the benchmark.
    """
    centre = (stride - 1) / 2
    anchors = []
    for ratio in ASPECT_RATIOS:
        width = round(math.sqrt(stride * stride / ratio))
        half_width, half_height = (width * scale - 1) / 2, (round(width * ratio) * scale - 1) / 2
        anchors.append([centre - half_width, centre - half_height, centre + half_width, centre + half_height])
    return torch.tensor(anchors)


def level_anchors(cells: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Return the twins (height * width * 3, 4) of a level's anchors, ordered by row, column and aspect ratio.

    Args:
        cells: (3, 4) float32 inclusive, from `cell_anchors`.
        stride: pixels between cells.
        height: rows of the padded feature map.
        width: columns of the padded feature map.
    """
    columns = torch.arange(width, device=cells.device, dtype=cells.dtype) * stride
    rows = torch.arange(height, device=cells.device, dtype=cells.dtype) * stride
    y, x = torch.meshgrid(rows, columns, indexing='ij')
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return to_twins((shifts + cells).reshape(-1, 4))


def pyramid_anchors(cells: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the anchors of all levels.

    Args:
        cells: (5, 3, 4) float32 inclusive.
        grids: height and width of each level's feature map.
    """
    return [level_anchors(level_cells, stride, *grid)
            for level_cells, stride, grid in zip(cells, STRIDES, grids, strict=True)]


def inside_image(anchors: Tensor, sizes: Tensor) -> Tensor:
    """Say (N, A) which anchor twins (A, 4) lie entirely in the unpadded images of ``sizes`` (N, 2), height, width."""
    height, width = sizes.to(anchors.dtype).unbind(1)
    left, top, right, bottom = anchors.unbind(1)
    return (left >= 0) & (top >= 0) & (right <= width[:, None]) & (bottom <= height[:, None])
