"""Generated datasets: reproducible, valid COCO by pycocotools, pixel-exact masks, and honest about their labels."""

from __future__ import annotations

import filecmp
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mlperf_det.cli import main
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.cards import load_card
from mlperf_det.data.scenes import dataset as generate
from mlperf_det.data.scenes.classes import SCENE_CLASSES
from mlperf_det.data.scenes.dataset import CARD_NAME, CATEGORY_IDS, GeneratorSettings, generate_dataset
from mlperf_det.data.scenes.drawing import Scene, SceneSettings, draw_scene
from mlperf_det.errors import UserError

SETTINGS = GeneratorSettings(train=150, val=50, seed=3)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('generate') / 'scenes'
    assert generate_dataset(SETTINGS, root, workers=1)
    return root


def content(root: Path, split: str = 'train') -> dict[str, Any]:
    return json.loads((root / 'annotations' / f'instances_{split}2017.json').read_bytes())


def files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob('*') if path.is_file())


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(dataset: Path, tmp_path: Path) -> None:
    generate_dataset(SETTINGS, tmp_path / 'again', workers=2)
    names = files(dataset)
    assert len(names) == 150 + 50 + 3
    assert files(tmp_path / 'again') == names
    for name in names:
        assert filecmp.cmp(dataset / name, tmp_path / 'again' / name, shallow=False), name


def test_scenes_do_not_depend_on_how_many_there_are_but_on_the_seed(dataset: Path, tmp_path: Path) -> None:
    fewer = GeneratorSettings(train=4, val=3, seed=3)
    other = GeneratorSettings(train=4, val=3, seed=4)
    for name, settings in (('fewer', fewer), ('other', other)):
        generate_dataset(settings, tmp_path / name, workers=1)
        for path in files(tmp_path / name):
            if path.suffix == '.jpg':
                same = (dataset / path).read_bytes() == (tmp_path / name / path).read_bytes()
                assert same == (settings is fewer), path


def test_training_and_evaluation_scenes_are_disjoint(dataset: Path) -> None:
    train, val = content(dataset), content(dataset, 'val')
    assert not {image['id'] for image in train['images']} & {image['id'] for image in val['images']}
    pictures = [path.read_bytes() for path in dataset.rglob('*.jpg')]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_masks_areas_and_boxes_agree_by_pycocotools(dataset: Path, split: str) -> None:
    ground_truth = COCO(str(dataset / 'annotations' / f'instances_{split}2017.json'))
    forms: Counter[str] = Counter()
    taken: dict[int, np.ndarray] = {}
    for annotation in ground_truth.loadAnns(ground_truth.getAnnIds()):
        encoded = ground_truth.annToRLE(annotation)
        mask = ground_truth.annToMask(annotation) > 0
        assert annotation['area'] == coco_mask.area(encoded) == mask.sum() > 0
        assert annotation['bbox'] == coco_mask.toBbox(encoded).tolist()
        image = ground_truth.imgs[annotation['image_id']]
        assert mask.shape == (image['height'], image['width'])
        # A pixel shows one object: visible masks do not overlap.
        before = taken.setdefault(image['id'], np.zeros_like(mask))
        assert not (before & mask).any()
        before |= mask
        forms['polygon' if isinstance(annotation['segmentation'], list) else 'RLE'] += 1
        forms['crowd'] += annotation['iscrowd']
        assert not (annotation['iscrowd'] and isinstance(annotation['segmentation'], list))
    assert min(forms['polygon'], forms['RLE']) > 20
    assert forms['crowd'] >= (split == 'train')


def test_every_kind_of_image_and_class_occurs(dataset: Path) -> None:
    annotations = read_annotations(dataset / 'annotations' / 'instances_train2017.json')
    assert (annotations.boxes_per_image == 0).any()
    assert annotations.boxes_per_image.max() >= 3
    assert annotations.category_ids.tolist() == list(CATEGORY_IDS[:SETTINGS.scenes.classes])
    assert np.diff(annotations.category_ids).max() > 1, 'the ids have gaps'
    assert np.bincount(annotations.labels).min() > 20
    assert len(set(zip(annotations.heights, annotations.widths, strict=True))) > 50
    modes = Counter()
    for name, height, width in zip(annotations.file_names, annotations.heights, annotations.widths, strict=True):
        with Image.open(dataset / 'train2017' / name) as image:
            assert image.size == (width, height)
            modes[image.mode] += 1
    assert modes['L'] >= 1
    assert modes['RGB'] > 100
    shorter = np.minimum(annotations.heights, annotations.widths).repeat(annotations.boxes_per_image)
    assert (annotations.boxes[:, 2:].max(axis=1) > shorter / 5).mean() > 0.8, 'most objects are not small'


def test_colour_does_not_tell_the_class() -> None:
    """The mean colour of the objects of a class is that of all objects, within four standard errors."""
    colours: dict[int, list[np.ndarray]] = {}
    for seed in range(250):
        scene = draw_scene(SceneSettings(grayscale_share=0), np.random.default_rng(seed))
        for found in scene.objects:
            colours.setdefault(found.label, []).append(scene.pixels[found.mask].mean(axis=0))
    everything = np.concatenate(list(colours.values()))
    for found in colours.values():
        error = everything.std(axis=0) / np.sqrt(len(found))
        assert (np.abs(np.mean(found, axis=0) - everything.mean(axis=0)) < 4 * error).all()


def test_a_scene_shows_its_objects() -> None:
    """Without the objects, the same scene differs inside their masks and nowhere else, up to the grain."""
    scene: Scene = draw_scene(SceneSettings(grayscale_share=0, empty_share=0), np.random.default_rng(8))
    bare = draw_scene(SceneSettings(grayscale_share=0, empty_share=1), np.random.default_rng(8))
    changed = np.abs(scene.pixels.astype(int) - bare.pixels).max(axis=2) > 18  # twice the grain
    inside = np.any([found.mask for found in scene.objects], axis=0)
    assert not (changed & ~inside).any()
    assert (changed & inside).sum() > 0.5 * inside.sum()


def test_shuffled_labels_change_the_training_categories_alone_and_are_declared(dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / 'shuffled'
    generate_dataset(GeneratorSettings(train=150, val=50, seed=3, shuffle_train_labels=True), root, workers=1)
    true, shuffled = content(dataset), content(root)
    before, after = ([found['category_id'] for found in data['annotations']] for data in (true, shuffled))
    assert Counter(before) == Counter(after)
    agreement = np.mean(np.array(before) == np.array(after))
    assert agreement < 0.35, 'one in six labels is right by chance'
    for found in true['annotations'] + shuffled['annotations']:
        del found['category_id']
    assert true['annotations'] == shuffled['annotations']
    assert content(root, 'val')['annotations'] == content(dataset, 'val')['annotations']
    assert 'shuffled' in shuffled['info']['labels']
    assert shuffled['info']['settings']['shuffle_train_labels'] is True
    assert true['info']['labels'] == 'true'
    assert load_card(CARD_NAME, dataset).negative_control == ''
    assert load_card(CARD_NAME, root).negative_control == 'training labels are shuffled'
    assert 'SHUFFLED' not in load_card(CARD_NAME, dataset).title


def test_the_card_states_what_is_there(dataset: Path) -> None:
    card = load_card(CARD_NAME, dataset)
    assert card.categories == SETTINGS.scenes.classes
    for split in ('train', 'val'):
        data, stated = content(dataset, split), card.split(split)
        assert stated.image_count == len(data['images']) == len(list((dataset / stated.images).iterdir()))
        assert stated.annotation_count == len(data['annotations'])
        assert stated.annotated_image_count == len({found['image_id'] for found in data['annotations']})
        assert [found['id'] for found in data['annotations']] == list(range(1, len(data['annotations']) + 1))


def test_the_command_generates_what_verify_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / 'new' / 'scenes'
    words = ['data', 'generate', CARD_NAME, '--root', str(root), '--train', '12', '--val', '6', '--seed', '9',
             '--classes', '8', '--size', '64', '80']
    assert main(words) == 0
    assert '12 training and 6 evaluation scenes, seed 9' in capsys.readouterr().out
    assert len(content(root)['categories']) == 8 == len(SCENE_CLASSES)
    assert all(64 <= image[side] <= 80 for image in content(root)['images'] for side in ('height', 'width'))
    assert main(['data', 'verify', CARD_NAME, '--root', str(root)]) == 0
    assert [path.name for path in root.parent.iterdir()] == ['scenes'], 'a temporary folder was left'
    capsys.readouterr()
    assert main(words) == 0
    assert 'already there' in capsys.readouterr().out
    assert main([*words, '--shuffle-train-labels']) == 2
    assert 'not a dataset of these settings' in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'message'), [
    (['--train', '0'], '--train 0'), (['--val', '1000000'], '--val 1000000'), (['--seed', '-1'], '--seed -1'),
    (['--classes', '9'], '--classes 9'), (['--size', '90', '80'], '--size 90 80'), (['--size', '8', '80'], '--size 8'),
    (['--workers', '0'], '--workers 0'),
])
def test_values_out_of_range_are_refused(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert main(['data', 'generate', CARD_NAME, '--root', str(tmp_path / 'x'), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'x').exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(UserError, match='name another folder'):
        generate_dataset(SETTINGS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(settings: SceneSettings, rng: np.random.Generator) -> Scene:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, 'draw_scene', interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(SETTINGS, tmp_path / 'scenes', workers=1)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    generate_dataset(GeneratorSettings(train=2, val=2, seed=1), tmp_path, workers=1)
    assert (tmp_path / 'card.yaml').is_file()
