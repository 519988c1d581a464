from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from mlperf_det.models.box_coding import centers_to_corners
from mlperf_det.models.default_boxes import default_boxes, level_shapes
from mlperf_det.models.ssd_architecture import SSD300_RESNET34, SSD_SMOKE

LEVEL_OFFSETS = [0, 5776, 7942, 8542, 8692, 8728, 8732]


@pytest.fixture(scope='module')
def table() -> Tensor:
    return default_boxes(SSD300_RESNET34)


def test_the_table_has_the_published_sums(table: Tensor) -> None:
    assert table.dtype == torch.float32
    sums = table.double().sum(dim=0)
    torch.testing.assert_close(
        sums, torch.tensor([4443.1467, 4443.1467, 1171.9677, 1171.9677], dtype=torch.float64), rtol=0, atol=5e-5)


def test_first_and_last_rows(table: Tensor) -> None:
    torch.testing.assert_close(table[0], torch.tensor([0.0133333, 0.0133333, 0.07, 0.07]), rtol=0, atol=1e-6)
    last = [[.5, .5, .87, .87], [.5, .5, .955772, .955772], [.5, .5, 1, .615183], [.5, .5, .615183, 1]]
    torch.testing.assert_close(table[-4:], torch.tensor(last), rtol=0, atol=1e-6)


@pytest.mark.parametrize(('level', 'pixels'), [
    (0, [(21, 21), (30.7409, 30.7409), (29.6985, 14.8492)]),
    (1, [(45, 45), (66.7458, 66.7458), (63.6396, 31.8198), (31.8198, 63.6396), (77.9423, 25.9808)]),
    (2, [(99, 99), (123.0731, 123.0731), (140.0071, 70.0036), (70.0036, 140.0071), (171.4730, 57.1577)]),
    (3, [(153, 153), (177.9635, 177.9635), (216.3747, 108.1873), (108.1873, 216.3747), (265.0038, 88.3346)]),
    (4, [(207, 207), (232.4371, 232.4371), (292.7422, 146.3711), (146.3711, 292.7422)]),
    (5, [(261, 261), (286.7316, 286.7316), (369.1097, 184.5549), (184.5549, 369.1097)]),
])
def test_shapes_of_each_level_in_pixels(level: int, pixels: list[tuple[float, float]]) -> None:
    shapes = [(300 * width, 300 * height) for width, height in level_shapes(SSD300_RESNET34, level)]
    assert len(shapes) == SSD300_RESNET34.boxes_per_cell[level]
    for shape, expected in zip(shapes, pixels, strict=False):
        assert shape == pytest.approx(expected, abs=1e-4)
    for wide, tall in zip(shapes[2::2], shapes[3::2], strict=True):
        assert wide == pytest.approx(tall[::-1])


def test_a_level_runs_over_shapes_then_rows_then_columns(table: Tensor) -> None:
    for level, size in enumerate(SSD300_RESNET34.feature_sizes):
        boxes = table[LEVEL_OFFSETS[level]:LEVEL_OFFSETS[level + 1]].view(-1, size, size, 4)
        assert boxes.shape[0] == SSD300_RESNET34.boxes_per_cell[level]
        assert (boxes[..., 2:] == boxes[:, :1, :1, 2:]).all(), 'one shape at all cells'
        assert (boxes[..., 0] == boxes[:1, :1, :, 0]).all(), 'x depends on the column'
        assert (boxes[..., 1] == boxes[:1, :, :1, 1]).all(), 'y depends on the row'


def test_what_the_clamp_touches(table: Tensor) -> None:
    third = table[7942:8542].view(6, 10, 10, 4)
    assert (third == 1).sum(dim=(0, 1, 2)).tolist() == [60, 60, 0, 0]
    assert (table[:, 2:] == 1).sum(dim=0).tolist() == [1, 1]
    # 37.5 * 8 / 300 is 1 without a clamp: the last column and row of the finest level
    assert (table[:, :2] == 1).sum(dim=0).tolist() == [60 + 38 * 4, 60 + 38 * 4]
    assert (third[:, :, -1, 0] == 1).all()
    assert (third[:, -1, :, 1] == 1).all()


def test_corners_may_leave_the_image(table: Tensor) -> None:
    corners = centers_to_corners(table)
    assert int(((corners < 0) | (corners > 1)).any(dim=1).sum()) == 2221


def test_against_torchvision_after_permutation(table: Tensor) -> None:
    ratios = [list(level) for level in SSD300_RESNET34.aspect_ratios]
    generator = DefaultBoxGenerator(
        ratios, scales=[scale / 300 for scale in SSD300_RESNET34.scales], steps=list(SSD300_RESNET34.steps))
    sizes = SSD300_RESNET34.feature_sizes
    corners = generator(
        ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), [torch.zeros(1, 1, size, size) for size in sizes])[0]
    levels = []
    for level, size in enumerate(sizes):
        part = corners[LEVEL_OFFSETS[level]:LEVEL_OFFSETS[level + 1]]
        levels.append(part.view(size, size, -1, 4).permute(2, 0, 1, 3).reshape(-1, 4) / 300)
    difference = (centers_to_corners(table) - torch.cat(levels)).abs().amax(dim=1)
    # torchvision clamps sizes alone, so the boxes whose centre lies outside differ, by at most 9.5 * 32 / 300 - 1.
    assert int((difference > 1e-5).sum()) == 114
    assert float(difference.max()) == pytest.approx(0.01333, abs=1e-5)


def test_the_smoke_table_fits_its_network() -> None:
    boxes = default_boxes(SSD_SMOKE)
    assert boxes.shape == (SSD_SMOKE.num_default_boxes, 4)
    assert (boxes > 0).all()
    assert (boxes <= 1).all()
