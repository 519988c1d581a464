"""From Open Images' CSV files to COCO form, exactly; and every way in which the sources can be wrong."""

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
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlperf_det.cli import main
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.cards import ObjectClass, OpenImagesCard, OpenImagesSplit, SourceFile, load_card, write_card
from mlperf_det.data.openimages import coco_json
from mlperf_det.data.openimages.boxes import CORNERS, FLAGS, read_subset
from mlperf_det.data.openimages.prepare import prepare_openimages
from mlperf_det.errors import UserError

CLASSES = (ObjectClass(mid='/m/01', name='Airplane'), ObjectClass(mid='/m/03', name='Egg (Food)'),
           ObjectClass(mid='/m/02', name='Zucchini'))
HEADER = ['ImageID', 'Source', 'LabelName', 'Confidence', *CORNERS, *FLAGS, 'XClick1X']
JSON = 'train/labels/openimages-mlperf.json'


def row(image_id: str, mid: str, corners: tuple[float | str, ...], flags: tuple[int, ...] = (0,) * 5) -> list[Any]:
    return [image_id, 'xclick', mid, 1, *corners, *flags, 0.5]


#: not in the order of the ids; one image has boxes of another class only, one is not in the list of images
ROWS = [
    row('00ff', '/m/02', (0.012500, 0.195312, 0.148438, 0.587500), (0, 1, 1, 0, 0)),
    row('00ff', '/m/99', (0, 1, 0, 1)),
    row('00aa', '/m/01', ('0.025', '0.276563', '0.714063', '0.948438'), (1, -1, -1, 0, 1)),
    row('00ff', '/m/03', (0.3, 0.3000001, 0.25, 0.5)),
    row('0001', '/m/99', (0, 1, 0, 1)),
    row('0bad', '/m/01', (0, 1, 0, 1)),
]
SIZES = {'00aa': (480, 640), '00ff': (1024, 683)}  # height, width


def write_split(root: Path, rows: list[list[Any]] = ROWS, sizes: dict[str, tuple[int, int]] = SIZES,
                listed: list[str] | None = None) -> OpenImagesCard:
    """Write the files of a training split as Google publishes them; return its card."""
    folder = root / 'train'
    for name in ('data', 'labels', 'metadata'):
        (folder / name).mkdir(parents=True)
    for name, (height, width) in sizes.items():
        Image.new('RGB', (width, height)).save(folder / 'data' / f'{name}.jpg')
    write_csv(folder / 'labels' / 'detections.csv', [HEADER, *rows])
    write_csv(folder / 'metadata' / 'classes.csv', [
        ['/m/01', 'Airplane'], ['/m/02', 'Zucchini'], ['/m/03', 'Egg'], ['/m/99', 'Person, of any kind']])
    write_csv(folder / 'metadata' / 'image_ids.csv', [
        ['ImageID', 'Subset', 'Title'], *([name, 'train', 'a "title", 2'] for name in listed or [*sizes, '0001'])])
    split = OpenImagesSplit(
        images='train/data', annotations=JSON, image_count=len(sizes), annotated_image_count=None,
        annotation_count=None,
        boxes='train/labels/detections.csv', class_list='train/metadata/classes.csv',
        image_list='train/metadata/image_ids.csv')
    card = OpenImagesCard(name='tiny', kind='openimages', title='Tiny', licence={}, categories=3,
                          splits={'train': split}, classes=CLASSES)
    write_card(root, card)
    return card


def write_csv(path: Path, rows: list[list[Any]]) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator='\n').writerows(rows)
    path.write_text(stream.getvalue())


def expected_document(rows: list[list[Any]], sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """The published form, record by record in plain Python."""
    images = [{'id': number, 'file_name': f'{name}.jpg', 'height': sizes[name][0], 'width': sizes[name][1],
               'license': None, 'coco_url': None} for number, name in enumerate(sorted(sizes), 1)]
    annotations = []
    for image in images:
        height, width = image['height'], image['width']
        for image_id, _, mid, _, *numbers, _ in rows:
            category = [each.mid for each in CLASSES].index(mid) if mid != '/m/99' else None
            if f'{image_id}.jpg' != image['file_name'] or category is None:
                continue
            left, right, top, bottom = (float(edge) for edge in numbers[:4])
            box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
            flags = {name: bool(flag) for name, flag in zip(FLAGS, numbers[4:], strict=True)}
            annotations.append({'id': len(annotations) + 1, 'image_id': image['id'], 'category_id': category,
                                'bbox': box, 'area': box[2] * box[3], 'iscrowd': int(flags['IsGroupOf']), **flags})
    categories = [{'id': index, 'name': each.name, 'supercategory': None} for index, each in enumerate(CLASSES)]
    return {'licenses': [], 'categories': categories, 'images': images, 'annotations': annotations}


def without_info(text: str) -> str:
    """The file as Python writes it, less the dataset's own description."""
    document = json.loads(text)
    info = document.pop('info')
    assert list(info) == ['year', 'version', 'description', 'contributor', 'url', 'date_created']
    assert json.dumps({'info': info, **document}) == text, 'not the text that json.dump writes'
    return json.dumps(document)


def test_the_file_is_what_plain_python_writes(tmp_path: Path) -> None:
    card, notices = write_split(tmp_path), []
    prepared, = prepare_openimages(card, tmp_path, report=notices.append)
    assert (prepared.action, prepared.images, prepared.boxes) == ('written', 2, 3)
    expected = expected_document(ROWS[:5], SIZES)
    assert len(expected['annotations']) == 3
    assert without_info((tmp_path / JSON).read_text()) == json.dumps(expected)
    crowd = [found['iscrowd'] for found in expected['annotations']]
    assert crowd == [1, 1, 0], '-1 is unknown and becomes true; then group-of; then not'
    assert len(notices) == 2
    assert 'Egg -> Egg (Food)' in notices[0]
    assert '1 boxes have a flag that is -1' in notices[1]


def test_the_result_reads_as_ground_truth(tmp_path: Path) -> None:
    prepare_openimages(write_split(tmp_path), tmp_path)
    truth = read_annotations(tmp_path / JSON)
    assert truth.file_names == ('00aa.jpg', '00ff.jpg')
    assert truth.category_ids.tolist() == [0, 1, 2]
    assert truth.labels.tolist() == [0, 2, 1]
    assert truth.scorable
    info = json.loads((tmp_path / 'info.json').read_text())
    assert info['splits']['train'] == {'annotations': JSON, 'action': 'written', 'images': 2, 'boxes': 3, 'sources': {}}


@pytest.mark.parametrize('seed', [0, 1])
def test_workers_and_chunks_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f'{number:016x}' for number in rng.integers(0, 1 << 62, 40).tolist()]
    rows = []
    for _ in range(400):
        x, y = np.sort(rng.random((2, 2)) ** rng.choice([1, 30], (2, 2)), axis=1)
        rows.append(row(str(rng.choice(names)), str(rng.choice(['/m/01', '/m/02', '/m/03', '/m/99'])),
                        (*x.tolist(), *y.tolist()), tuple(rng.integers(-1, 2, 5).tolist())))
    used = sorted({each[0] for each in rows if each[2] != '/m/99'})
    sizes = {name: (int(h), int(w)) for name, (h, w) in zip(used, rng.integers(1, 90, (len(used), 2)), strict=True)}
    card = write_split(tmp_path, rows, sizes)
    texts = []
    for workers, chunk in ((1, 100_000), (2, 7), (3, 1)):
        monkeypatch.setattr(coco_json, '_CHUNK', chunk)
        prepare_openimages(card, tmp_path, workers=workers)
        texts.append((tmp_path / JSON).read_text())
    assert texts[0] == texts[1] == texts[2]
    assert without_info(texts[0]) == json.dumps(expected_document(rows, sizes))
    assert 'e-' in texts[0], 'tiny numbers occur, which Python writes in a form of its own'


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_are_written_as_python_writes_them(numbers: list[float]) -> None:
    text = coco_json._as_python(pl.Series(numbers, dtype=pl.Float64))
    assert text.to_list() == [repr(each) for each in numbers]


@given(st.lists(st.floats(0, 1), min_size=1))
def test_numbers_are_read_as_python_reads_them(numbers: list[float]) -> None:
    text = 'x\n' + '\n'.join(map(repr, numbers)) + '\n'
    assert pl.read_csv(text.encode(), schema_overrides={'x': pl.Float64})['x'].to_list() == numbers


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


BOXES, LIST = 'train/labels/detections.csv', 'train/metadata/classes.csv'


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda root: (root / BOXES).write_text((root / BOXES).read_text()[:-1]), 'ends within a line'),
    (lambda root: (root / BOXES).write_text((root / BOXES).read_text()[:-9]), 'cut off'),
    (lambda root: (root / BOXES).write_text(''), 'is empty'),
    (lambda root: (root / BOXES).unlink(), 'run `mlperf-det data download tiny'),
    (lambda root: edit(root / BOXES, 'IsGroupOf', 'Group'), 'has no column IsGroupOf'),
    (lambda root: edit(root / BOXES, '0.148438', ''), 'line 2: a field is empty'),
    (lambda root: edit(root / BOXES, '0.148438', 'nan'), 'line 2: a field is empty or not a number'),
    (lambda root: edit(root / BOXES, '0.148438', 'much'), 'is not a CSV of boxes'),
    (lambda root: edit(root / BOXES, '00ff,xclick,/m/02', '00ff,xclick,/m/2'), "line 2: LabelName '/m/2' is not in"),
    (lambda root: edit(root / BOXES, '00aa', '../aa'), "ImageID '../aa' cannot be a file name"),
    (lambda root: edit(root / LIST, '/m/03,Egg\n', ''), r'lacks /m/03 \(Egg \(Food\)\), which the card lists'),
    (lambda root: edit(root / LIST, '/m/03,Egg\n', '/m/03\n'), 'line 3: must be a machine id and a name'),
    (lambda root: (root / LIST).unlink(), 'classes.csv: the class list cannot be read'),
    (lambda root: (root / 'train/metadata/image_ids.csv').unlink(), 'the list of images is absent'),
    (lambda root: edit(root / 'train/metadata/image_ids.csv', 'ImageID', 'Image'), 'is not a list of images'),
    (lambda root: (root / 'train/data/00ff.jpg').unlink(), r'1 of 2 images are missing \(00ff.jpg\)'),
    (lambda root: (root / 'train/data/00ff.jpg').write_bytes(b'<html>'), r'1 images cannot be read: 00ff.jpg \(not an'),
])
def test_what_is_wrong_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    card = write_split(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare_openimages(card, tmp_path)
    assert not (tmp_path / JSON).exists()
    assert not list(tmp_path.rglob('*.part'))


def test_no_box_of_a_listed_class(tmp_path: Path) -> None:
    card = write_split(tmp_path, [ROWS[1]])
    with pytest.raises(UserError, match='has no box of the classes of tiny'):
        prepare_openimages(card, tmp_path)


def test_a_source_of_another_size_is_refused(tmp_path: Path) -> None:
    card = write_split(tmp_path)
    size = (tmp_path / BOXES).stat().st_size
    sources = (SourceFile(path=BOXES, url='https://example.invalid/boxes.csv', bytes=size + 1),)
    stated = replace(card, splits={'train': replace(card.splits['train'], sources=sources)})
    with pytest.raises(UserError, match=f'has {size} bytes, the card states {size + 1}'):
        prepare_openimages(stated, tmp_path)


def test_a_class_list_with_a_header_line(tmp_path: Path) -> None:
    card = write_split(tmp_path)
    (tmp_path / LIST).write_text('LabelName,DisplayName\n' + (tmp_path / LIST).read_text())
    assert len(read_subset(card, card.splits['train'], tmp_path).boxes) == 3


def one_based(root: Path, text: str) -> str:
    """The same file as FiftyOne 1.2 numbers it, in another order of keys and with other spaces."""
    document = json.loads(text)
    for table, key in (('categories', 'id'), ('annotations', 'category_id')):
        for record in document[table]:
            record[key] += 1
    document['info']['description'] = 'Exported from FiftyOne; not a "category_id": 3'
    moved = {name: document[name] for name in ('info', 'images', 'annotations', 'categories', 'licenses')}
    exported = json.dumps(moved, separators=(',', ':'))
    (root / JSON).write_text(exported)
    return exported


def test_categories_from_one_are_renumbered_with_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_openimages(write_split(tmp_path), tmp_path)
    right = (tmp_path / JSON).read_text()
    exported = one_based(tmp_path, right)
    assert main(['data', 'prepare', 'tiny', '--root', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert 'categories were numbered 1 to 3, as FiftyOne 1.2 does; renumbered to 0 to 2' in out
    document, before = json.loads((tmp_path / JSON).read_text()), json.loads(exported)
    for table in ('images', 'annotations', 'categories'):
        assert document[table] == json.loads(right)[table]
    assert document['info'] == before['info']
    assert len((tmp_path / JSON).read_text()) == len(exported), 'nothing but the numbers changed'
    kept = (tmp_path / JSON).read_bytes()
    assert main(['data', 'prepare', 'tiny', '--root', str(tmp_path)]) == 0
    assert 'is an export of another program and is kept' in capsys.readouterr().out
    assert (tmp_path / JSON).read_bytes() == kept


def test_renumbering_works_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_openimages(write_split(tmp_path), tmp_path)
    right = json.loads((tmp_path / JSON).read_text())['annotations']
    from mlperf_det.data.openimages import renumber

    for piece in (1, 5, 50, 333):
        one_based(tmp_path, json.dumps({**json.loads((tmp_path / JSON).read_text())}))
        monkeypatch.setattr(renumber, '_PIECE_BYTES', piece + 400)  # the list of categories fits
        renumber.renumber(tmp_path / JSON)
        assert json.loads((tmp_path / JSON).read_text())['annotations'] == right


@pytest.mark.shared
def test_the_real_sample_becomes_what_it_was_exported_as(shared_data: Path, tmp_path: Path) -> None:
    """Five classes of 41 real photos; the export rounded boxes to pixels, its CSV has six digits."""
    names = ('Apple', 'Bicycle', 'Bird', 'Boat', 'Person')
    sample = shared_data / 'openimages-mini'
    with (sample / 'train' / 'metadata' / 'classes.csv').open(newline='') as stream:
        mids = {name: mid for mid, name in csv.reader(stream)}
    splits = {}
    for name in ('train', 'validation'):
        shutil.copytree(sample / name, tmp_path / name, ignore=shutil.ignore_patterns('*.json'),
                        copy_function=shutil.copyfile)
        splits[name] = OpenImagesSplit(
            images=f'{name}/data', annotations=f'{name}/labels/openimages-mlperf.json', image_count=1,
            annotated_image_count=None, annotation_count=None, boxes=f'{name}/labels/detections.csv',
            class_list=f'{name}/metadata/classes.csv')
    card = OpenImagesCard(name='mini', kind='openimages', title='Mini', licence={}, categories=5, splits=splits,
                          classes=tuple(ObjectClass(mid=mids[name], name=name) for name in names))
    for prepared in prepare_openimages(card, tmp_path):
        made, real = (json.loads((folder / prepared.path.relative_to(tmp_path)).read_text())
                      for folder in (tmp_path, sample))
        assert [each['name'] for each in made['categories']] == [each['name'] for each in real['categories']]
        assert [{key: each[key] for key in ('id', 'file_name', 'height', 'width')} for each in made['images']] == \
            [{key: each[key] for key in ('id', 'file_name', 'height', 'width')} for each in real['images']]
        assert len(made['annotations']) == len(real['annotations'])
        for mine, theirs in zip(made['annotations'], real['annotations'], strict=True):
            assert (mine['id'], mine['image_id'], mine['category_id'] + 1) == tuple(
                theirs[key] for key in ('id', 'image_id', 'category_id'))
            assert mine['bbox'] == pytest.approx(theirs['bbox'], abs=2 * 2048 * 0.5e-6 + 1e-9)
            assert mine['area'] == pytest.approx(theirs['area'], abs=2048 * 0.005)
            assert mine['iscrowd'] == 1, 'the sample lost its flags: -1 is unknown and becomes true'


@pytest.mark.shared
def test_the_real_sample_as_exported_is_renumbered(shared_data: Path, tmp_path: Path) -> None:
    """It counts from 1, as FiftyOne 1.2 exports do."""
    target = tmp_path / 'train' / 'labels'
    target.mkdir(parents=True)
    real = (shared_data / 'openimages-mini' / JSON).read_text()
    (target / Path(JSON).name).write_text(real)
    split = OpenImagesSplit(images='train/data', annotations=JSON, image_count=28, annotated_image_count=28,
                            annotation_count=89, boxes='no', class_list='no')
    card = OpenImagesCard(name='mini', kind='openimages', title='Mini', licence={}, categories=5,
                          splits={'train': split}, classes=CLASSES)
    prepared, = prepare_openimages(card, tmp_path)
    assert prepared.action == 'renumbered'
    before, after = json.loads(real), json.loads(prepared.path.read_text())
    for table, key in (('categories', 'id'), ('annotations', 'category_id')):
        for record in before[table]:
            record[key] -= 1
    assert after == before


def test_the_card_lists_the_classes_of_the_benchmark() -> None:
    card = load_card('openimages-mlperf')
    assert isinstance(card, OpenImagesCard)
    names = [each.name for each in card.classes]
    assert names == sorted(names)
    assert len(names) == 264
    assert [names[index] for index in (0, 46, 122, 148, 261, 263)] == [
        'Airplane', 'Chair', 'Human face', 'Man', 'Woman', 'Zucchini']
    assert not {'Car', 'Person', 'Tree', 'Clothing'} & set(names), 'they have subclasses'
    assert {name: split.image_count for name, split in card.splits.items()} == {'train': 1_170_301, 'val': 24_781}


@pytest.mark.shared
def test_the_cards_machine_ids_are_real(shared_data: Path) -> None:
    card = load_card('openimages-mlperf')
    with (shared_data / 'openimages-metadata' / 'mlperf264-classes.csv').open(newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert [(each.mid, each.name) for each in card.classes] == [(each['mid'], each['name']) for each in rows]


def test_written_annotations_survive_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_split(tmp_path)
    prepare_openimages(card, tmp_path)
    before = (tmp_path / JSON).read_bytes()

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(coco_json, '_box_text', interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_openimages(card, tmp_path)
    assert (tmp_path / JSON).read_bytes() == before
    assert not list((tmp_path / 'train' / 'labels').glob('.*.part'))
