"""Trimming COCO annotations against the plain way: load the JSON, rebuild the records, dump them."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from pathlib import Path

from mlperf_det.data.prepare_coco import trim
from tests.perf.case import Case

IMAGES = 12_000
ANNOTATIONS_PER_IMAGE = 7


def cases() -> list[Case]:
    """Return both forms of trimming, on a file of a tenth of train2017."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = folder / 'instances.json'
    source.write_text(json.dumps(_document(), separators=(',', ': ')))  # as COCO's own files are written
    return [_case(source, keep_keys=True), _case(source, keep_keys=False)]


def _case(source: Path, *, keep_keys: bool) -> Case:
    plain, ours = source.with_name(f'plain_{keep_keys}.json'), source.with_name(f'ours_{keep_keys}.json')

    def equal(_peer: object, _ours: object) -> None:
        assert plain.read_bytes() == ours.read_bytes()
    return Case(name=f'annotation trimming, {"all keys" if keep_keys else "four keys"}', target=20, equal=equal,
                peer=lambda: _trim_plainly(source, plain, keep_keys),
                ours=lambda: trim(source, ours, keep_keys=keep_keys, pretty=False), note='bytes equal')


def _trim_plainly(source: Path, target: Path, keep_keys: bool) -> None:
    with source.open() as stream:
        content = json.load(stream)
    images = [{key: value for key, value in image.items() if key in ('id', 'file_name', 'height', 'width')}
              for image in content['images']]
    annotations = []
    for annotation in content['annotations']:
        if keep_keys:
            annotations.append({**annotation, 'segmentation': [], 'area': 1.0})
        else:
            annotations.append({key: value for key, value in annotation.items()
                                if key in ('image_id', 'bbox', 'category_id', 'id')})
    with target.open('w') as stream:
        json.dump({'images': images, 'annotations': annotations, 'categories': content['categories']}, stream,
                  separators=(',', ':'))


def _document() -> dict[str, object]:
    rng = random.Random(0)

    def number() -> float:
        return round(640 * rng.random(), 2)
    images = [{'license': 4, 'file_name': f'{i:012}.jpg', 'coco_url': f'http://example.org/{i:012}.jpg', 'height': 480,
               'width': 640, 'date_captured': '2013-11-14 17:02:52', 'flickr_url': f'http://example.org/{i}', 'id': i}
              for i in range(1, IMAGES + 1)]
    annotations = [{'segmentation': [[number() for _ in range(2 * rng.randint(10, 40))]], 'area': number(),
                    'iscrowd': 0, 'image_id': 1 + i // ANNOTATIONS_PER_IMAGE,
                    'bbox': [number() for _ in range(4)], 'category_id': 1 + i % 80, 'id': i + 1}
                   for i in range(IMAGES * ANNOTATIONS_PER_IMAGE)]
    return {'info': {}, 'licenses': [], 'images': images, 'annotations': annotations,
            'categories': [{'supercategory': 'x', 'id': c, 'name': f'class {c}'} for c in range(1, 81)]}
