from __future__ import annotations

import json
import random

import pytest

from mlperf_det.cli import main
from mlperf_det.data import prepare_coco as prepare_coco_module
from mlperf_det.data.prepare_coco import prepare_coco, trim
from mlperf_det.errors import UserError


def oracle(document: dict, keep_keys: bool) -> dict:
    """What prepare-json.py does, written down plainly."""
    images = [{key: value for key, value in image.items() if key in ('id', 'file_name', 'height', 'width')}
              for image in document['images']]
    annotations = []
    for annotation in document['annotations']:
        if keep_keys:
            annotation = dict(annotation)
            for key, value in (('segmentation', []), ('area', 1.0)):
                if key in annotation:
                    annotation[key] = value
        else:
            annotation = {k: v for k, v in annotation.items() if k in ('image_id', 'bbox', 'category_id', 'id')}
        annotations.append(annotation)
    return {'images': images, 'annotations': annotations, 'categories': document['categories']}


def compact(document: dict) -> str:
    return json.dumps(document, separators=(',', ':'))


@pytest.mark.shared
@pytest.mark.parametrize('keep_keys', [True, False])
@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('pretty', [False, True])
def test_bytes_equal_on_real_annotations(shared_data, tmp_path, split, keep_keys, pretty):
    source = shared_data / f'coco2017-mini/annotations/instances_{split}2017.json'
    document = json.loads(source.read_text())
    done = trim(source, tmp_path / 'out.json', keep_keys=keep_keys, pretty=pretty)
    assert (done.images, done.annotations) == (len(document['images']), len(document['annotations']))
    expected = oracle(document, keep_keys)
    assert done.path.read_text() == (json.dumps(expected, indent=4) if pretty else compact(expected))


@pytest.mark.parametrize('keep_keys', [True, False])
@pytest.mark.parametrize('seed', range(5))
def test_bytes_equal_on_random_documents(tmp_path, seed, keep_keys):
    rng = random.Random(seed)

    def record(keys: dict) -> dict:
        return {key: keys[key] for key in order if key in keys}

    order = rng.sample(['id', 'file_name', 'height', 'width', 'license'], 5)
    images = [record({'id': i, 'file_name': f'{i}.jpg', 'height': rng.randrange(1, 9), 'width': 3, 'license': 1})
              for i in range(20)]
    order = rng.sample(['id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'segmentation', 'IsGroupOf'], 8)
    annotations = [record({'id': i, 'image_id': rng.randrange(20), 'category_id': 1, 'area': rng.random(), 'iscrowd': 0,
                           'bbox': [rng.uniform(0, 640), round(rng.uniform(0, 640), 2), rng.randrange(9), 0.5],
                           'segmentation': [[1.5, 2]], 'IsGroupOf': bool(i % 2)}) for i in range(50)]
    document = {'info': {}, 'images': images, 'annotations': annotations,
                'categories': [{'id': 1, 'name': 'a, b', 'supercategory': None}], 'licenses': [{'images': [{'x': 1}]}]}
    source = tmp_path / 'in.json'
    source.write_text(rng.choice([compact, json.dumps])(document))
    trim(source, tmp_path / 'out.json', keep_keys=keep_keys)
    assert (tmp_path / 'out.json').read_text() == compact(oracle(document, keep_keys))


@pytest.mark.parametrize('keep_keys', [True, False])
@pytest.mark.parametrize('write', [compact, json.dumps])
@pytest.mark.parametrize('part_bytes', [1, 90, 700])
@pytest.mark.parametrize('last', ['images', 'annotations', 'categories'])
def test_where_a_part_ends_makes_no_difference(monkeypatch, tmp_path, keep_keys, write, part_bytes, last):
    monkeypatch.setattr(prepare_coco_module, '_PART_BYTES', part_bytes)
    document = {
        # Records like those sought, deeper inside and in a string.
        'info': {'annotations': [{'id': i, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 1, 1]} for i in range(20)]},
        'licenses': ['"annotations": [{}, {}]'],
        'images': [{'id': i, 'file_name': f'}}, {{{i}', 'height': 4, 'width': 5, 'x': [{}, {}]} for i in range(12)],
        'annotations': [{'segmentation': {'counts': [1, i], 'size': [4, 5]}, 'area': i, 'image_id': i % 12, 'bbox': [
            0.5, i, 1, 2], 'category_id': 1, 'id': i, 'parts': [{'a': 1}, {'a': 2}], 'note': '},{'} for i in range(30)],
        'categories': [{'id': 1, 'name': '}, {'}]}
    for with_decoy in (True, False):
        if not with_decoy:
            del document['info']
        source = tmp_path / 'in.json'
        source.write_text(write({**{key: value for key, value in document.items() if key != last},
                                 last: document[last]}))
        done = trim(source, tmp_path / 'out.json', keep_keys=keep_keys)
        assert done.annotations == 30
        text = (tmp_path / 'out.json').read_text()
        assert json.loads(text) == oracle(document, keep_keys)
        assert with_decoy or text == compact(oracle(document, keep_keys))


@pytest.mark.parametrize('keep_keys', [True, False])
@pytest.mark.parametrize('write', [compact, json.dumps])
def test_records_with_differing_keys(truth, write_json, tmp_path, keep_keys, write):
    truth['annotations'][1]['note é'] = 'only here, "quoted"'
    del truth['annotations'][2]['area']
    trim(write_json(write(truth)), tmp_path / 'out.json', keep_keys=keep_keys)
    assert json.loads((tmp_path / 'out.json').read_text()) == oracle(truth, keep_keys)


def test_no_annotations(truth, write_json, tmp_path):
    done = trim(write_json({**truth, 'annotations': []}), tmp_path / 'out.json', keep_keys=True)
    assert (done.images, done.annotations) == (3, 0)


@pytest.mark.parametrize(('change', 'words'), [
    (lambda t: t.pop('annotations'), 'annotations'),
    (lambda t: t['images'][1].pop('width'), r'width.*images\[1\]'),
    (lambda t: t['annotations'][2].pop('bbox'), r'bbox.*annotations\[2\]'),
    (lambda t: t['annotations'][1].update(id='x'), r'annotations\[1\].id'),
])
@pytest.mark.parametrize('keep_keys', [True, False])
def test_wrong_input_names_the_record_and_leaves_nothing(truth, write_json, tmp_path, change, words, keep_keys):
    change(truth)
    with pytest.raises(UserError, match=words):
        trim(write_json(truth), tmp_path / 'out.json', keep_keys=keep_keys)
    assert [path.name for path in tmp_path.iterdir()] == ['instances.json']


@pytest.mark.parametrize('text', ['', '{"images": [{', 'x'])
def test_not_json(write_json, tmp_path, text):
    with pytest.raises(UserError, match='not valid JSON'):
        trim(write_json(text), tmp_path / 'out.json', keep_keys=True)


@pytest.mark.parametrize('workers', [1, 2])
def test_prepare_keeps_what_scoring_needs(tiny_card, tiny_root, workers):
    done = prepare_coco(tiny_card, tiny_root, keep_keys=False, workers=workers)
    assert [(t.path.name, t.images, t.annotations) for t in done] == [
        ('bbox_only_instances_train2017.json', 3, 3), ('bbox_only_instances_val2017.json', 3, 3)]
    train, val = (json.loads(t.path.read_text())['annotations'][2] for t in done)
    assert set(train) == {'image_id', 'bbox', 'category_id', 'id'}
    assert (val['iscrowd'], val['area'], val['segmentation']) == (1, 1.0, [])


def test_prepare_before_download(tiny_card, tmp_path):
    with pytest.raises(UserError, match='data download tiny'):
        prepare_coco(tiny_card, tmp_path)


def test_commands(tiny_root, tmp_path, capsys):
    assert main(['data', 'prepare', 'tiny', '--root', str(tiny_root), '--workers', '1']) == 0
    assert 'bbox_only_instances_val2017.json: 3 images, 3 boxes' in capsys.readouterr().out
    source = tiny_root / 'annotations/instances_train2017.json'
    assert main(['data', 'prepare-json', str(source), str(tmp_path / 'out.json'), '-k', '-p']) == 0
    assert capsys.readouterr().out.splitlines() == ['images: 3', 'boxes: 3']
    assert (tmp_path / 'out.json').read_text() == json.dumps(oracle(json.loads(source.read_text()), True), indent=4)
