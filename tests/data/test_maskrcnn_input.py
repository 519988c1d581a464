"""Mask R-CNN's input: sizes, boxes and outlines by the reference's inclusive-pixel rules; real photos pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.aspect_sampler import steps_per_epoch
from mlperf_det.data.coco_masks import Outlines, read_outlines
from mlperf_det.data.decode import decode_rgb
from mlperf_det.data.maskrcnn_input import (
    MaskBatch,
    MaskImageSource,
    ResizeTransform,
    check_outlines,
    evaluation_batches,
    input_size,
    padded_size,
    train_batches,
    training_targets,
)
from mlperf_det.data.polygon_raster import mask_targets
from mlperf_det.data.scenes.dataset import GeneratorSettings, generate_dataset
from mlperf_det.errors import UserError

SMALL = ResizeTransform(64, 100, 0.5)


@pytest.mark.parametrize(('width', 'height', 'expected'), [
    # width x height as photographers write it -> as the reference resizes
    (640, 480, (1066, 800)), (640, 427, (1199, 800)), (640, 360, (1333, 750)), (480, 640, (800, 1066)),
    (427, 640, (800, 1199)), (500, 500, (800, 800)), (800, 1100, (800, 1100)), (640, 384, (1333, 800)),
    (1000, 100, (1330, 133)),
])
def test_input_sizes_of_the_reference(width: int, height: int, expected: tuple[int, int]) -> None:
    assert input_size(height, width, 800, 1333) == expected[::-1]


def test_no_photo_leaves_the_two_fixed_shapes() -> None:
    rng = np.random.default_rng()
    for height, width in rng.integers(50, 1000, (3000, 2)).tolist():
        new = input_size(height, width, 800, 1333)
        assert min(new) <= 800
        assert max(new) <= 1333 + 0.5 * max(height, width) / min(height, width), 'rounding of the short side'
        assert padded_size(torch.tensor([new]), (800, 1333)) in {(800, 1344), (1344, 800)}


def test_padding() -> None:
    sizes = torch.tensor([[800, 1066], [750, 1333]])
    assert padded_size(sizes, None) == (800, 1344)
    assert padded_size(sizes[:1], None) == (800, 1088)
    assert padded_size(sizes[:1], (800, 1333)) == (800, 1344)
    assert padded_size(sizes.flip(1), (800, 1333)) == (1344, 800)
    with pytest.raises(ValueError, match='fits neither'):
        padded_size(torch.tensor([[800, 1066], [1066, 800]]), (800, 1333))


def photo(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng().integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(('height', 'width'), [(48, 64), (90, 60), (200, 300)])
def test_pixels_are_pillows(height: int, width: int) -> None:
    image = photo(height, width)
    pixels, _, _ = ResizeTransform(64, 100, 0)(image, np.empty((0, 4)), np.empty(0, np.int64), np.random.default_rng())
    new_height, new_width = input_size(height, width, 64, 100)
    expected = np.asarray(Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR))
    assert pixels.dtype == torch.uint8
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected)
    # Both round to whole levels after each of the two passes, with weights in fixed point of different widths: each
    # pass can make a level's difference, and hardly ever does.
    assert difference.max() <= 2
    assert difference.mean() < 0.02


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = photo(64, 80)
    pixels, _, _ = ResizeTransform(64, 100, 0)(image, np.empty((0, 4)), np.empty(0, np.int64), np.random.default_rng())
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize('mirrored', [False, True])
def test_boxes_follow_the_inclusive_rules(mirrored: bool) -> None:
    rng = np.random.default_rng()
    first = rng.uniform(0, 30, (50, 2))
    last = first + rng.uniform(1, 30, (50, 2))                  # inclusive corners in an image of 60 x 80
    twins = np.concatenate([first, last + 1], axis=1) / [80, 60, 80, 60]
    transform = ResizeTransform(64, 200, float(mirrored))
    pixels, boxes, _ = transform(photo(60, 80), twins, np.zeros(50, np.int64), rng)
    assert pixels.shape[1:] == (64, 85)
    expected = np.concatenate([first, last], axis=1) * [85 / 80, 64 / 60, 85 / 80, 64 / 60]
    if mirrored:
        expected[:, [0, 2]] = 85 - expected[:, [2, 0]] - 1
    expected[:, 2:] += 1
    np.testing.assert_allclose(boxes.numpy(), expected, atol=1e-4)


def test_half_of_the_images_are_mirrored_with_their_pixels() -> None:
    image, rng = photo(64, 80), np.random.default_rng(1)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    results = [ResizeTransform(64, 100, 0.5)(image, np.empty((0, 4)), np.empty(0, np.int64), rng)[0]
               for _ in range(300)]
    same, mirror = (sum(torch.equal(pixels, one) for pixels in results) for one in (planes, planes.flip(-1)))
    assert same + mirror == 300
    assert 110 < same < 190


def annotations_of(write_json: Callable, images: dict[int, list[tuple[list[float], int]]]) -> Annotations:
    """Images of 100 x 60 pixels: id -> boxes and their ``iscrowd``."""
    boxes = [(image, box, crowd) for image, found in images.items() for box, crowd in found]
    return read_annotations(write_json({
        'images': [{'id': image, 'file_name': f'{image}.jpg', 'height': 60, 'width': 100} for image in images],
        'annotations': [{'id': 100 + row, 'image_id': image, 'category_id': 1, 'bbox': box, 'iscrowd': crowd,
                         'area': 1.0} for row, (image, box, crowd) in enumerate(boxes)],
        'categories': [{'id': 1, 'name': 'thing'}]}))


def test_which_images_and_boxes_are_trained_on(write_json: Callable) -> None:
    targets = training_targets(annotations_of(write_json, {
        9: [([10, 10, 20, 30], 0), ([5, 5, 50, 50], 1), ([1, 2, 1.5, 20], 0)],
        3: [],                                           # no annotation
        7: [([5, 5, 1, 50], 0), ([5, 5, 50, 0.5], 0)],   # each box has a side of at most one pixel
        5: [([5, 5, 50, 50], 1)],                        # a crowd alone keeps the image, without a target
        4: [([90, 50, 30, 30], 0), ([99.5, 5, 11, 20], 0), ([-5, 10, 20.0, 10], 0), ([3, 3, 1.0, 9], 0)],
    }))
    assert targets.image_ids.tolist() == [4, 5, 9], 'by id'
    assert targets.file_names == ('4.jpg', '5.jpg', '9.jpg')
    assert targets.boxes_per_image.tolist() == [2, 0, 2]
    assert targets.annotation_ids.tolist() == [106, 108, 100, 102]
    # Half-open: inclusive edges are clipped to 99 and 59; the width counts both edge pixels.
    np.testing.assert_allclose(targets.boxes, [[90, 50, 10, 10], [0, 10, 15, 10], [10, 10, 20, 30], [1, 2, 1.5, 20]])
    assert not targets.crowd.any()


def test_nothing_to_train_on_is_an_error(write_json: Callable) -> None:
    with pytest.raises(UserError, match=r'instances\.json: annotations: no image has a box of over one pixel'):
        training_targets(annotations_of(write_json, {1: [([1, 1, 1, 5], 0)], 2: []}))


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('maskrcnn') / 'scenes'
    generate_dataset(GeneratorSettings(train=40, val=17, seed=8), root, workers=1)
    return root


def open_split(root: Path, split: str, *, masks: bool, fixed_shapes: bool = False) -> MaskImageSource:
    path = root / 'annotations' / f'instances_{split}2017.json'
    annotations = read_annotations(path)
    if not masks:
        return MaskImageSource(annotations, root / f'{split}2017', None, fixed_shapes=fixed_shapes)
    annotations = training_targets(annotations)
    return MaskImageSource(annotations, root / f'{split}2017', read_outlines(path, annotations.annotation_ids),
                           fixed_shapes=fixed_shapes)


def training(source: MaskImageSource, transform: ResizeTransform = SMALL, **changed: Any) -> list[MaskBatch]:
    settings = {'epoch': 0, 'skip': 0, 'rank': 0, 'world_size': 1, 'seed': 3, 'batch_size': 4, 'workers': 0}
    return list(train_batches(source, transform, **{**settings, **changed}))


def assert_outlines_fit_boxes(batch: MaskBatch, tolerance: float) -> int:
    """Each object's outline reaches from edge to edge of its box, so neither was flipped or scaled alone."""
    polygons, targets = batch.polygons, batch.labels.shape[1]
    assert len(polygons.object_offsets) == batch.labels.numel() + 1
    compared = 0
    for image, target in np.ndindex(*batch.labels.shape):
        start, stop = polygons.object_offsets[image * targets + target:][:2].tolist()
        assert batch.labels[image, target] >= 0 or start == stop
        if start == stop:
            continue
        corners = polygons.corners[polygons.part_offsets[start]:polygons.part_offsets[stop]]
        box = batch.boxes[image, target].double()
        reach = torch.cat([corners.amin(dim=0), corners.amax(dim=0)])
        assert (reach - box).abs().max() <= tolerance, (int(batch.image_ids[image]), target, reach, box)
        compared += 1
    return compared


def test_a_batch_is_what_its_docstring_says(scenes: Path) -> None:
    source = open_split(scenes, 'train', masks=True)
    compared = 0
    for batch in training(source):
        assert isinstance(batch, MaskBatch)
        count, _, height, width = batch.images.shape
        assert batch.images.dtype == torch.uint8
        assert (height % 32, width % 32) == (0, 0)
        assert batch.valid_sizes.dtype == torch.int64
        valid_height, valid_width = batch.valid_sizes.amax(dim=0).tolist()
        assert height - 32 < valid_height <= height
        assert width - 32 < valid_width <= width
        for row in range(count):
            h, w = batch.valid_sizes[row].tolist()
            assert (h, w) == input_size(*batch.sizes[row].tolist(), 64, 100)
            assert not batch.images[row, :, h:].any()
            assert not batch.images[row, :, :, w:].any()
            assert batch.images[row, :, h - 1].any()
            own = batch.boxes[row][batch.labels[row] >= 0]
            # Where images shrink, scaled inclusive edges reach beyond the image by less than a pixel.
            assert (own > -1).all()
            assert (own < torch.tensor([w, h, w, h]) + 1).all()
        wide = batch.sizes[:, 0] < batch.sizes[:, 1]
        assert wide.all() or not wide.any()
        # A pixel of the inclusive rules and one of rounding to the original's pixels, at most twice as large here.
        compared += assert_outlines_fit_boxes(batch, tolerance=3)
    assert compared > 60


def test_targets_drawn_into_whole_boxes_look_like_the_masks(scenes: Path) -> None:
    """Masks that the annotation file states against what a mask head would be asked for, mirrored or not."""
    source = open_split(scenes, 'train', masks=True)
    for mirrored in (0.0, 1.0):
        for batch in training(source, ResizeTransform(64, 100, mirrored)):
            objects = torch.nonzero(batch.labels.flatten() >= 0)[:, 0]
            rois = batch.boxes.flatten(0, 1)[objects] - torch.tensor([0, 0, 1, 1])
            drawn = mask_targets(batch.polygons, objects, rois)
            assert (drawn.flatten(1).sum(dim=1) > 60).all(), 'objects fill their boxes in good part'


def assert_same(ours: list[MaskBatch], theirs: list[MaskBatch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for field in fields(MaskBatch):
            if field.name != 'polygons':
                assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
        assert one.polygons.most_corners == other.polygons.most_corners
        for name in ('corners', 'part_offsets', 'object_offsets'):
            assert torch.equal(getattr(one.polygons, name), getattr(other.polygons, name)), name


def test_resumes_and_workers_do_not_change_the_batches(scenes: Path) -> None:
    source = open_split(scenes, 'train', masks=True)
    full = training(source, epoch=2)
    assert len(full) == steps_per_epoch(len(source), 4, 1)
    assert_same(training(source, epoch=2, skip=4), full[4:])
    try:
        assert_same(training(source, epoch=2, workers=1), full)
    finally:
        source.close()
    assert not torch.equal(full[0].image_ids, training(source, epoch=1)[0].image_ids)


@pytest.mark.parametrize('world_size', [1, 3])
def test_evaluation_sees_each_image_once_at_its_size(scenes: Path, world_size: int) -> None:
    source = open_split(scenes, 'val', masks=False, fixed_shapes=True)
    batches = [batch for rank in range(world_size) for batch in evaluation_batches(
        source, ResizeTransform(64, 100, 0), rank=rank, world_size=world_size, batch_size=3, workers=0)]
    assert sorted(torch.cat([batch.image_ids for batch in batches]).tolist()) == source.annotations.image_ids.tolist()
    assert {tuple(batch.images.shape[2:]) for batch in batches} == {(64, 128), (128, 64)}
    assert all(isinstance(batch, MaskBatch) and not batch.polygons.most_corners for batch in batches)


def test_a_batch_moves_with_its_polygons(scenes: Path) -> None:
    batch = training(open_split(scenes, 'train', masks=True))[0].to(torch.device('meta'))
    assert isinstance(batch, MaskBatch)
    assert batch.polygons.corners.device.type == batch.valid_sizes.device.type == batch.images.device.type == 'meta'


def test_outlines_of_other_annotations_are_refused(scenes: Path) -> None:
    path = scenes / 'annotations' / 'instances_train2017.json'
    annotations = read_annotations(path)
    with pytest.raises(ValueError, match='outlines for'):
        MaskImageSource(annotations, scenes, read_outlines(path, annotations.annotation_ids[:3]), fixed_shapes=False)


def with_masks_moved(outlines: Outlines, objects: NDArray[np.int64]) -> Outlines:
    """The outlines with some of the objects' drawn a thousand pixels further right."""
    corners = outlines.corners.copy()
    starts = outlines.part_offsets[outlines.object_offsets]
    for index in objects:
        corners[starts[index]:starts[index + 1], 0] += 1000
    return replace(outlines, corners=corners)


def test_masks_that_lie_elsewhere_than_their_boxes_are_refused(scenes: Path) -> None:
    path = scenes / 'annotations' / 'instances_train2017.json'
    few = training_targets(read_annotations(path))
    times = -(-200 // len(few.boxes))
    many = replace(few, **{name: np.concatenate([getattr(few, name)] * times)
                           for name in ('boxes', 'labels', 'areas', 'crowd', 'annotation_ids')})
    outlines = read_outlines(path, many.annotation_ids)
    check_outlines(outlines, many)
    allowed = len(outlines) // 100
    check_outlines(with_masks_moved(outlines, np.arange(allowed)), many)
    with pytest.raises(UserError, match=f'annotation {many.annotation_ids[5]}: its mask lies elsewhere than its box, '
                                        f'and so do {allowed} more of {len(outlines)}'):
        check_outlines(with_masks_moved(outlines, np.arange(5, 6 + allowed)), many)


@pytest.mark.shared
def test_real_photos_pass_crowds_grayscale_and_empty_ones_included(shared_data: Path) -> None:
    root = shared_data / 'coco2017-mini'
    source = open_split(root, 'train', masks=True, fixed_shapes=True)
    everything = read_annotations(root / 'annotations' / 'instances_train2017.json')
    assert everything.crowd.sum() == 5
    assert len(source) == 64
    assert 508 not in source.annotations.image_ids
    assert len(source.annotations.boxes) == 540
    full_size = ResizeTransform(800, 1333, 0.5)
    batches = training(source, full_size, skip=8) + training(source, full_size, epoch=1, skip=8)
    assert {tuple(batch.images.shape[2:]) for batch in batches} <= {(800, 1344), (1344, 800)}
    assert sum(assert_outlines_fit_boxes(batch, tolerance=6) for batch in batches) > 200
    all_images = open_split(root, 'train', masks=False)
    seen = torch.cat([batch.image_ids for batch in evaluation_batches(
        all_images, ResizeTransform(100, 167, 0), rank=0, world_size=1, batch_size=8, workers=0)]).tolist()
    assert {86, 508} <= set(seen)
    assert len(seen) == 65


@pytest.mark.shared
def test_real_targets_cover_what_the_annotations_cover(shared_data: Path) -> None:
    """A target of an object's whole box, enlarged again, against pycocotools' mask of the photo."""
    root = shared_data / 'coco2017-mini'
    source = open_split(root, 'train', masks=True)
    path = root / 'annotations' / 'instances_train2017.json'
    outlines = read_outlines(path, source.annotations.annotation_ids)
    shares, expected = [], []
    for batch in training(source, ResizeTransform(800, 1333, 0.5), batch_size=2)[:20]:
        objects = torch.nonzero(batch.labels.flatten() >= 0)[:, 0]
        rois = batch.boxes.flatten(0, 1)[objects] - torch.tensor([0, 0, 1, 1])
        shares += mask_targets(batch.polygons, objects, rois).float().mean(dim=(1, 2)).tolist()
        for image_id, (height, width) in zip(batch.image_ids.tolist(), batch.sizes.tolist(), strict=True):
            index = int(np.flatnonzero(source.annotations.image_ids == image_id)[0])
            for row in range(*source.annotations.of_image(index).indices(len(outlines))):
                parts = range(*outlines.object_offsets[row:row + 2])
                rles = mask_utils.frPyObjects([outlines.corners[outlines.part_offsets[part]:outlines.part_offsets[
                    part + 1]].astype(float).reshape(-1).tolist() for part in parts], height, width)
                box = source.annotations.boxes[row]
                expected.append(float(mask_utils.area(mask_utils.merge(rles))) / (box[2] * box[3]))
    assert len(shares) > 100
    difference = np.abs(np.array(shares) - expected)
    assert np.median(difference) < 0.04
    assert np.quantile(difference, 0.9) < 0.2


@pytest.mark.shared
def test_a_grayscale_photo_has_three_equal_planes(shared_data: Path) -> None:
    image = decode_rgb(shared_data / 'coco2017-mini' / 'train2017' / '000000000086.jpg')
    pixels, _, _ = SMALL(image, np.empty((0, 4)), np.empty(0, np.int64), np.random.default_rng())
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
