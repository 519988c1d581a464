"""Both forms of the rasteriser give pycocotools' bits for whatever outlines and regions there are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mlperf_det.data.polygon_raster import MASK_SIDE, Polygons, _draw_dense, make_polygons, mask_targets

KINDS = ('star', 'tangle', 'line', 'point', 'lattice', 'tiny', 'huge', 'far', 'triangle')


class Scene(NamedTuple):
    polygons: Polygons
    objects: torch.Tensor
    rois: torch.Tensor


def outline(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Corners (n, 2) of a polygon near (50, 50)."""
    count = 3 if kind == 'triangle' else int(rng.integers(3, 60))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count)) if kind == 'star' else rng.uniform(0, 2 * np.pi, count)
    radius = rng.uniform(1, 60, count) * {'tiny': 0.01, 'huge': 15}.get(kind, 1)
    corners = 50 + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    if kind == 'line':
        corners = 50 + rng.uniform(-60, 60, (count, 1)) * rng.choice([[1, 0], [0, 1], [1, 1], [1, 0.3]])
    if kind == 'point':
        corners[:] = corners[0]
    if kind == 'far':
        corners += rng.choice([-500, 500], 2)
    # Repeated corners, and corners on the lattice, where rounding ties occur.
    corners = np.repeat(corners, rng.integers(1, 3, count), axis=0) if rng.random() < 0.3 else corners
    return np.round(corners) if kind == 'lattice' else corners


def make_scene(rng: np.random.Generator, kinds: tuple[str, ...] = KINDS, regions: int = 24) -> Scene:
    """Objects of one to four polygons each, one without any, and regions of any place and size."""
    corners, lengths, parts = [], [], [0]
    for _ in range(5):
        outlines = sorted((outline(str(rng.choice(kinds)), rng) for _ in range(rng.integers(1, 5))), key=len)[::-1]
        corners += outlines
        lengths += [len(one) for one in outlines]
        parts.append(len(outlines))
    polygons = make_polygons(np.concatenate(corners), np.cumsum([0, *lengths]), np.cumsum([0, *parts]))
    left_top = rng.uniform(-40, 90, (regions, 2))
    sides = rng.uniform(0, 120, (regions, 2)) * (rng.random((regions, 2)) < 0.9)
    rois = np.concatenate([left_top, left_top + sides], axis=1)
    rois[::4] = np.round(rois[::4])
    rois[1::8] = [36, 36, 64, 64]        # scale 1: corners stay on the lattice
    return Scene(polygons, torch.from_numpy(rng.integers(0, len(parts), regions)), torch.from_numpy(rois))


def by_pycocotools(scene: Scene) -> np.ndarray:
    corners, part_offsets, object_offsets = (
        getattr(scene.polygons, name).numpy() for name in ('corners', 'part_offsets', 'object_offsets'))
    targets = []
    for index, roi in zip(scene.objects.tolist(), scene.rois.numpy(), strict=True):
        scale = MASK_SIDE / np.maximum(roi[2:] - roi[:2], 1)
        parts = [((corners[part_offsets[part]:part_offsets[part + 1]] - roi[:2]) * scale).reshape(-1).tolist()
                 for part in range(object_offsets[index], object_offsets[index + 1])]
        targets.append(mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(parts, MASK_SIDE, MASK_SIDE)))
                       if parts else np.zeros((MASK_SIDE, MASK_SIDE), np.uint8))
    return np.stack(targets)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**63), kinds=st.sets(st.sampled_from(KINDS), min_size=1))
def test_both_forms_equal_pycocotools_bit_for_bit(seed: int, kinds: set[str]) -> None:
    scene = make_scene(np.random.default_rng(seed), tuple(sorted(kinds)))
    expected = by_pycocotools(scene)
    targets = mask_targets(*scene)
    assert targets.dtype == torch.uint8
    np.testing.assert_array_equal(targets.numpy(), expected)
    np.testing.assert_array_equal(_draw_dense(*scene).numpy(), expected)


def test_real_outlines_fill_their_boxes_in_part() -> None:
    """The comparison above is not one of empty masks."""
    scenes = [make_scene(np.random.default_rng(), ('star', 'tangle')) for _ in range(10)]
    share = float(np.mean([mask_targets(*scene).numpy() for scene in scenes]))
    assert 0.1 < share < 0.9


def test_float32_regions_are_taken_as_they_are() -> None:
    scene = make_scene(np.random.default_rng())
    rounded = scene._replace(rois=scene.rois.float())
    same = mask_targets(scene.polygons, scene.objects, scene.rois.float().double())
    assert torch.equal(mask_targets(*rounded), same)
    assert torch.equal(_draw_dense(*rounded), same)


@pytest.mark.parametrize('draw', [mask_targets, _draw_dense])
def test_more_corners_than_are_handled_at_once(draw: object) -> None:
    rng = np.random.default_rng()
    angles = np.linspace(0, 2 * np.pi, 700, endpoint=False)
    corners = 50 + rng.uniform(20, 40, (700, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scene = Scene(make_polygons(corners, np.array([0, 700]), np.array([0, 1])), torch.zeros(1, dtype=torch.int64),
                  torch.tensor([[5.0, 10.0, 91.0, 95.0]], dtype=torch.float64))
    np.testing.assert_array_equal(draw(*scene).numpy(), by_pycocotools(scene))


@pytest.mark.parametrize('draw', [mask_targets, _draw_dense])
@pytest.mark.parametrize('regions', [0, 3])
def test_no_polygon_and_no_region_are_fine(draw: object, regions: int) -> None:
    nothing = make_polygons(np.empty((0, 2)), np.zeros(1, np.int64), np.zeros(9, np.int64))
    targets = draw(nothing, torch.zeros(regions, dtype=torch.int64), torch.ones(regions, 4))
    assert targets.shape == (regions, MASK_SIDE, MASK_SIDE)
    assert not targets.any()


def test_the_most_corners_of_each_place() -> None:
    polygons = make_polygons(np.zeros((22, 2)), np.array([0, 5, 8, 11, 20, 22]), np.array([0, 3, 3, 5]))
    assert polygons.most_corners == (9, 3, 3)


def test_a_device_is_never_asked_for_a_value() -> None:
    """Fake tensors have no values: any step that needs one on the host raises."""
    scene = make_scene(np.random.default_rng(), regions=512)
    with FakeTensorMode():
        polygons = scene.polygons._each(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda'))
        targets = mask_targets(polygons, torch.empty(512, dtype=torch.int64, device='cuda'),
                               torch.empty(512, 4, device='cuda'))
    assert isinstance(targets, FakeTensor)
    assert targets.device.type == 'cuda'
    assert targets.shape == (512, MASK_SIDE, MASK_SIDE)


def test_polygons_move_as_one() -> None:
    moved = make_scene(np.random.default_rng()).polygons.to(torch.device('meta'), non_blocking=True)
    assert {tensor.device.type for tensor in (moved.corners, moved.part_offsets, moved.object_offsets)} == {'meta'}
    assert moved.most_corners
