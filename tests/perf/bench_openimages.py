"""Open Images: image headers, conversion, start of training and RetinaNet's input, each against the plain way."""

from __future__ import annotations

import csv
import io
import itertools
import json
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

from mlperf_det.data.annotation_cache import read_cached, write_columns
from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.cards import OpenImagesCard
from mlperf_det.data.decode import decode_rgb
from mlperf_det.data.jpeg_header import read_sizes
from mlperf_det.data.layout import file_hash
from mlperf_det.data.openimages.boxes import CORNERS, FLAGS, read_subset
from mlperf_det.data.openimages.coco_json import write_annotations
from mlperf_det.data.retinanet_input import RetinaNetTransform
from tests.perf.case import Case
from tests.perf.openimages_files import write_openimages

SIZE = 800
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = RetinaNetTransform(SIZE)
REAL_PHOTOS = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'openimages-mini'
#: share of the real training split
SCALE = 0.02
FILES = 5000
_NUMBERS = itertools.count()


def cases() -> list[Case]:
    photos = _photos()
    return [
        Case(name='JPEG headers', peer=_pillow_sizes, ours=_our_sizes, equal=_equal_sizes, target=5.0, rounds=7,
             note=f'{FILES} files, warm cache; peer: Pillow open'),
        Case(name=f'CSV to COCO JSON at {SCALE:.0%} of the training split', peer=_peer_conversion, ours=_our_conversion,
             equal=_equal_bytes, target=5.0, note='peer: csv and json; the same bytes but for `info`'),
        Case(name='ground truth at the start of training', peer=_from_json, ours=_from_columns, equal=_equal_truth,
             target=50.0, note='peer: our JSON reader; file digest known on both sides'),
        Case(name='RetinaNet training input', peer=partial(_over, photos, _peer_input),
             ours=partial(_over, photos, _our_input), equal=_nearly_equal, target=4.0, rounds=5,
             note=f'{len(photos)} photos; ours stays uint8, the device normalises'),
    ]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix='bench-openimages-')


def _root() -> Path:
    return Path(_folder().name)


@cache
def _image_files() -> tuple[Path, tuple[str, ...]]:
    """Files with the headers of photos; what comes after them is never read."""
    folder = _root() / 'headers'
    folder.mkdir()
    contents = [content[:30_000] for content, _ in _photos()]
    names = tuple(f'{index:016x}.jpg' for index in range(FILES))
    for index, name in enumerate(names):
        (folder / name).write_bytes(contents[index % len(contents)])
    return folder, names


def _pillow_sizes() -> list[tuple[int, int]]:
    folder, names = _image_files()
    sizes = []
    for name in names:
        with Image.open(f'{folder}/{name}') as image:
            sizes.append((image.height, image.width))
    return sizes


def _our_sizes() -> np.ndarray:
    folder, names = _image_files()
    return read_sizes(folder, names).sizes


def _equal_sizes(peer: list[tuple[int, int]], ours: np.ndarray) -> None:
    assert np.array_equal(np.array(peer), ours)


@cache
def _openimages() -> tuple[OpenImagesCard, Path]:
    root = _root() / 'openimages'
    return write_openimages(root, SCALE), root


def _sizes(images: int) -> np.ndarray:
    return np.random.default_rng(1).integers(600, 1025, (images, 2)).astype(np.int32)


def _new_file() -> Path:
    """Return a path of its own for each run: to replace a file takes as long as a tenth of our conversion."""
    return _root() / f'converted-{next(_NUMBERS)}.json'


def _our_conversion() -> Path:
    card, root = _openimages()
    split = card.splits['train']
    subset = read_subset(card, split, root)
    path = _new_file()
    write_annotations(path, card.title, card.classes, subset, _sizes(len(subset.image_ids)))
    return path


def _peer_conversion() -> Path:
    """Row by row with the standard library, as most converters work."""
    card, root = _openimages()
    split = card.splits['train']
    categories = {each.mid: index for index, each in enumerate(card.classes)}
    with (root / split.image_list).open(newline='') as stream:
        allowed = {each['ImageID'] for each in csv.DictReader(stream)}
    by_image: dict[str, list[dict[str, str]]] = {}
    with (root / split.boxes).open(newline='') as stream:
        for each in csv.DictReader(stream):
            if each['LabelName'] in categories and each['ImageID'] in allowed:
                by_image.setdefault(each['ImageID'], []).append(each)
    sizes = _sizes(len(by_image)).tolist()
    images, annotations = [], []
    for number, name in enumerate(sorted(by_image), 1):
        height, width = sizes[number - 1]
        images.append({'id': number, 'file_name': f'{name}.jpg', 'height': height, 'width': width, 'license': None,
                       'coco_url': None})
        for each in by_image[name]:
            left, right, top, bottom = (float(each[edge]) for edge in CORNERS)
            box = [left * width, top * height, (right - left) * width, (bottom - top) * height]
            annotations.append({
                'id': len(annotations) + 1, 'image_id': number, 'category_id': categories[each['LabelName']],
                'bbox': box, 'area': box[2] * box[3], 'iscrowd': int(each['IsGroupOf'] != '0'),
                **{flag: each[flag] != '0' for flag in FLAGS}})
    path = _new_file()
    path.write_text(json.dumps({'licenses': [], 'categories': [
        {'id': index, 'name': each.name, 'supercategory': None} for index, each in enumerate(card.classes)],
        'images': images, 'annotations': annotations}))
    return path


def _equal_bytes(peer: Path, ours: Path) -> None:
    _, _, rest = ours.read_bytes().partition(b'}, "licenses"')
    assert peer.read_bytes() == b'{"licenses"' + rest, 'the files differ'


@cache
def _truth() -> tuple[Path, str]:
    path = _our_conversion()
    digest = file_hash(path, 'sha256')
    write_columns(read_annotations(path), digest)
    return path, digest


def _from_json() -> Annotations:
    return read_annotations(_truth()[0])


def _from_columns() -> Annotations:
    return read_cached(*_truth())


def _equal_truth(peer: Annotations, ours: Annotations) -> None:
    for name in ('image_ids', 'offsets', 'boxes', 'labels', 'crowd', 'areas', 'heights', 'widths'):
        assert np.array_equal(getattr(peer, name), getattr(ours, name)), name
    assert list(peer.file_names[:100]) == list(ours.file_names[:100])


@cache
def _photos() -> list[tuple[bytes, int]]:
    """JPEG files and, for each, a seed for its mirror image; synthetic ones where the sample is absent."""
    if REAL_PHOTOS.is_dir():
        return [(path.read_bytes(), index) for index, path in enumerate(sorted(REAL_PHOTOS.rglob('*.jpg')))]
    rng = np.random.default_rng(0)
    photos = []
    for index in range(24):
        smooth = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((1024, 768))
        grain = rng.integers(-12, 13, (768, 1024, 3))
        stream = io.BytesIO()
        Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)).save(stream, 'JPEG', quality=90)
        photos.append((stream.getvalue(), index))
    return photos


def _over(photos: list[tuple[bytes, int]], function: Callable[[bytes, np.random.Generator], torch.Tensor]
          ) -> list[torch.Tensor]:
    return [function(content, np.random.default_rng(seed)) for content, seed in photos]


def _peer_input(content: bytes, rng: np.random.Generator) -> torch.Tensor:
    """The reference's order: Pillow, mirror at full size, float, normalise, then resize without antialiasing."""
    image = F.pil_to_tensor(Image.open(io.BytesIO(content)).convert('RGB'))
    if rng.random() < 0.5:
        image = image.flip(-1)
    normalised = F.normalize(F.convert_image_dtype(image), MEAN, STD)
    return torch.nn.functional.interpolate(normalised[None], (SIZE, SIZE), mode='bilinear', align_corners=False)[0]


def _our_input(content: bytes, rng: np.random.Generator) -> torch.Tensor:
    none: Any = np.zeros((0, 4)), np.zeros(0, np.int64)
    return TRANSFORM(decode_rgb(content), *none, rng)[0]


def _nearly_equal(peer: list[torch.Tensor], ours: list[torch.Tensor]) -> None:
    """Within one grey level: ours is rounded to whole levels before it is normalised."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for theirs, mine in zip(peer, ours, strict=True):
        levels = (theirs * std + mean) * 255 - mine
        assert levels.abs().max() <= 1.01, f'differ by {levels.abs().max():.2f} grey levels'
        assert levels.abs().mean() < 0.3, f'differ by {levels.abs().mean():.2f} grey levels on average'
