from __future__ import annotations

from dataclasses import replace

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mlperf_det.models.anchors import cell_anchors, octave_sizes, pyramid_anchors, pyramid_grids
from mlperf_det.models.retinanet import ASPECT_RATIOS, RETINANET_RESNEXT50, RetinaNet


def anchors_of(image_size: int, bases: tuple[int, ...]) -> torch.Tensor:
    cells = [cell_anchors(octave_sizes(base), ASPECT_RATIOS) for base in bases]
    return pyramid_anchors(image_size, pyramid_grids(image_size, 3, 7), cells)


def test_sizes_are_truncated_octaves() -> None:
    assert [octave_sizes(base) for base in (32, 64, 128, 256, 512)] == [
        (32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812)]


def test_grids_of_the_benchmark() -> None:
    grids = pyramid_grids(800, 3, 7)
    assert grids == [100, 50, 25, 13, 7]
    assert sum(grid * grid for grid in grids) == 13_343
    assert [800 // grid for grid in grids] == [8, 16, 32, 61, 114]


def test_anchors_of_the_benchmark_have_the_published_count_checksum_and_ends() -> None:
    anchors = anchors_of(800, (32, 64, 128, 256, 512))
    assert anchors.shape == (120_087, 4)
    assert anchors.double().sum(dim=0).tolist() == [43_581_602, 43_581_602, 51_073_414, 51_073_414]
    assert anchors[:9].tolist() == [
        [-23, -11, 23, 11], [-28, -14, 28, 14], [-35, -18, 35, 18], [-16, -16, 16, 16], [-20, -20, 20, 20],
        [-25, -25, 25, 25], [-11, -23, 11, 23], [-14, -28, 14, 28], [-18, -35, 18, 35]]
    assert anchors[-1].tolist() == [397, 110, 971, 1258]
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= 800).all(1)
    assert inside.sum() == 102_943
    assert torch.equal(anchors, anchors.round())
    assert anchors.abs().max() < 2048, 'whole numbers that float16 holds'


def test_levels_have_the_published_counts() -> None:
    with torch.device('meta'):
        model = RetinaNet(RETINANET_RESNEXT50)
    assert model.level_sizes == [90_000, 22_500, 5_625, 1_521, 441]


def test_rounding_is_half_to_even() -> None:
    square = cell_anchors((161, 203, 645, 101), (1.0,))
    assert square[:, 2].tolist() == [80, 102, 322, 50]


def test_equal_torchvisions_at_an_odd_size() -> None:
    size, bases = 353, (24, 40, 96, 200, 301)
    generator = AnchorGenerator(tuple(octave_sizes(base) for base in bases), (ASPECT_RATIOS,) * 5)
    maps = [torch.zeros(1, 1, grid, grid) for grid in pyramid_grids(size, 3, 7)]
    (expected,) = generator(ImageList(torch.zeros(1, 3, size, size), [(size, size)]), maps)
    assert torch.equal(anchors_of(size, bases), expected)


def test_the_grids_are_those_the_network_makes() -> None:
    architecture = replace(RETINANET_RESNEXT50, image_size=200, blocks=(1, 1, 1, 1))
    model = RetinaNet(architecture)
    pyramid = model.backbone(torch.zeros(1, 3, 200, 200))
    assert [level.shape[-1] for level in pyramid] == pyramid_grids(200, 3, 7)
