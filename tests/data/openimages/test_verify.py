"""Verification of an Open Images subset names what is wrong; a good one can be trained on."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlperf_det.cli import main
from mlperf_det.data.annotation_cache import MappedAnnotations, columns_path, read_cached
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.cards import OpenImagesCard, OpenImagesSplit, load_card, write_card
from mlperf_det.data.layout import open_dataset
from mlperf_det.data.openimages.boxes import CORNERS, FLAGS
from mlperf_det.data.openimages.generate import CARD_NAME, UNLISTED, generate_openimages
from mlperf_det.data.openimages.prepare import prepare_openimages
from mlperf_det.data.openimages.verify import verify_openimages
from mlperf_det.data.scenes.dataset import GeneratorSettings
from mlperf_det.data.scenes.drawing import SceneSettings
from mlperf_det.errors import UserError

SCENES = SceneSettings(classes=6, crowd_share=0.3, empty_share=0.2)
SETTINGS = GeneratorSettings(train=40, val=15, seed=5, scenes=SCENES)
JSON, BOXES = 'train/labels/openimages-mlperf.json', 'train/labels/detections.csv'


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('openimages') / 'scenes'
    assert generate_openimages(SETTINGS, root, workers=1)
    prepare_openimages(card_of(root), root)
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(prepared, tmp_path / 'scenes', copy_function=shutil.copyfile))


def card_of(root: Path) -> OpenImagesCard:
    card = load_card(CARD_NAME, root)
    assert isinstance(card, OpenImagesCard)
    return card


def test_a_good_dataset_is_verified_and_opens(root: Path) -> None:
    result = verify_openimages(card_of(root), root)
    assert not result.problems, result.problems
    dataset = open_dataset(CARD_NAME, root)
    assert dataset.fingerprint == result.fingerprint
    split = dataset.split('train')
    assert (split.image_root, split.annotations) == (root / 'train' / 'data', root / JSON)
    truth = read_cached(split.annotations, split.annotations_sha256)
    assert isinstance(truth, MappedAnnotations), 'verification has written the columns'
    assert truth.crowd.any()
    assert not truth.crowd.all()
    assert len(truth) < SETTINGS.train, 'scenes without objects are not part of the subset'
    rows = list(csv.DictReader((root / BOXES).open(newline='')))
    unlisted = [each for each in rows if each['LabelName'] == UNLISTED.mid]
    assert unlisted
    assert len(truth.boxes) == len(rows) - len(unlisted)


def test_the_generated_form_is_the_same_scenes(root: Path, tmp_path: Path) -> None:
    """Boxes, labels and crowds are those of the COCO form, whose masks are exact."""
    assert main(['data', 'generate', 'generated-coco', '--root', str(tmp_path / 'coco'), '--train', '40', '--val', '15',
                 '--seed', '5']) == 0
    assert main(['data', 'generate', CARD_NAME, '--root', str(tmp_path / 'open'), '--train', '40', '--val', '15',
                 '--seed', '5']) == 0
    assert main(['data', 'prepare', CARD_NAME, '--root', str(tmp_path / 'open')]) == 0
    for name, folder in (('train', 'train'), ('val', 'validation')):
        coco = read_annotations(tmp_path / 'coco' / 'annotations' / f'instances_{name}2017.json')
        mine = read_annotations(tmp_path / 'open' / folder / 'labels' / 'openimages-mlperf.json')
        pixels = {(tmp_path / 'coco' / f'{name}2017' / each).read_bytes(): index
                  for index, each in enumerate(coco.file_names)}
        assert len(mine.boxes) == len(coco.boxes)
        for index, each in enumerate(mine.file_names):
            twin = pixels[(tmp_path / 'open' / folder / 'data' / each).read_bytes()]
            ours, theirs = mine.of_image(index), coco.of_image(twin)
            assert np.abs(mine.boxes[ours] - coco.boxes[theirs]).max() < 200 * 1e-6
            assert mine.labels[ours].tolist() == coco.labels[theirs].tolist()
            assert mine.crowd[ours].tolist() == coco.crowd[theirs].tolist()


def test_generation_is_reproducible_and_leaves_other_folders_alone(prepared: Path, tmp_path: Path) -> None:
    generate_openimages(SETTINGS, tmp_path / 'again', workers=2)
    made = [path.relative_to(tmp_path / 'again') for path in (tmp_path / 'again').rglob('*') if path.is_file()]
    assert len(made) > 40
    for path in made:
        assert (tmp_path / 'again' / path).read_bytes() == (prepared / path).read_bytes(), path
    assert not generate_openimages(SETTINGS, prepared, workers=1), 'already there'
    with pytest.raises(UserError, match='not a dataset of these settings'):
        generate_openimages(replace(SETTINGS, seed=6), prepared, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ['again']


def test_shuffled_labels_are_declared_to_training(tmp_path: Path) -> None:
    root = tmp_path / 'shuffled'
    generate_openimages(replace(SETTINGS, shuffle_train_labels=True), root, workers=1)
    assert card_of(root).negative_control == 'training labels are shuffled'
    prepare_openimages(card_of(root), root)
    assert not verify_openimages(card_of(root), root).problems
    assert open_dataset(CARD_NAME, root).record()['negative_control'] == 'training labels are shuffled'


def change(root: Path, function: Callable[[dict[str, Any]], None], file: str = JSON) -> None:
    document = json.loads((root / file).read_text())
    function(document)
    (root / file).write_text(json.dumps(document))


def shift(document: dict[str, Any], *tables: str) -> None:
    for table in tables:
        for record in document[table]:
            record['id' if table == 'categories' else 'category_id'] += 1


def swap_names(document: dict[str, Any]) -> None:
    first, second = document['categories'][1:3]
    first['name'], second['name'] = second['name'], first['name']


def rotate_labels(document: dict[str, Any]) -> None:
    for found in document['annotations']:
        found['category_id'] = (found['category_id'] + 1) % 6


def no_crowds(document: dict[str, Any]) -> None:
    for found in document['annotations']:
        found['iscrowd'] = 0


def cut_lines(root: Path) -> None:
    lines = (root / BOXES).read_text().splitlines(keepends=True)
    (root / BOXES).write_text(''.join(lines[:len(lines) // 2]))


def ids_from_one(document: dict[str, Any]) -> None:
    shift(document, 'categories', 'annotations')


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda root: change(root, ids_from_one), 'categories are numbered 1 to 6, the benchmark needs 0 to 5; run `mlp'),
    (lambda root: change(root, lambda d: shift(d, 'annotations')), 'category_id is in no record of categories'),
    (lambda root: change(root, rotate_labels), 'boxes are off by one category'),
    (lambda root: change(root, swap_names), "another order than the card states: number 1 is 'star', not 'triangle'"),
    (lambda root: change(root, lambda d: d['categories'][2].update(name='rose')),
     'categories that the card lists are missing (1): star'),
    (lambda root: change(root, lambda d: d['categories'].append({'id': 6, 'name': 'rose'})),
     'has 7 categories, the card states 6'),
    (lambda root: change(root, lambda d: d['categories'].reverse()), 'category ids are not 0, 1, 2'),
    (lambda root: change(root, lambda d: d['annotations'].pop()), 'annotations, the card states'),
    (lambda root: change(root, lambda d: d['annotations'][0].update(
        category_id=(d['annotations'][0]['category_id'] + 1) % 6)), 'boxes of 2 classes differ in number from'),
    (lambda root: change(root, no_crowds), '0 boxes have iscrowd'),
    (lambda root: next((root / 'train' / 'data').iterdir()).unlink(), 'images missing in'),
    (lambda root: next((root / 'train' / 'data').iterdir()).write_bytes(b'\xff\xd8\xff\xe0 cut'), 'images corrupt in'),
    (cut_lines, 'images in it are not of the subset'),
    (lambda root: (root / BOXES).write_text((root / BOXES).read_text()[:-3]), 'cut off'),
    (lambda root: (root / 'train/metadata/classes.csv').write_text('/m/disc,disc\n'), 'lacks /m/triangle (triangle)'),
])
def test_every_fault_is_named(root: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(root)
    result = verify_openimages(card_of(root), root, splits=['train'])
    assert result.problems
    assert message in '\n'.join(map(str, result.problems))
    assert not (root / 'dataset.json').exists()


def test_the_command_says_what_is_wrong_and_fails(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(root, ids_from_one)
    assert main(['data', 'verify', CARD_NAME, '--root', str(root), '--quick']) == 1
    assert 'NOT VERIFIED' in capsys.readouterr().out
    (root / JSON).write_text((root / JSON).read_text().replace('converted by mlperf-det', 'Exported from FiftyOne', 1))
    assert main(['data', 'prepare', CARD_NAME, '--root', str(root)]) == 0
    assert 'renumbered to 0 to 5' in capsys.readouterr().out
    assert main(['data', 'verify', CARD_NAME, '--root', str(root), '--quick']) == 0


def test_a_dataset_without_its_csv_is_verified_with_a_notice(root: Path) -> None:
    (root / BOXES).unlink()
    result = verify_openimages(card_of(root), root)
    assert not result.problems
    assert 'not compared with those published' in '\n'.join(map(str, result.notices))


def test_columns_that_cannot_be_written_are_a_notice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlperf_det.data.openimages import verify

    def refuse(*_: object) -> None:
        raise OSError(30, 'Read-only file system')

    monkeypatch.setattr(verify, 'write_columns', refuse)
    result = verify_openimages(card_of(root), root)
    assert not result.problems
    assert 'training starts slowly' in '\n'.join(map(str, result.notices))
    assert not columns_path(root / JSON).exists()


#: What the sample calls a class (COCO's name) -> the display name in Open Images, for those of the MLPerf subset.
REAL_CLASSES = {
    'airplane': 'Airplane', 'apple': 'Apple', 'backpack': 'Backpack', 'banana': 'Banana', 'bench': 'Bench',
    'bicycle': 'Bicycle', 'book': 'Book', 'bottle': 'Bottle', 'bowl': 'Bowl', 'bus': 'Bus', 'cake': 'Cake',
    'cat': 'Cat', 'chair': 'Chair', 'couch': 'Couch', 'cup': 'Coffee cup', 'dog': 'Dog', 'elephant': 'Elephant',
    'horse': 'Horse',
    'laptop': 'Laptop', 'motorcycle': 'Motorcycle', 'pizza': 'Pizza', 'train': 'Train', 'zebra': 'Zebra'}


@pytest.mark.shared
def test_real_validation_rows_with_group_of(shared_data: Path, tmp_path: Path) -> None:
    """12,641 real boxes of 5,000 images against the 264 classes; the photos are not at hand, so blank ones stand in."""
    card = load_card('openimages-mlperf')
    assert isinstance(card, OpenImagesCard)
    mids = {each.name: each.mid for each in card.classes}
    listed = shared_data / 'openimages-metadata' / 'class-descriptions-boxable.csv'
    with (shared_data / 'openimages-metadata' / 'detection_validation_5k_bbox.csv').open(newline='') as stream:
        real = list(csv.DictReader(stream))
    person = '/m/01g317'  # one of the 337 classes that the subset leaves out
    real = [{**each, 'LabelName': mids.get(REAL_CLASSES.get(each['LabelName'], ''), person)} for each in real]
    for part in ('data', 'labels', 'metadata'):
        (tmp_path / 'validation' / part).mkdir(parents=True)
    with (tmp_path / 'validation' / 'labels' / 'detections.csv').open('w', newline='') as stream:
        writer = csv.DictWriter(stream, ['ImageID', 'LabelName', *CORNERS, *FLAGS], restval='0', lineterminator='\n')
        writer.writeheader()
        writer.writerows(real)
    shutil.copyfile(listed, tmp_path / 'validation' / 'metadata' / 'classes.csv')
    kept = [each for each in real if each['LabelName'] != person]
    images = sorted({each['ImageID'] for each in kept})
    blank = io.BytesIO()
    Image.new('RGB', (1024, 683)).save(blank, 'JPEG', quality=5)
    for image_id in images:
        (tmp_path / 'validation' / 'data' / f'{image_id}.jpg').write_bytes(blank.getvalue())
    split = OpenImagesSplit(
        images='validation/data', annotations='validation/labels/openimages-mlperf.json', image_count=len(images),
        annotated_image_count=len(images), annotation_count=len(kept), boxes='validation/labels/detections.csv',
        class_list='validation/metadata/classes.csv')
    card = replace(card, name='real-rows', splits={'val': split})
    write_card(tmp_path, card)
    assert main(['data', 'prepare', 'real-rows', '--root', str(tmp_path)]) == 0
    assert main(['data', 'verify', 'real-rows', '--root', str(tmp_path), '--quick']) == 0
    truth = read_annotations(tmp_path / split.annotations)
    groups = sum(each['IsGroupOf'] == '1' for each in kept)
    assert int(truth.crowd.sum()) == groups > 100
    assert len(truth.boxes) == len(kept) > 1500
    by_image: dict[str, list[dict[str, str]]] = {}
    for each in kept:
        by_image.setdefault(each['ImageID'], []).append(each)
    for index, name in enumerate(truth.file_names):
        rows = by_image[name.removesuffix('.jpg')]
        edges = np.array([[float(each[edge]) for edge in CORNERS] for each in rows])
        expected = np.stack([edges[:, 0] * 1024, edges[:, 2] * 683, (edges[:, 1] - edges[:, 0]) * 1024,
                             (edges[:, 3] - edges[:, 2]) * 683], axis=1)
        assert np.array_equal(truth.boxes[truth.of_image(index)], expected)
        assert [card.classes[label].mid for label in truth.labels[truth.of_image(index)]] == [
            each['LabelName'] for each in rows]
