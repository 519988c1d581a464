"""Trimming COCO annotation files to what box training and scoring read.

The rules are those of ``prepare-json.py`` in NVIDIA's MLPerf SSD submissions; the output has the same content.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.data.cards import Card
from mlperf_det.data.layout import prepared_path
from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically

_IMAGE_KEYS = ('id', 'file_name', 'height', 'width')
_BOX_KEYS = ('image_id', 'bbox', 'category_id', 'id')
_EMPTY_LIST = msgspec.Raw(b'[]')
_ONE = msgspec.Raw(b'1.0')
#: what a writer leaves that does not write compactly; a match inside a string costs a second, no more
_SPACED = re.compile(rb'[][{},:"]\s')
#: the longest COCO record, a crowd mask, has some 40 kB
_FIRST_RECORD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """What was written: the file, its image records and its annotation records."""

    path: Path
    images: int
    annotations: int


def prepare_coco(card: Card, root: Path, *, keep_keys: bool = True, pretty: bool = False,
                 workers: int = 1) -> list[Trimmed]:
    """Write the trimmed form of the annotation file of each split beside it.

    Args:
        card: which files to trim.
        root: folder of the dataset.
        keep_keys: keep all keys of the annotations; False trims the training file further, while the validation file
            always keeps them, because a scorer needs ``area`` and ``iscrowd``.
        pretty: indent by 4.
        workers: files trimmed at the same time.

    Raises:
        UserError: an annotation file is absent or is not COCO ground truth.
    """
    sources = {name: root / split.annotations for name, split in card.splits.items()}
    absent = [str(path) for path in sources.values() if not path.is_file()]
    if absent:
        raise UserError(f'{", ".join(absent)}: absent; run `mlperf-det data download {card.name} --root {root}` first')
    tasks = [(path, prepared_path(path), keep_keys or name != 'train', pretty) for name, path in sources.items()]
    if min(workers, len(tasks)) == 1:
        return [_trim_task(task) for task in tasks]
    # Fresh processes: a fork would copy the threads' locks of whoever calls.
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context('spawn')) as pool:
        return list(pool.map(_trim_task, tasks))


def trim(source: Path, target: Path, *, keep_keys: bool, pretty: bool = False) -> Trimmed:
    """Trim one annotation file.

    Images keep ``id``, ``file_name``, ``height`` and ``width``; ``info`` and ``licenses`` go. With ``keep_keys``
    annotations keep all keys, ``segmentation`` becomes an empty list and ``area`` 1.0 (so AP by object size means
    nothing afterwards); without, they keep ``image_id``, ``bbox``, ``category_id`` and ``id``. No record is dropped,
    keys stay in the order of the first record, and numbers keep the digits they were written with.

    Raises:
        UserError: the source cannot be read, is not JSON or lacks a key; the target cannot be written.
    """
    try:
        with source.open('rb') as stream:
            # The map goes with the last raw value that points into it, so nothing here closes it.
            text = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        document = _decode(text, keep_keys)
    except msgspec.ValidationError as error:
        raise UserError(f'{source}: {error}; is this a COCO annotation file?') from error
    except OSError as error:
        raise UserError(f'{source}: cannot be read ({error.strerror})') from error
    except ValueError as error:  # not JSON, not UTF-8, or empty
        raise UserError(f'{source}: is not valid JSON ({error}); check its size and fetch it again') from error
    images, annotations = len(document.images), len(document.annotations)
    spaced = _SPACED.search(document.categories) is not None
    content = msgspec.json.encode(document)
    del document, text
    if pretty or spaced:
        content = msgspec.json.format(content, indent=4 if pretty else -1)
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(f'{target}: cannot be written ({error.strerror})') from error
    return Trimmed(path=target, images=images, annotations=annotations)


def _trim_task(task: tuple[Path, Path, bool, bool]) -> Trimmed:
    source, target, keep_keys, pretty = task
    return trim(source, target, keep_keys=keep_keys, pretty=pretty)


def _decode(text: mmap.mmap, keep_keys: bool) -> Any:
    """Return the trimmed document: one pass in native code, which skips what no field asks for."""
    image_keys = [key for key in _first_keys(text, 'images') if key in _IMAGE_KEYS]
    keys = _first_keys(text, 'annotations')
    box_keys = [key for key in keys if key in _BOX_KEYS]
    if not keep_keys:
        return msgspec.json.decode(text, type=_document(image_keys, _record('Annotation', box_keys, _BOX_KEYS)))
    try:
        annotation = _record('Annotation', keys, _BOX_KEYS, only=True)
        document: Any = msgspec.json.decode(text, type=_document(image_keys, annotation))
    except msgspec.ValidationError:
        # Records differ in their keys (or are wrong, which the second pass reports).
        return _decode_uneven(text, image_keys)
    for name, constant in (('segmentation', _EMPTY_LIST), ('area', _ONE)):
        if name in keys:
            for record in document.annotations:
                setattr(record, name, constant)
    return document


def _decode_uneven(text: mmap.mmap, image_keys: Sequence[str]) -> Any:
    """Decode annotations of differing keys: slower, any keys, the four of a box required."""
    required = _record('Annotation', (), _BOX_KEYS)
    msgspec.json.decode(text, type=_document(image_keys, required))
    document: Any = msgspec.json.decode(text, type=_document(image_keys, dict[str, msgspec.Raw]))
    for record in document.annotations:
        for name, constant in (('segmentation', _EMPTY_LIST), ('area', _ONE)):
            if name in record:
                record[name] = constant
    return document


def _document(image_keys: Sequence[str], annotation: Any) -> type[msgspec.Struct]:
    image = _record('Image', image_keys, _IMAGE_KEYS)
    return msgspec.defstruct('Document', [('images', list[image]), ('annotations', list[annotation]),  # type: ignore[valid-type]
                                          ('categories', msgspec.Raw)])


def _record(name: str, keys: Sequence[str], required: Sequence[str], *, only: bool = False) -> type[msgspec.Struct]:
    """Return the type of a record with those keys in that order, then the required ones; ``only`` refuses others."""
    types = {'id': int, 'image_id': int, 'category_id': int, 'height': int, 'width': int, 'file_name': str}
    ordered = [*keys, *(key for key in required if key not in keys)]
    return msgspec.defstruct(name, [(key, types.get(key, msgspec.Raw)) for key in ordered], gc=False,
                             forbid_unknown_fields=only)


def _first_keys(text: mmap.mmap, table: str) -> list[str]:
    """Return the keys of the first record of a table, or none where it is not found: only their order hangs on it."""
    found = re.search(rb'"%b"\s*:\s*\[\s*' % table.encode(), text)
    if found is None:
        return []
    try:
        record, _ = json.JSONDecoder().raw_decode(text[found.end():found.end() + _FIRST_RECORD_BYTES].decode())
    except ValueError:
        return []
    # Keys become field names; of files with others the slower path takes care.
    usable = isinstance(record, dict) and all(key.isidentifier() and key[0] != '_' for key in record)
    return list(record) if usable else []
