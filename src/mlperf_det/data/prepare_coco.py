"""Trimming COCO annotation files to what box training and scoring read.

The rules are those of ``prepare-json.py`` in NVIDIA's MLPerf SSD submissions; the output has the same content.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Mapping, Sequence
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
#: what all annotations get that have the key at all
_CONSTANTS: Mapping[str, Any] = {'segmentation': (), 'area': 1.0}
#: What a writer leaves that does not write compactly; a match inside a string costs time, no more.
_SPACED = re.compile(rb'[][{},:"]\s')
_SAMPLE_BYTES = 4096
_BETWEEN_RECORDS = re.compile(rb'\}\s*,\s*\{')
#: Text decoded at a time: its records stay in the processor's cache, which saves a third of the time.
_PART_BYTES = 1 << 19
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
        trimmed = _trim_text(text, keep_keys)
    except msgspec.ValidationError as error:
        raise UserError(f'{source}: {error}; is this a COCO annotation file?') from error
    except OSError as error:
        raise UserError(f'{source}: cannot be read ({error.strerror})') from error
    except ValueError as error:  # not JSON, not UTF-8, or empty
        raise UserError(f'{source}: is not valid JSON ({error}); check its size and fetch it again') from error
    del text
    content = trimmed.json()
    if pretty:
        content = msgspec.json.format(content, indent=4)
    try:
        write_atomically(target, content)
    except OSError as error:
        raise UserError(f'{target}: cannot be written ({error.strerror})') from error
    return Trimmed(path=target, images=len(trimmed.images), annotations=trimmed.count)


def _trim_task(task: tuple[Path, Path, bool, bool]) -> Trimmed:
    source, target, keep_keys, pretty = task
    return trim(source, target, keep_keys=keep_keys, pretty=pretty)


class _TrimmedText:
    """What stays of a document: image records, the text of the annotations in pieces, the text of the categories."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.pieces: list[bytes] = []
        self.count = 0
        self.categories = b''

    def add(self, annotations: Sequence[Any]) -> None:
        """Append annotations in the form that they are written in."""
        if annotations:
            self.pieces.append(_compact(msgspec.json.encode(annotations))[1:-1])
            self.count += len(annotations)

    def json(self) -> bytes:
        """Return the document."""
        return b''.join((b'{"images":', msgspec.json.encode(self.images), b',"annotations":[', b','.join(self.pieces),
                         b'],"categories":', _compact(self.categories), b'}'))


def _compact(text: bytes) -> bytes:
    """Remove the spaces that raw values have kept, if the first ones show that the source has any."""
    return msgspec.json.format(text, indent=-1) if _SPACED.search(text, 0, _SAMPLE_BYTES) else text


def _trim_text(text: mmap.mmap, keep_keys: bool) -> _TrimmedText:
    """Trim by one pass in native code, which skips what no field asks for."""
    image_keys = [key for key in _first_keys(text, 'images') if key in _IMAGE_KEYS]
    keys = _first_keys(text, 'annotations')
    record = _record('Annotation', keys if keep_keys else [key for key in keys if key in _BOX_KEYS], _BOX_KEYS,
                     only=keep_keys)
    try:
        return _trim_in_parts(text, image_keys, record)
    except msgspec.DecodeError:
        pass  # Records differ in their keys, or are wrong, which a pass over the whole reports with their place.
    trimmed = _TrimmedText()
    whole = _document(image_keys, _record('Annotation', (), _BOX_KEYS) if keep_keys else record)
    document: Any = msgspec.json.decode(text, type=whole)
    if keep_keys:
        document = msgspec.json.decode(text, type=_document(image_keys, dict[str, msgspec.Raw]))
        for annotation in document.annotations:
            annotation.update((key, value) for key, value in _CONSTANTS.items() if key in annotation)
    trimmed.add(document.annotations)
    trimmed.images, trimmed.categories = document.images, bytes(document.categories)
    return trimmed


def _trim_in_parts(text: mmap.mmap, image_keys: Sequence[str], record: type[msgspec.Struct]) -> _TrimmedText:
    """Trim a document whose annotations have all the same keys, part by part.

    Raises:
        msgspec.DecodeError: the annotations have other keys, or something is wrong.
    """
    trimmed = _TrimmedText()
    constants = [(key, value) for key, value in _CONSTANTS.items() if key in record.__struct_fields__]

    def add(annotations: Sequence[Any]) -> None:
        for annotation in annotations:
            for key, value in constants:
                setattr(annotation, key, value)
        trimmed.add(annotations)

    found = _start_of('annotations', text)
    at = 0 if found is None else found.end()
    if found is not None:
        # Fails unless this is the table of the document itself, not one of the same name deeper inside.
        msgspec.json.decode(text[:found.end()] + b']}', type=msgspec.Struct)
        decoder = msgspec.json.Decoder(list[record])  # type: ignore[valid-type]
        while (between := _BETWEEN_RECORDS.search(text, at + _PART_BYTES)) is not None:
            try:
                # A part that decodes ends between two records of the table, whatever comes after.
                add(decoder.decode(b''.join((b'[', memoryview(text)[at:between.start() + 1], b']'))))
            except msgspec.DecodeError:
                break  # The table ends in this part.
            at = between.end() - 1
    start = text[:found.end()] if found is not None else b''
    document: Any = msgspec.json.decode(start + text[at:], type=_document(image_keys, record))
    add(document.annotations)
    trimmed.images, trimmed.categories = document.images, bytes(document.categories)
    return trimmed


def _document(image_keys: Sequence[str], annotation: Any) -> type[msgspec.Struct]:
    image = _record('Image', image_keys, _IMAGE_KEYS)
    return msgspec.defstruct('Document', [('images', list[image]), ('annotations', list[annotation]),  # type: ignore[valid-type]
                                          ('categories', msgspec.Raw)])


def _record(name: str, keys: Sequence[str], required: Sequence[str], *, only: bool = False) -> type[msgspec.Struct]:
    """Return the type of a record with those keys in that order, then the required ones; ``only`` refuses others."""
    types = {'id': int, 'image_id': int, 'category_id': int, 'height': int, 'width': int, 'file_name': str,
             'area': float}
    ordered = [*keys, *(key for key in required if key not in keys)]
    return msgspec.defstruct(name, [(key, types.get(key, msgspec.Raw)) for key in ordered], gc=False,
                             forbid_unknown_fields=only)


def _first_keys(text: mmap.mmap, table: str) -> list[str]:
    """Return the keys of the first record of a table, or none where it is not found: only their order hangs on it."""
    found = _start_of(table, text)
    if found is None:
        return []
    try:
        record, _ = json.JSONDecoder().raw_decode(text[found.end():found.end() + _FIRST_RECORD_BYTES].decode())
    except ValueError:
        return []
    # Keys become field names; of files with others the slower path takes care.
    usable = isinstance(record, dict) and all(key.isidentifier() and key[0] != '_' for key in record)
    return list(record) if usable else []


def _start_of(table: str, text: mmap.mmap) -> re.Match[bytes] | None:
    return re.search(rb'"%b"\s*:\s*\[\s*' % table.encode(), text)
