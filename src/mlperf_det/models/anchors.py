"""Anchors: the reference boxes that lie on every cell of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def octave_sizes(base: int) -> tuple[int, int, int]:
    """Return three anchor sizes that divide an octave evenly, truncated to whole pixels: 32 gives 32, 40, 50.

    Source: Lin et al., Focal Loss for Dense Object Detection, section 4; truncated as in the MLPerf reference.
    """
    return base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))


def cell_anchors(sizes: Sequence[int], aspect_ratios: Sequence[float]) -> Tensor:
    """Return the anchors of one cell, centred on the origin and rounded half to even, as torchvision rounds them.

    Args:
        sizes: square roots of the anchors' areas, pixels.
        aspect_ratios: height / width.

    Returns:
        (len(aspect_ratios) * len(sizes), 4) float32, left, top, right, bottom; the ratio varies slowest.
    """
    roots = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
    scales = torch.tensor(sizes, dtype=torch.float32)
    widths = ((1 / roots)[:, None] * scales).flatten()
    heights = (roots[:, None] * scales).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def pyramid_grids(image_size: int, first_level: int, last_level: int) -> list[int]:
    """Return the side of each level's square grid: the image halved, rounding up, once a level.

    800 pixels and levels 3 to 7 give 100, 50, 25, 13, 7.
    """
    sides = [image_size]
    for _ in range(last_level):
        sides.append((sides[-1] + 1) // 2)
    return sides[first_level:]


def pyramid_anchors(image_size: int, grids: Sequence[int], cells: Sequence[Tensor]) -> Tensor:
    """Return the anchors of all levels for a square image.

    A cell's anchors are centred on its top left corner, at multiples of the stride ``image_size // grid``, as in
    torchvision: for 800 pixels the strides are 8, 16, 32, 61 and 114. Boxes are neither clipped nor filtered.

    Args:
        image_size: side of the image, pixels.
        grids: side of each level's square grid, cells.
        cells: of each level, the `cell_anchors`.

    Returns:
        (A, 4) float32, left, top, right, bottom in pixels; ordered by level, row, column, anchor of the cell.
    """
    levels = []
    for grid, cell in zip(grids, cells, strict=True):
        offsets = torch.arange(grid, dtype=torch.float32) * (image_size // grid)
        rows, columns = torch.meshgrid(offsets, offsets, indexing='ij')
        shifts = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
        levels.append((shifts + cell).reshape(-1, 4))
    return torch.cat(levels)
