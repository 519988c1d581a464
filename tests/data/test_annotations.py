from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlperf_det.data.annotations import read_annotations
from mlperf_det.errors import UserError


def test_columns(truth, write_json):
    found = read_annotations(write_json(truth))
    assert len(found) == 3
    np.testing.assert_array_equal(found.image_ids, [1, 2, 3])
    np.testing.assert_array_equal(found.heights, [40, 50, 20])
    np.testing.assert_array_equal(found.widths, [60, 30, 20])
    assert found.file_names == ('000000000001.jpg', '000000000002.jpg', '000000000003.jpg')
    np.testing.assert_array_equal(found.category_ids, [1, 90])
    assert found.category_names == ('one', 'a b')
    # The third annotation belongs to the first image: it moves before the second.
    np.testing.assert_array_equal(found.offsets, [0, 2, 3, 3])
    np.testing.assert_array_equal(found.annotation_ids, [100, 102, 101])
    np.testing.assert_array_equal(found.boxes, [[1.5, 2, 10.25, 12], [5, 5, 30, 30], [0, 0, 20, 30.5]])
    np.testing.assert_array_equal(found.labels, [1, 0, 0])
    np.testing.assert_array_equal(found.crowd, [False, True, False])
    np.testing.assert_array_equal(found.areas, [50.5] * 3)
    assert found.of_image(0) == slice(0, 2)
    assert found.scorable
    assert (found.degenerate, found.unknown_images) == (0, ())
    for name, dtype in {'image_ids': np.int64, 'heights': np.int64, 'offsets': np.int64, 'boxes': np.float64,
                        'labels': np.int64, 'areas': np.float64, 'crowd': np.bool_}.items():
        assert getattr(found, name).dtype == dtype


def test_no_annotations_at_all(truth, write_json):
    found = read_annotations(write_json({**truth, 'annotations': []}))
    assert found.boxes.shape == (0, 4)
    np.testing.assert_array_equal(found.boxes_per_image, [0, 0, 0])


@pytest.mark.parametrize('box', [[1, 1, 0, 5], [1, 1, 5, 0], [1, 1, -3, 5]])
def test_boxes_without_area_are_dropped_and_their_image_stays(truth, write_json, box):
    truth['annotations'][1]['bbox'] = box
    found = read_annotations(write_json(truth))
    assert found.degenerate == 1
    assert len(found) == 3
    np.testing.assert_array_equal(found.boxes_per_image, [2, 0, 0])


def test_trimmed_files_lack_area_and_crowd(truth, write_json):
    for annotation in truth['annotations']:
        del annotation['area'], annotation['iscrowd'], annotation['segmentation']
    found = read_annotations(write_json(truth))
    assert not found.scorable
    assert np.isnan(found.areas).all()
    assert not found.crowd.any()




@pytest.mark.parametrize(('change', 'words'), [
    (lambda t: t['annotations'][1].update(image_id=77), ['annotations[1]', 'image_id', 'images']),
    (lambda t: t['annotations'][2].update(category_id=2), ['annotations[2]', 'category_id', 'categories']),
    (lambda t: t['annotations'][1].update(id=100), ['annotations', 'once', '100']),
    (lambda t: t['images'][1].update(id=1), ['images', 'once']),
    (lambda t: t['images'][1].update(file_name='000000000001.jpg'), ['images', '000000000001.jpg', 'once']),
    (lambda t: t['categories'][1].update(id=1), ['categories', 'once']),
    (lambda t: t['annotations'][2].pop('bbox'), ['bbox', 'annotations[2]']),
    (lambda t: t['images'][0].pop('height'), ['height', 'images[0]']),
    (lambda t: t['images'][0].update(width=0), ['images[0]', 'positive']),
    (lambda t: t['images'][0].update(id='one'), ['int', 'images[0].id']),
    (lambda t: t['annotations'][0].update(bbox=[1, 2, 3]), ['annotations[0].bbox', '4']),
    (lambda t: t['annotations'][0].update(id=2**64), ['id']),
    (lambda t: t.pop('categories'), ['categories']),
    (lambda t: t.update(images=[], annotations=[]), ['images', 'empty']),
])
def test_wrong_content_names_the_record(truth, write_json, change, words):
    change(truth)
    path = write_json(truth)
    with pytest.raises(UserError) as caught:
        read_annotations(path)
    message = str(caught.value)
    assert str(path) in message
    assert '\n' not in message
    for word in words:
        assert word in message, message


def test_unknown_images_can_be_listed_instead(truth, write_json):
    truth['annotations'][1]['image_id'] = 77
    found = read_annotations(write_json(truth), on_unknown_image='drop')
    assert found.unknown_images == (101,)
    np.testing.assert_array_equal(found.annotation_ids, [100, 102])


def test_many_unknown_images_are_counted(truth, write_json):
    truth['annotations'] = [{**truth['annotations'][0], 'id': i, 'image_id': 500 + i} for i in range(10)]
    with pytest.raises(UserError, match=r'annotations\[2\] and 7 more'):
        read_annotations(write_json(truth))


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'empty'), ('{"images": [', 'not valid JSON'), ('hello', 'not valid JSON'), ('[]', 'object')])
def test_not_json(write_json, text, words):
    with pytest.raises(UserError, match=words):
        read_annotations(write_json(text))


def test_cut_off_file(truth, write_json):
    with pytest.raises(UserError, match='cut off'):
        read_annotations(write_json(json.dumps(truth)[:-40]))


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r'none\.json: cannot be read'):
        read_annotations(tmp_path / 'none.json')


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-1, 4)), max_size=30), st.randoms())
def test_grouping_equals_a_loop(tmp_path_factory, records, random):
    image_ids = random.sample(range(1000), 6)
    document = {
        'images': [{'id': i, 'file_name': f'{i}.jpg', 'height': 9, 'width': 9} for i in image_ids],
        'categories': [{'id': 7 * c, 'name': str(c)} for c in (3, 0, 2, 1)],
        'annotations': [{'id': 50 - n, 'image_id': image_ids[i], 'category_id': 7 * c, 'bbox': [n, 0, w, 2]}
                        for n, (i, c, w) in enumerate(records)]}
    path = tmp_path_factory.mktemp('grouping') / 'a.json'
    path.write_text(json.dumps(document))
    found = read_annotations(path)
    assert found.degenerate == sum(w <= 0 for _, _, w in records)
    for index in range(6):
        expected = [(n, [3, 0, 2, 1].index(c), 50 - n) for n, (i, c, w) in enumerate(records) if i == index and w > 0]
        rows = found.of_image(index)
        assert list(zip(found.boxes[rows, 0], found.labels[rows], found.annotation_ids[rows], strict=True)) == expected


@pytest.mark.shared
def test_equals_pycocotools_on_real_photos(shared_data):
    from pycocotools.coco import COCO

    path = shared_data / 'coco2017-mini/annotations/instances_train2017.json'
    found, coco = read_annotations(path), COCO(str(path))
    assert (len(found), len(found.boxes), int(found.crowd.sum())) == (65, 545, 5)
    assert int((found.boxes_per_image == 0).sum()) == 1
    for index, image_id in enumerate(found.image_ids.tolist()):
        expected = coco.loadAnns(coco.getAnnIds([image_id]))
        rows = found.of_image(index)
        assert found.annotation_ids[rows].tolist() == [a['id'] for a in expected]
        assert found.boxes[rows].tolist() == [a['bbox'] for a in expected]
        assert found.areas[rows].tolist() == [a['area'] for a in expected]
        assert found.category_ids[found.labels[rows]].tolist() == [a['category_id'] for a in expected]
        assert (found.heights[index], found.widths[index]) == (coco.imgs[image_id]['height'],
                                                               coco.imgs[image_id]['width'])
