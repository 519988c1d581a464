from __future__ import annotations

import pytest
import torch

from mlperf_det.models.legacy_boxes import to_inclusive
from mlperf_det.models.maskrcnn_anchors import STRIDES, cell_anchors, inside_image, level_anchors, pyramid_anchors

#: Detectron's table: stride -> anchors of aspect 0.5, 1 and 2.
TABLE = {
    4: [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]],
    8: [[-40, -20, 47, 27], [-28, -28, 35, 35], [-20, -44, 27, 51]],
    16: [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]],
    32: [[-164, -72, 195, 103], [-112, -112, 143, 143], [-76, -168, 107, 199]],
    64: [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]],
}


@pytest.mark.parametrize('stride', STRIDES)
def test_cell_anchors_are_detectrons(stride: int) -> None:
    assert cell_anchors(stride, 8).tolist() == TABLE[stride]


def grids_of(height: int, width: int) -> list[tuple[int, int]]:
    """The maps of P2 to P6 for a padded image: P6 takes every other cell of P5."""
    grids = [(height // stride, width // stride) for stride in STRIDES[:4]]
    return [*grids, ((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2)]


def test_anchors_of_the_landscape_shape() -> None:
    cells = torch.stack([cell_anchors(stride, 8) for stride in STRIDES])
    levels = pyramid_anchors(cells, grids_of(800, 1344))
    assert grids_of(800, 1344)[-1] == (13, 21)
    assert sum(len(level) for level in levels) == 268_569
    # The last cell of P6 is at row 12, column 20: 64 pixels a step, not image size over grid (61).
    expected = torch.tensor(TABLE[64], dtype=torch.float32) + torch.tensor([20., 12, 20, 12]) * 64
    assert torch.equal(to_inclusive(levels[-1][-3:]), expected)


def test_order_is_row_column_aspect() -> None:
    anchors = to_inclusive(level_anchors(cell_anchors(16, 8), 16, 5, 7)).view(5, 7, 3, 4)
    for row, column, aspect in ((0, 0, 0), (4, 6, 2), (3, 1, 1)):
        shift = torch.tensor([column, row, column, row]) * 16
        assert torch.equal(anchors[row, column, aspect], torch.tensor(TABLE[16][aspect]) + shift)


def test_visibility_is_of_the_unpadded_image() -> None:
    cells = torch.stack([cell_anchors(stride, 8) for stride in STRIDES])
    anchors = torch.cat(pyramid_anchors(cells, grids_of(320, 448)))
    sizes = torch.tensor([[310, 421], [320, 448]])
    found = inside_image(anchors, sizes)
    for image, (height, width) in enumerate(sizes.tolist()):
        expected = [x1 >= 0 and y1 >= 0 and x2 < width and y2 < height
                    for x1, y1, x2, y2 in to_inclusive(anchors).tolist()]
        assert found[image].tolist() == expected
    assert 0 < found[0].sum() < found[1].sum()
