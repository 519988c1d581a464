"""``mlperf-det data generate``: a synthetic COCO dataset, the same bytes for the same settings and library versions."""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlperf_det.data.cards import Card, SplitCard, write_card
from mlperf_det.data.progress import Progress
from mlperf_det.data.scenes.classes import SCENE_CLASSES
from mlperf_det.data.scenes.drawing import SceneObject, SceneSettings, draw_scene
from mlperf_det.errors import UserError

CARD_NAME = 'generated-coco'
#: Version of what a scene looks like; part of the dataset's description, raised when the pixels change.
GENERATOR_VERSION = 1
#: Original ids of the classes: with gaps, as COCO's 80 classes have ids from 1 to 90.
CATEGORY_IDS = (1, 2, 4, 7, 8, 11, 15, 16)
#: First image id of each split, so that no image belongs to both; more scenes than this a split are refused.
_SPLIT_IDS = 1_000_000
LICENCE_NAME = 'CC0 1.0'
_LICENCE = {'id': 1, 'name': LICENCE_NAME, 'url': 'https://creativecommons.org/publicdomain/zero/1.0/'}
_SCENES_PER_TASK = 16
#: From here on, drawing in processes saves more time than starting them costs.
_SCENES_WORTH_PROCESSES = 3000


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """What determines a generated dataset.

    Attributes:
        train: scenes for training.
        val: scenes for evaluation; drawn from other random streams than those for training.
        seed: of all randomness.
        scenes: what scenes look like.
        shuffle_train_labels: negative control: hand out the categories of the training annotations at random. A model
            trained on such a dataset must fail.
    """

    train: int
    val: int
    seed: int
    scenes: SceneSettings = field(default_factory=SceneSettings)
    shuffle_train_labels: bool = False

    @property
    def negative_control(self) -> str:
        """What is spoilt on purpose; empty where nothing is."""
        return 'training labels are shuffled' if self.shuffle_train_labels else ''

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of range.
        """
        for name, count in (('--train', self.train), ('--val', self.val)):
            if not 1 <= count < _SPLIT_IDS:
                raise UserError(f'{name} {count}: must be from 1 to {_SPLIT_IDS - 1}')
        if self.seed < 0:
            raise UserError(f'--seed {self.seed}: must not be negative')
        if not 1 <= self.scenes.classes <= len(SCENE_CLASSES):
            raise UserError(f'--classes {self.scenes.classes}: must be from 1 to {len(SCENE_CLASSES)}')
        if not 32 <= self.scenes.least_side <= self.scenes.most_side <= 4096:
            raise UserError(f'--size {self.scenes.least_side} {self.scenes.most_side}: must rise, from 32 to at most '
                            '4096 pixels')


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det data generate``."""
    scenes = SceneSettings()
    parser.add_argument('name', choices=[CARD_NAME, 'generated-openimages'], help='dataset card: what to generate')
    parser.add_argument('--root', type=Path, required=True, metavar='DIR', help='folder to create')
    parser.add_argument('--train', type=int, default=1500, metavar='N', help='training scenes (default %(default)s)')
    parser.add_argument('--val', type=int, default=200, metavar='N', help='evaluation scenes (default %(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='of all randomness (default %(default)s)')
    parser.add_argument('--classes', type=int, default=scenes.classes, metavar='K',
                        help=f'object classes, at most {len(SCENE_CLASSES)} (default %(default)s)')
    parser.add_argument('--size', type=int, nargs=2, default=(scenes.least_side, scenes.most_side),
                        metavar=('MIN', 'MAX'), help='range of the sides in pixels '
                        f'(default {scenes.least_side} {scenes.most_side})')
    parser.add_argument('--workers', type=int, default=None, metavar='N', help='processes (default: one a CPU)')
    parser.add_argument('--shuffle-train-labels', action='store_true',
                        help='negative control: training annotations get categories at random; training must fail')


def run_generate(args: argparse.Namespace) -> int:
    """Run ``mlperf-det data generate``."""
    least, most = args.size
    settings = GeneratorSettings(
        train=args.train, val=args.val, seed=args.seed, shuffle_train_labels=args.shuffle_train_labels,
        scenes=SceneSettings(classes=args.classes, least_side=least, most_side=most))
    if args.workers is not None and args.workers < 1:
        raise UserError(f'--workers {args.workers}: must be at least 1')
    if args.name == CARD_NAME:
        generate = generate_dataset
    else:
        # Imported here: it builds on this module.
        from mlperf_det.data.openimages.generate import generate_openimages as generate
    made = generate(settings, args.root, workers=args.workers)
    sys.stdout.write(f'{args.root}: {"generated" if made else "already there, with the same settings"}: '
                     f'{settings.train} training and {settings.val} evaluation scenes, seed {settings.seed}'
                     f'{", TRAINING LABELS SHUFFLED" if settings.shuffle_train_labels else ""}\n')
    return 0


def generate_dataset(settings: GeneratorSettings, root: Path, *, workers: int | None = None) -> bool:
    """Render a dataset in COCO's layout, with its card; the folder appears complete or not at all.

    Args:
        settings: what to render.
        root: folder to create; it may exist if it is empty, or holds a dataset of the same settings.
        workers: processes; they do not change the result. None: one for each CPU this process may use.

    Returns:
        False if the dataset was there already.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    described = description(settings)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _found_description(root) == described:
            return False
        raise UserError(f'{root}: exists and is not a dataset of these settings; name another folder or delete it')
    scenes = settings.train + settings.val
    count = workers or (len(os.sched_getaffinity(0)) if scenes >= _SCENES_WORTH_PROCESSES else 1)
    try:
        with temporary_folder(root) as folder, Progress('generate', scenes, 'scenes') as bar:
            splits = {name: _render_split(name, settings, folder, count, bar) for name in ('train', 'val')}
            write_card(folder, Card(
                name=CARD_NAME, kind='coco', title=f'Generated scenes, seed {settings.seed}.',
                licence={'images': LICENCE_NAME, 'annotations': LICENCE_NAME},
                categories=settings.scenes.classes, splits=splits, negative_control=settings.negative_control))
    except OSError as error:
        raise UserError(f'{error.filename or root}: cannot be written ({error.strerror})') from error
    return True


def description(settings: GeneratorSettings) -> dict[str, Any]:
    """Return everything that determines a dataset, the ``info`` record of its annotation files."""
    labels = 'shuffled in train (negative control)' if settings.shuffle_train_labels else 'true'
    return {'description': 'Scenes generated by mlperf-det', 'version': str(GENERATOR_VERSION), 'labels': labels,
            'settings': asdict(settings)}


def _found_description(root: Path) -> Any:
    class Document(msgspec.Struct):
        info: dict[str, Any]

    try:
        return msgspec.json.decode(_annotation_path(root, 'val').read_bytes(), type=Document).info
    except (OSError, msgspec.DecodeError):
        return None


def _annotation_path(root: Path, split: str) -> Path:
    return root / 'annotations' / f'instances_{split}2017.json'


@contextmanager
def temporary_folder(root: Path) -> Iterator[Path]:
    """Yield a folder beside ``root`` that takes its name in the end, or vanishes on an error."""
    root = root.absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = root.with_name(f'.{root.name}.{os.getpid()}.partial')
    folder.mkdir()
    try:
        yield folder
        folder.replace(root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _render_split(split: str, settings: GeneratorSettings, folder: Path, workers: int, bar: Progress) -> SplitCard:
    images = folder / f'{split}2017'
    images.mkdir()
    render = partial(_render_scene, settings, split, images)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record, objects in _in_order(render, getattr(settings, split), workers):
        records.append(record)
        annotations += [{**found, 'id': len(annotations) + number} for number, found in enumerate(objects, 1)]
        bar.advance(1)
    annotated = len({found['image_id'] for found in annotations})
    if split == 'train' and settings.shuffle_train_labels:
        _shuffle_labels(annotations, settings.seed)
    categories = [{'id': identifier, 'name': scene_class.name, 'supercategory': 'shape'}
                  for identifier, scene_class in zip(CATEGORY_IDS, SCENE_CLASSES, strict=True)]
    path = _annotation_path(folder, split)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode({
        'info': description(settings), 'licenses': [_LICENCE], 'images': records, 'annotations': annotations,
        'categories': categories[:settings.scenes.classes]}))
    return SplitCard(images=images.name, annotations=str(path.relative_to(folder)), image_count=len(records),
                     annotated_image_count=annotated, annotation_count=len(annotations))


def _in_order(render: partial[Any], count: int, workers: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    if workers == 1:
        yield from map(render, range(count))
        return
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context('spawn')) as pool:
        try:
            yield from pool.map(render, range(count), chunksize=_SCENES_PER_TASK)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _render_scene(settings: GeneratorSettings, split: str, folder: Path, number: int
                  ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a scene, write its JPEG, and return its image record and annotations (without ids)."""
    stream = 0 if split == 'train' else 1
    rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(stream, number)))
    scene = draw_scene(settings.scenes, rng)
    image_id = stream * _SPLIT_IDS + number + 1
    name = f'{image_id:012d}.jpg'
    content = io.BytesIO()
    Image.fromarray(scene.pixels).save(content, 'JPEG', quality=90, subsampling='4:2:0')
    (folder / name).write_bytes(content.getvalue())
    height, width = scene.pixels.shape[:2]
    record = {'license': _LICENCE['id'], 'file_name': name, 'height': height, 'width': width, 'id': image_id}
    return record, [_annotation(found, image_id) for found in scene.objects]


def _annotation(found: SceneObject, image_id: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return {
        'segmentation': _run_lengths(found.mask) if found.polygon is None else [list(found.polygon)],
        'area': int(np.count_nonzero(found.mask)), 'iscrowd': int(found.crowd), 'image_id': image_id,
        'bbox': [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
        'category_id': CATEGORY_IDS[found.label]}


def _run_lengths(mask: NDArray[np.bool_]) -> Mapping[str, list[int]]:
    """Return a mask as COCO's uncompressed RLE: column by column, lengths of background and object in turn."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0] if not flat[0] else [0, 0], edges, [flat.size]])
    return {'size': list(mask.shape), 'counts': np.diff(bounds).tolist()}


def _shuffle_labels(annotations: list[dict[str, Any]], seed: int) -> None:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    categories = rng.permutation([found['category_id'] for found in annotations]).tolist()
    for found, category in zip(annotations, categories, strict=True):
        found['category_id'] = category
