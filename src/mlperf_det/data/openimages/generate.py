"""Generated scenes in the form in which Open Images is published: CSV of boxes, class list, list of images, photos.

So that `data prepare`, `verify` and training take the way of the real dataset. The scenes are those of `generate`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.cards import ObjectClass, OpenImagesCard, OpenImagesSplit, write_card
from mlperf_det.data.openimages.boxes import CORNERS, FLAGS
from mlperf_det.data.scenes.classes import SCENE_CLASSES
from mlperf_det.data.scenes.dataset import (
    LICENCE_NAME,
    GeneratorSettings,
    description,
    generate_dataset,
    temporary_folder,
)
from mlperf_det.errors import UserError

CARD_NAME = 'generated-openimages'
#: A class that the card does not list, as most of Open Images' are: `data prepare` must leave its boxes out.
UNLISTED = ObjectClass(mid='/m/scenery', name='Scenery')
#: every so many images have a box of that class
_UNLISTED_EVERY = 5
_SETTINGS = 'generator.json'
_FOLDERS = {'train': 'train', 'val': 'validation'}


def generate_openimages(settings: GeneratorSettings, root: Path, *, workers: int | None = None) -> bool:
    """Render a dataset in the form that `data download` leaves, with its card; it appears complete or not at all.

    Scenes without objects are not part of it, as images without a listed box are not part of the real subset.

    Args:
        settings: what to render.
        root: folder to create; it may exist if it is empty, or holds a dataset of the same settings.
        workers: processes; they do not change the result.

    Returns:
        False if the dataset was there already.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    content = json.dumps(description(settings), indent=2) + '\n'
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if (root / _SETTINGS).is_file() and (root / _SETTINGS).read_text() == content:
            return False
        raise UserError(f'{root}: exists and is not a dataset of these settings; name another folder or delete it')
    try:
        with temporary_folder(root) as folder, TemporaryDirectory(dir=folder) as scratch:
            scenes = Path(scratch)
            generate_dataset(settings, scenes, workers=workers)
            classes = tuple(ObjectClass(mid=f'/m/{each.name}', name=each.name)
                            for each in SCENE_CLASSES[:settings.scenes.classes])
            splits = {name: _convert(name, scenes, folder, classes) for name in _FOLDERS}
            write_card(folder, OpenImagesCard(
                name=CARD_NAME, kind='openimages', title=f'Generated scenes, seed {settings.seed}.',
                licence={'images': LICENCE_NAME, 'annotations': LICENCE_NAME}, categories=len(classes), splits=splits,
                classes=classes, negative_control=settings.negative_control))
            (folder / _SETTINGS).write_text(content)
    except OSError as error:
        raise UserError(f'{error.filename or root}: cannot be written ({error.strerror})') from error
    return True


def _convert(name: str, scenes: Path, folder: Path, classes: Sequence[ObjectClass]) -> OpenImagesSplit:
    """Move the images of a split of COCO scenes to their new names and write the CSV files about them."""
    truth = read_annotations(scenes / 'annotations' / f'instances_{name}2017.json')
    split = folder / _FOLDERS[name]
    for part in ('data', 'labels', 'metadata'):
        (split / part).mkdir(parents=True)
    rows: list[list[Any]] = []
    image_ids = []
    for image in range(len(truth)):
        boxes = truth.of_image(image)
        if boxes.start == boxes.stop:
            continue
        # Not in the order of the scenes, as the real ids are in no order of anything.
        image_id = hashlib.sha256(f'{name} {truth.image_ids[image]}'.encode()).hexdigest()[:16]
        image_ids.append(image_id)
        (scenes / f'{name}2017' / truth.file_names[image]).replace(split / 'data' / f'{image_id}.jpg')
        rows += [_row(image_id, truth, image, box, classes) for box in range(boxes.start, boxes.stop)]
        if len(image_ids) % _UNLISTED_EVERY == 0:
            rows.append([image_id, 'generated', UNLISTED.mid, 1, *(f'{edge:.6f}' for edge in (0, 1, 0, 1)), *[0] * 5])
    _write_csv(split / 'labels' / 'detections.csv',
               ['ImageID', 'Source', 'LabelName', 'Confidence', *CORNERS, *FLAGS], rows)
    _write_csv(split / 'metadata' / 'classes.csv', None, [[each.mid, each.name] for each in (*classes, UNLISTED)])
    _write_csv(split / 'metadata' / 'image_ids.csv', ['ImageID', 'Subset'], [[each, split.name] for each in image_ids])
    return OpenImagesSplit(
        images=f'{split.name}/data', annotations=f'{split.name}/labels/openimages-mlperf.json',
        image_count=len(image_ids), annotated_image_count=len(image_ids), annotation_count=len(truth.boxes),
        boxes=f'{split.name}/labels/detections.csv', class_list=f'{split.name}/metadata/classes.csv',
        image_list=f'{split.name}/metadata/image_ids.csv')


def _row(image_id: str, truth: Annotations, image: int, box: int, classes: Sequence[ObjectClass]) -> list[Any]:
    left, top, width, height = truth.boxes[box].tolist()
    across, down = int(truth.widths[image]), int(truth.heights[image])
    edges = (left / across, (left + width) / across, top / down, (top + height) / down)
    truncated = int(left == 0 or top == 0 or left + width == across or top + height == down)
    return [image_id, 'generated', classes[truth.labels[box]].mid, 1, *(f'{edge:.6f}' for edge in edges),
            0, truncated, int(truth.crowd[box]), 0, 0]


def _write_csv(path: Path, header: Sequence[str] | None, rows: Iterable[Sequence[Any]]) -> None:
    with path.open('w', newline='', encoding='utf-8') as stream:
        writer = csv.writer(stream, lineterminator='\n')
        if header is not None:
            writer.writerow(header)
        writer.writerows(rows)
