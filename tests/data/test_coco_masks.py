"""Outlines of real and made-up annotation files: those asked for, in that order, with the pixels the file means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mlperf_det.data.coco_masks import Outlines, read_outlines
from mlperf_det.data.scenes.dataset import GeneratorSettings, generate_dataset
from mlperf_det.errors import UserError


def polygons_of(outlines: Outlines, index: int) -> list[list[float]]:
    parts = range(outlines.object_offsets[index], outlines.object_offsets[index + 1])
    return [outlines.corners[outlines.part_offsets[part]:outlines.part_offsets[part + 1]].reshape(-1).tolist()
            for part in parts]


def document(*segmentations: Any) -> dict[str, Any]:
    return {'images': [], 'annotations': [{'id': 10 * (row + 1), 'iscrowd': 0, 'segmentation': segmentation}
                                          for row, segmentation in enumerate(segmentations)]}


TRIANGLE, SQUARE = [1, 1, 5.25, 1, 5, 5], [0, 0, 8, 0, 8, 8, 0, 8]


def test_outlines_come_in_the_order_asked_for(write_json: Callable) -> None:
    path = write_json(document([TRIANGLE], [TRIANGLE, SQUARE], [SQUARE], [[1, 2, 3, 4], SQUARE]))
    outlines = read_outlines(path, np.array([40, 20, 10]))
    assert len(outlines) == 3
    assert polygons_of(outlines, 0) == [SQUARE], 'two corners are no polygon'
    assert polygons_of(outlines, 1) == [SQUARE, TRIANGLE], 'the one with most corners first'
    assert polygons_of(outlines, 2) == [TRIANGLE]
    assert outlines.corners.dtype == np.float32
    assert len(read_outlines(path, np.empty(0, np.int64))) == 0


@pytest.mark.parametrize('compressed', [False, True])
def test_run_lengths_become_a_line_around_the_same_pixels(write_json: Callable, compressed: bool) -> None:
    rng = np.random.default_rng()
    masks = [rng.random((23, 31)) < 0.5, np.ones((4, 5), bool), np.zeros((4, 5), bool), np.eye(6, dtype=bool)]
    encoded = []
    for mask in masks:
        rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        counts: Any = rle['counts'].decode()
        if not compressed:
            flat = mask.T.reshape(-1)
            edges = np.flatnonzero(np.diff(flat)) + 1
            counts = np.diff([0, *([0] if flat[0] else []), *edges, flat.size]).tolist()
        encoded.append({'size': list(mask.shape), 'counts': counts})
    outlines = read_outlines(write_json(document(*encoded)), np.array([10, 20, 30, 40]))
    for index, mask in enumerate(masks):
        polygons = polygons_of(outlines, index)
        assert len(polygons) == bool(mask.any())
        if polygons:
            drawn = mask_utils.decode(mask_utils.frPyObjects(polygons, *mask.shape))[..., 0]
            np.testing.assert_array_equal(drawn, mask)


@pytest.mark.parametrize(('segmentation', 'what'), [
    ([], 'annotation 20: segmentation: is empty; mask training needs the original file'),
    ([[1, 2, 3, 4, 5, 6, 7]], 'annotation 20: segmentation: a polygon has an odd number'),
    ([[1, 2, 'x', 4, 5, 6]], 'annotation 20: segmentation: Expected `float`'),
    ({'size': [4, 5], 'counts': [3, 4]}, r'annotation 20: segmentation: is not a mask of 5 x 4 pixels \(counts add up'),
    ({'size': [4, 5], 'counts': 'zzz'}, 'annotation 20: segmentation: is not a mask of 5 x 4 pixels'),
    ({'size': [4, 5]}, 'annotation 20: segmentation: .*counts'),
])
def test_damaged_masks_are_named(write_json: Callable, segmentation: Any, what: str) -> None:
    path = write_json(document([TRIANGLE], segmentation))
    with pytest.raises(UserError, match=what) as caught:
        read_outlines(path, np.array([10, 20]))
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)
    assert len(read_outlines(path, np.array([10]))) == 1, 'what is not asked for is not judged'


@pytest.mark.parametrize(('text', 'what'), [
    ('', 'is not valid JSON'), ('{"annotations": [', 'is not valid JSON'), ('{}', 'annotations'),
    ('{"annotations": [{"id": "a"}]}', 'is this a COCO annotation file'),
    ('{"annotations": [{"id": 1, "segmentation": []}]}', 'id 10 is absent, and so are 1 more'),
    ('{"annotations": [{"id": 10}, {"id": 20}]}', 'annotation 10: segmentation: is empty'),
])
def test_files_that_are_not_the_right_ones(write_json: Callable, text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_outlines(write_json(text), np.array([10, 20]))


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent\.json: cannot be read'):
        read_outlines(tmp_path / 'absent.json', np.array([1]))


def assert_areas(path: Path, *, most_relative_error: float) -> int:
    """Compare the pixels of each object's outline with the area that the file states."""
    content = json.loads(path.read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    objects = [annotation for annotation in content['annotations'] if not annotation['iscrowd']]
    outlines = read_outlines(path, np.array([annotation['id'] for annotation in objects]))
    for index, annotation in enumerate(objects):
        rles = mask_utils.frPyObjects(polygons_of(outlines, index), *sizes[annotation['image_id']])
        area = int(mask_utils.area(mask_utils.merge(rles)))
        assert abs(area - annotation['area']) <= most_relative_error * annotation['area'] + 4, annotation['id']
    return len(objects)


def test_generated_scenes_occluded_objects_included(tmp_path: Path) -> None:
    generate_dataset(GeneratorSettings(train=40, val=1, seed=3), tmp_path / 'scenes', workers=1)
    path = tmp_path / 'scenes' / 'annotations' / 'instances_train2017.json'
    kinds = {type(annotation['segmentation']) for annotation in json.loads(path.read_text())['annotations']
             if not annotation['iscrowd']}
    assert kinds == {list, dict}, 'the scenes have objects of both kinds'
    assert assert_areas(path, most_relative_error=0) > 40


@pytest.mark.shared
@pytest.mark.parametrize('split', ['train', 'val'])
def test_real_annotations(shared_data: Path, split: str) -> None:
    path = shared_data / 'coco2017-mini' / 'annotations' / f'instances_{split}2017.json'
    # COCO states the area of the outline itself, pixels differ from it along the edge.
    assert assert_areas(path, most_relative_error=0.5) > 300
