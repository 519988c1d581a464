from __future__ import annotations

import pytest
import yaml

from mlperf_det.data.cards import Card, load_card, read_card, shipped_cards, write_card
from mlperf_det.errors import UserError


def test_coco2017():
    card = load_card('coco2017')
    train, val = card.splits['train'], card.splits['val']
    assert (train.image_count, train.annotated_image_count, train.annotation_count) == (118_287, 117_266, 860_001)
    assert (val.image_count, val.annotated_image_count, val.annotation_count) == (5_000, 4_952, 36_781)
    assert card.categories == 80
    files = {file.name: file for file in card.files}
    assert files['train2017.zip'].bytes == 19_336_861_798
    assert files['train2017.zip'].md5 == 'cced6f7f71b7629ddf16f17bbcfab6b2'
    assert files['train2017.zip'].digest[0] == 'sha256'
    assert files['coco_annotations_minival.tgz'].digest == ('md5', '2d2b9d2283adb5e3b8d25eec88e65064')
    assert card.members[train.annotations].bytes == 469_785_474
    assert card.members[val.annotations].bytes == 19_987_840
    # What is unpacked may hold exactly the two annotation files.
    assert files['annotations_trainval2017.zip'].unpacked_bytes_limit == 469_785_474 + 19_987_840
    assert set(files['annotations_trainval2017.zip'].extract) == {train.annotations, val.annotations}


@pytest.mark.parametrize('name', sorted(shipped_cards()))
def test_every_shipped_card_is_valid_and_called_after_its_file(name):
    assert load_card(name).name == name


def test_round_trip(tmp_path, tiny_card):
    assert read_card(write_card(tmp_path, tiny_card)) == tiny_card
    assert load_card('tiny', tmp_path) == tiny_card


def _write(tmp_path, card: Card, change) -> None:
    content = yaml.safe_load(write_card(tmp_path, card).read_text())
    change(content)
    (tmp_path / 'card.yaml').write_text(yaml.safe_dump(content))


FILE = {'name': 'a.zip', 'url': 'http://x/a.zip', 'md5': 'a' * 32}


@pytest.mark.parametrize(('change', 'words'), [
    (lambda c: c.update(licences={}), ["unknown field 'licences'", "'licence'"]),
    (lambda c: c['splits']['train'].update(image_cuont=3), ['splits.train', 'image_cuont', "'image_count'"]),
    (lambda c: c.update(files=[{**FILE, 'sha265': 'x'}]), ['files[0]', 'sha265', "'sha256'"]),
    (lambda c: c['splits']['train'].pop('images'), ['images', 'train']),
    (lambda c: c['splits']['train'].update(image_count='many'), ['image_count', 'int']),
    (lambda c: c['splits']['train'].update(image_count=1), ['annotated_image_count', 'image_count']),
    (lambda c: c['splits']['train'].update(images='../other'), ['splits.train.images', '../other']),
    (lambda c: c.update(kind='cocoo'), ['kind', "did you mean 'coco'"]),
    (lambda c: c.update(files=[{**FILE, 'md5': 'abc'}]), ['files.a.zip.md5', '32']),
    (lambda c: c.update(files=[{'name': 'a.zip', 'url': 'http://x/a.zip'}]), ['a.zip', 'no checksum']),
    (lambda c: c.update(files=[{**FILE, 'name': '../a.zip'}]), ['name', 'plain file name']),
    (lambda c: c.update(files=[{**FILE, 'splits': ['test']}]), ['splits', 'test']),
    (lambda c: c.update(files=[{**FILE, 'extract': ['a/']}]), ['unpacked_bytes_limit']),
    (lambda c: c.update(files=[{**FILE, 'extract': ['/etc/'], 'unpacked_bytes_limit': 1}]), ['extract', '/etc/']),
    (lambda c: c.update(categories=0), ['categories']),
])
def test_wrong_cards_name_file_and_field(tmp_path, tiny_card, change, words):
    _write(tmp_path, tiny_card, change)
    with pytest.raises(UserError) as caught:
        load_card('tiny', tmp_path)
    assert str(tmp_path / 'card.yaml') in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def test_not_yaml(tmp_path):
    (tmp_path / 'card.yaml').write_text('a: [')
    with pytest.raises(UserError, match='not YAML'):
        read_card(tmp_path / 'card.yaml')


def test_unknown_card(tmp_path):
    with pytest.raises(UserError, match="no dataset card 'coco2071'; did you mean 'coco2017'"):
        load_card('coco2071', tmp_path)


def test_a_root_cannot_redefine_a_shipped_dataset(tmp_path, tiny_card):
    content = yaml.safe_load(write_card(tmp_path, tiny_card).read_text())
    (tmp_path / 'card.yaml').write_text(yaml.safe_dump({**content, 'name': 'coco2017'}))
    assert load_card('coco2017', tmp_path).splits['train'].image_count == 118_287
    with pytest.raises(UserError, match='name of a shipped card'):
        write_card(tmp_path, read_card(tmp_path / 'card.yaml'))


def test_a_root_of_another_dataset(tmp_path, tiny_card):
    write_card(tmp_path, tiny_card)
    with pytest.raises(UserError, match="describes 'tiny', not 'other'"):
        load_card('other', tmp_path)
