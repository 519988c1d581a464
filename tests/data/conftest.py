"""Datasets in COCO layout that the tests of this folder break in many ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlperf_det.data.cards import Card, SplitCard, write_card

#: height, width of each image of a tiny split
SIZES = ((40, 60), (50, 30), (20, 20))


def ground_truth(first_id: int) -> dict[str, Any]:
    """Three images, the last without boxes; category ids with a gap; one crowd."""
    images = [{'license': 4, 'file_name': f'{first_id + i:012d}.jpg', 'height': h, 'width': w, 'id': first_id + i}
              for i, (h, w) in enumerate(SIZES)]
    boxes = [(0, 90, [1.5, 2.0, 10.25, 12.0], 0), (1, 1, [0, 0, 20, 30.5], 0), (0, 1, [5, 5, 30, 30], 1)]
    annotations = [{'segmentation': [[1, 1, 5, 1, 5, 5]], 'area': 50.5, 'iscrowd': crowd, 'image_id': first_id + image,
                    'bbox': box, 'category_id': category, 'id': 100 + i}
                   for i, (image, category, box, crowd) in enumerate(boxes)]
    categories = [{'supercategory': 'thing', 'id': 1, 'name': 'one'},
                  {'supercategory': 'thing', 'id': 90, 'name': 'a b'}]
    return {'info': {'year': 2017}, 'licenses': [], 'images': images, 'annotations': annotations,
            'categories': categories}


@pytest.fixture
def truth() -> dict[str, Any]:
    """Valid ground truth for a test to break."""
    return ground_truth(1)


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a document into a temporary annotation file."""
    def write(document: Any) -> Path:
        path = tmp_path / 'instances.json'
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path
    return write


@pytest.fixture
def tiny_card() -> Card:
    """The card of `tiny_root`."""
    return Card(name='tiny', kind='coco', title='three images a split', licence={'photos': 'CC0'}, categories=2,
                splits={name: SplitCard(images=f'{name}2017', annotations=f'annotations/instances_{name}2017.json',
                                        image_count=3, annotated_image_count=2, annotation_count=3)
                        for name in ('train', 'val')})


@pytest.fixture
def tiny_root(tmp_path: Path, tiny_card: Card) -> Path:
    """A good dataset of two splits with three noise images each."""
    root = tmp_path / 'tiny'
    (root / 'annotations').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for first_id, split in ((1, 'train'), (11, 'val')):
        document = ground_truth(first_id)
        (root / f'annotations/instances_{split}2017.json').write_text(json.dumps(document))
        (root / f'{split}2017').mkdir()
        for image in document['images']:
            pixels = rng.integers(0, 255, (image['height'], image['width'], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f'{split}2017' / image['file_name'], quality=90)
    write_card(root, tiny_card)
    return root


@pytest.fixture(scope='session')
def _mini(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('mini')
    for folder in ('annotations', 'train2017', 'val2017'):
        shutil.copytree(shared_data / 'coco2017-mini' / folder, root / folder, copy_function=shutil.copyfile)
        (root / folder).chmod(0o755)
    # The counts of the README of the sample data.
    write_card(root, Card(
        name='coco2017-mini', kind='coco', title='110 photos of COCO 2017', licence={'annotations': 'CC BY 4.0'},
        categories=80, splits={
            'train': SplitCard(images='train2017', annotations='annotations/instances_train2017.json',
                               image_count=65, annotated_image_count=64, annotation_count=545),
            'val': SplitCard(images='val2017', annotations='annotations/instances_val2017.json',
                             image_count=45, annotated_image_count=44, annotation_count=365)}))
    return root


@pytest.fixture
def mini_root(_mini: Path, tmp_path: Path) -> Path:
    """A private copy of the real sample photos with a card of their own."""
    root = tmp_path / 'coco2017-mini'
    shutil.copytree(_mini, root, copy_function=shutil.copyfile)
    return root
