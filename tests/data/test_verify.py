from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlperf_det.cli import main
from mlperf_det.data.annotation_cache import read_cached
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.cards import Card, Member, load_card
from mlperf_det.data.layout import check_unchanged, digest, open_dataset
from mlperf_det.data.loader import ImageSource
from mlperf_det.data.maskrcnn_input import training_targets
from mlperf_det.data.prepare_coco import prepare_coco
from mlperf_det.data.verify import verify_coco
from mlperf_det.errors import UserError

TRAIN_JSON = 'annotations/instances_train2017.json'
FIRST_IMAGE = 'train2017/000000000001.jpg'


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def problems_of(card: Card, root: Path, **options) -> str:
    result = verify_coco(card, root, **options)
    assert result.fingerprint is None
    assert not (root / 'dataset.json').exists()
    return '\n'.join(str(problem) for problem in result.problems)


def notices_of(card: Card, root: Path, **options) -> str:
    result = verify_coco(card, root, **options)
    assert not result.problems, result.problems
    return '\n'.join(str(notice) for notice in result.notices)


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize('workers', [1, 2])
def test_a_good_dataset(tiny_card, tiny_root, quick, workers):
    result = verify_coco(tiny_card, tiny_root, quick=quick, workers=workers)
    assert not result.problems
    assert 'train: images without boxes (1), not trained on' in str(result.notices[0])
    assert re.fullmatch(r'sha256:[0-9a-f]{64}', result.fingerprint)
    dataset = open_dataset('tiny', tiny_root)
    assert dataset.fingerprint == result.fingerprint
    split = dataset.split('train')
    assert (split.name, split.image_root) == ('train', tiny_root / 'train2017')
    assert split.annotations == split.source == tiny_root / TRAIN_JSON
    assert (split.images, split.annotated_images, split.annotation_count) == (3, 2, 3)
    assert dataset.record() == {
        'card': 'tiny', 'root': str(tiny_root), 'fingerprint': result.fingerprint,
        'splits': {name: {'images': 3, 'annotated_images': 2, 'annotations': 3, 'file': f'instances_{name}2017.json'}
                   for name in ('train', 'val')}}
    json.dumps(dataset.record())
    with pytest.raises(UserError, match="no split 'test'"):
        dataset.split('test')


@pytest.mark.shared
@pytest.mark.parametrize('workers', [1, 2])
def test_real_photos_through_prepare_verify_and_reading(mini_root, workers):
    card = load_card('coco2017-mini', mini_root)
    prepare_coco(card, mini_root)
    result = verify_coco(card, mini_root, workers=workers)
    assert not result.problems
    notices = [str(notice) for notice in result.notices]
    assert notices == ['train: images without boxes (1), not trained on, counted in evaluation',
                       'train: grayscale images, converted to RGB when read (1): 000000000086.jpg',
                       'val: images without boxes (1), not trained on, counted in evaluation']
    dataset = open_dataset('coco2017-mini', mini_root)
    for name, images, boxes, crowds in (('train', 65, 545, 5), ('val', 45, 365, 4)):
        split = dataset.split(name)
        assert split.annotations.name == f'bbox_only_instances_{name}2017.json'
        assert split.source.name == f'instances_{name}2017.json'
        truth = read_annotations(split.annotations)
        assert (len(truth), len(truth.boxes), int(truth.crowd.sum())) == (images, boxes, crowds)
        assert all((split.image_root / file_name).is_file() for file_name in truth.file_names)


# Faults, each of which must turn the result red and name its cause.

def truncate(root: Path) -> None:
    path = root / FIRST_IMAGE
    path.write_bytes(path.read_bytes()[:-400])


def resize(root: Path) -> None:
    Image.new('RGB', (61, 40)).save(root / FIRST_IMAGE)


@pytest.mark.parametrize(('break_it', 'words'), [
    (lambda root: (root / FIRST_IMAGE).unlink(), ['images missing', '000000000001.jpg']),
    (truncate, ['images corrupt', '000000000001.jpg']),
    (lambda root: (root / FIRST_IMAGE).write_bytes(b''), ['images corrupt', '000000000001.jpg']),
    (lambda root: (root / FIRST_IMAGE).write_bytes(b'<html>not found</html>'), ['images corrupt', '000000000001.jpg']),
    (resize, ['images wrong size', '000000000001.jpg', 'is 61 x 40, the annotations state 60 x 40']),
    (lambda root: (root / TRAIN_JSON).unlink(), [TRAIN_JSON, 'cannot be read']),
    (lambda root: (root / TRAIN_JSON).write_text('{"images": ['), [TRAIN_JSON, 'not valid JSON']),
    (lambda root: (root / 'train2017').rename(root / 'elsewhere'), ['image folder is absent', 'data download tiny']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['images'].pop()), ['2 images, the card states 3']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['annotations'].pop()), ['2 annotations, the card states 3']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['annotations'][1].update(image_id=1)),
     ['1 images with boxes, the card states 2']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['categories'].append({'id': 5, 'name': 'new'})),
     ['3 categories, the card states 2']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['annotations'][1].update(image_id=999)),
     ['name images that have no record', '101']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['images'][0].update(file_name='../secret.jpg')),
     ['images outside', '../secret.jpg']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['annotations'][0].pop('iscrowd')), ['lack area or iscrowd']),
    (lambda root: edit(root / TRAIN_JSON, lambda t: t['annotations'][0].update(id=101)), ['more than once', '101']),
])
def test_faults(tiny_card, tiny_root, break_it, words):
    assert not verify_coco(tiny_card, tiny_root).problems  # and leaves a manifest, which must go
    break_it(tiny_root)
    found = problems_of(tiny_card, tiny_root)
    for word in words:
        assert word in found, found
    with pytest.raises(UserError, match='was not verified; run `mlperf-det data verify tiny --root'):
        open_dataset('tiny', tiny_root)


def test_quick_sees_missing_and_resized_images_only(tiny_card, tiny_root):
    resize(tiny_root)
    assert 'wrong size' in problems_of(tiny_card, tiny_root, quick=True)
    (tiny_root / FIRST_IMAGE).unlink()
    assert 'missing' in problems_of(tiny_card, tiny_root, quick=True)


def test_many_faults_are_listed_up_to_a_bound(tiny_card, tiny_root):
    def add(document):
        document['images'] += [{'id': i, 'file_name': f'{i}.jpg', 'height': 5, 'width': 5} for i in range(100, 130)]
    edit(tiny_root / TRAIN_JSON, add)
    found = problems_of(tiny_card, tiny_root)
    assert 'images missing' in found
    assert '(30): 100.jpg, ' in found
    assert found.endswith('109.jpg and 20 more')


def test_checksums_of_the_card(tiny_card, tiny_root):
    source = digest(tiny_root / TRAIN_JSON, tiny_root)
    good = Member(bytes=source.bytes, sha256=source.sha256)
    assert not verify_coco(replace(tiny_card, members={TRAIN_JSON: good}), tiny_root).problems
    wrong = replace(tiny_card, members={TRAIN_JSON: Member(bytes=good.bytes, sha256='0' * 64)})
    assert f'SHA-256 is {source.sha256}, the card states 000' in problems_of(wrong, tiny_root)
    longer = replace(tiny_card, members={TRAIN_JSON: Member(bytes=source.bytes + 1)})
    assert 'bytes, the card states' in problems_of(longer, tiny_root)


# What is unusual but has a defined behaviour.

def test_boxes_without_area(tiny_card, tiny_root):
    edit(tiny_root / TRAIN_JSON, lambda t: t['annotations'][0].update(bbox=[1, 1, 0, 5]))
    assert 'boxes without area (1), left out when read' in notices_of(tiny_card, tiny_root)


@pytest.mark.parametrize('quick', [False, True])
@pytest.mark.parametrize(('mode', 'words'), [('L', 'grayscale images, converted'), ('CMYK', 'CMYK images, converted')])
def test_colour_modes(tiny_card, tiny_root, mode, words, quick):
    Image.new(mode, (60, 40)).save(tiny_root / FIRST_IMAGE)
    found = notices_of(tiny_card, tiny_root, quick=quick)
    assert f'{words} to RGB when read (1): 000000000001.jpg' in found


def test_palette_images_under_a_jpeg_name(tiny_card, tiny_root):
    Image.new('P', (60, 40)).save(tiny_root / FIRST_IMAGE, format='PNG')
    assert 'another colour mode, converted' in notices_of(tiny_card, tiny_root)


@pytest.mark.parametrize('quick', [False, True])
def test_exif_orientation_is_ignored(tiny_card, tiny_root, quick):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: a viewer shows 40 x 60, the stored 60 x 40 counts
    Image.new('RGB', (60, 40)).save(tiny_root / FIRST_IMAGE, exif=exif)
    found = notices_of(tiny_card, tiny_root, quick=quick)
    assert 'EXIF orientation, which is ignored: they are read as stored (1): 000000000001.jpg' in found


def test_files_nobody_names(tiny_card, tiny_root):
    (tiny_root / 'train2017/notes.txt').write_text('')
    assert 'do not name, not used (1): notes.txt' in notices_of(tiny_card, tiny_root)


# Trimmed annotation files.

def test_a_trimmed_file_must_agree_with_its_source(tiny_card, tiny_root):
    prepare_coco(tiny_card, tiny_root, keep_keys=False)
    assert not verify_coco(tiny_card, tiny_root).problems
    trimmed = tiny_root / 'annotations/bbox_only_instances_train2017.json'
    edit(trimmed, lambda t: t['annotations'][0].update(bbox=[0, 0, 9, 9]))
    assert 'differs from instances_train2017.json in boxes' in problems_of(tiny_card, tiny_root)
    edit(trimmed, lambda t: t['images'].pop())
    assert 'image_ids' in problems_of(tiny_card, tiny_root)
    trimmed.write_text('{')
    assert 'not valid JSON' in problems_of(tiny_card, tiny_root)


def test_trimmed_validation_files_must_be_scorable(tiny_card, tiny_root):
    source = tiny_root / 'annotations/instances_val2017.json'
    assert main(['data', 'prepare-json', str(source), str(source.with_name(f'bbox_only_{source.name}'))]) == 0
    assert 'bbox_only_instances_val2017.json: lacks area or iscrowd' in problems_of(tiny_card, tiny_root)


# The manifest.

def test_fingerprint(tiny_card, tiny_root):
    first = verify_coco(tiny_card, tiny_root).fingerprint
    prepare_coco(tiny_card, tiny_root)
    assert verify_coco(tiny_card, tiny_root, quick=True).fingerprint == first  # trimmed files follow from the sources
    with (tiny_root / FIRST_IMAGE).open('ab') as stream:
        stream.write(b'\0')
    second = verify_coco(tiny_card, tiny_root).fingerprint
    edit(tiny_root / TRAIN_JSON, lambda t: t['annotations'][0].update(bbox=[1, 1, 2, 2]))
    (tiny_root / 'annotations/bbox_only_instances_train2017.json').unlink()
    assert len({first, second, verify_coco(tiny_card, tiny_root).fingerprint, None}) == 4


def test_opening_notices_changes(tiny_card, tiny_root):
    verify_coco(tiny_card, tiny_root)
    source = tiny_root / TRAIN_JSON
    good = source.read_bytes()
    advice = f'run `mlperf-det data verify tiny --root {tiny_root}` first'
    source.write_bytes(good + b' ')
    with pytest.raises(UserError, match='changed since the dataset was verified') as caught:
        open_dataset('tiny', tiny_root)
    assert advice in str(caught.value)
    source.write_bytes(good.replace(b'1.5', b'1.6'))
    split = open_dataset('tiny', tiny_root).split('train')
    for read in (check_unchanged, read_cached):
        with pytest.raises(UserError, match='changed since the dataset was verified'):
            read(split.annotations, split.annotations_sha256)
    source.unlink()
    with pytest.raises(UserError, match='absent or changed'):
        open_dataset('tiny', tiny_root)
    source.write_bytes(good)
    open_dataset('tiny', tiny_root)
    prepare_coco(tiny_card, tiny_root)
    with pytest.raises(UserError, match='was made after the dataset was verified'):
        open_dataset('tiny', tiny_root)
    verify_coco(tiny_card, tiny_root)
    assert open_dataset('tiny', tiny_root).split('val').annotations.name == 'bbox_only_instances_val2017.json'
    (tiny_root / 'val2017').rename(tiny_root / 'gone')
    with pytest.raises(UserError, match='image folder is absent'):
        open_dataset('tiny', tiny_root)


@pytest.mark.parametrize('bbox', [[1, 1, 1, 9], [1, 1, 9, 1], [1, 1, 1.5, 1.5], [1, 1, 0, 9]])
def test_the_manifest_counts_the_images_that_each_benchmark_trains_on(tiny_card, tiny_root, bbox):
    def shrink(document):
        first = document['annotations'][0]['image_id']
        for annotation in document['annotations']:
            if annotation['image_id'] == first:
                annotation['bbox'] = bbox

    edit(tiny_root / TRAIN_JSON, shrink)
    loose = replace(tiny_card, splits={name: replace(split, annotated_image_count=None, annotation_count=None)
                                       for name, split in tiny_card.splits.items()})
    assert not verify_coco(loose, tiny_root).problems
    split = open_dataset('tiny', tiny_root).split('train')
    truth = read_annotations(split.source)
    assert split.annotated_images == len(ImageSource(truth, split.image_root, drop_empty=True))
    assert split.substantial_images == len(training_targets(truth))
    assert (split.category_ids, split.category_names) == (tuple(truth.category_ids), truth.category_names)


def test_opening_another_dataset_or_a_broken_manifest(tiny_card, tiny_root):
    verify_coco(tiny_card, tiny_root)
    with pytest.raises(UserError, match="manifest of 'tiny', not of 'coco2017'"):
        open_dataset('coco2017', tiny_root)
    edit(tiny_root / 'dataset.json', lambda t: t.update(schema_version=99))
    with pytest.raises(UserError, match='schema_version is 99'):
        open_dataset('tiny', tiny_root)
    (tiny_root / 'dataset.json').write_text('{')
    with pytest.raises(UserError, match='data verify tiny'):
        open_dataset('tiny', tiny_root)


def test_a_manifest_that_cannot_be_written(tiny_card, tiny_root):
    (tiny_root / 'dataset.json').mkdir()
    with pytest.raises(UserError, match=r'dataset\.json: cannot be written'):
        verify_coco(tiny_card, tiny_root)


def test_one_split(tiny_card, tiny_root):
    (tiny_root / 'train2017').rename(tiny_root / 'elsewhere')
    assert not verify_coco(tiny_card, tiny_root, splits=['val']).problems
    with pytest.raises(UserError, match=r"no split 'train' \(it has: val\)"):
        open_dataset('tiny', tiny_root).split('train')
    with pytest.raises(UserError, match="no split 'vla'; did you mean 'val'"):
        verify_coco(tiny_card, tiny_root, splits=['vla'])


# The command.

def test_command(tiny_root, capsys):
    words = ['data', 'verify', 'tiny', '--root', str(tiny_root), '--workers', '1']
    assert main(words) == 0
    assert 'verified, train 3 images 3 annotations, val 3 images 3 annotations; sha256:' in capsys.readouterr().out
    (tiny_root / FIRST_IMAGE).unlink()
    assert main(words) == 1
    out = capsys.readouterr().out
    assert 'WRONG: train: images missing' in out
    assert 'NOT VERIFIED, 1 kinds of problems' in out
    assert main([*words, '--json', '--quick']) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result['verified'], result['fingerprint'], result['images_decoded']) == (False, None, False)
    assert result['problems'][0]['examples'] == ['000000000001.jpg']


def test_the_official_card_refuses_the_sample(tiny_root, capsys):
    assert main(['data', 'verify', 'coco2017', '--root', str(tiny_root), '--workers', '1']) == 1
    out = capsys.readouterr().out
    assert 'has 3 images, the card states 118,287' in out
    assert 'SHA-256 is' in out


def test_one_defect_in_the_middle_of_a_photo(tiny_card, tiny_root):
    """A stray byte that Pillow, and so the reference, tolerates is no fault; the pixels still have the stated size."""
    path = tiny_root / FIRST_IMAGE
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 2] = b'\x12\x34'
    path.write_bytes(content)
    pixels = np.asarray(Image.open(path).convert('RGB'))
    assert pixels.shape == (40, 60, 3)
    assert not verify_coco(tiny_card, tiny_root).problems
