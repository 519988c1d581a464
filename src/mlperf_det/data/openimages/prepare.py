"""From Google's CSV files and images to the annotation files of an Open Images subset.

Below the root, for each split (the layout of FiftyOne's export, which the MLPerf reference uses)::

    data/<ImageID>.jpg
    metadata/{classes.csv, hierarchy.json, image_ids.csv}
    labels/detections.csv              boxes of all classes, as published
    labels/openimages-mlperf.json      written here: boxes of the listed classes, COCO form

and ``info.json`` in the root.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from mlperf_det import __version__
from mlperf_det.data.cards import OpenImagesCard, OpenImagesSplit
from mlperf_det.data.jpeg_header import ImageSizes, read_sizes
from mlperf_det.data.openimages.boxes import read_class_list, read_subset, renamed_classes
from mlperf_det.data.openimages.coco_json import MADE_BY, write_annotations
from mlperf_det.data.openimages.renumber import category_list, counts_from_one, renumber
from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically

INFO = 'info.json'
#: enough of an annotation file to see ``info``, its first entry
_HEAD_BYTES = 4096
_LISTED = 3


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What became of one split: its annotation file, and how it came to be ('written', 'kept' or 'renumbered')."""

    path: Path
    action: str
    images: int | None = None
    boxes: int | None = None


def prepare_openimages(card: OpenImagesCard, root: Path, *, workers: int = 1,
                       report: Callable[[str], None] = lambda _: None) -> list[Prepared]:
    """Make the annotation file of each split.

    An annotation file that another program exported is kept; if its categories count from 1, as FiftyOne's do since
    version 1.2, they are renumbered to count from 0. Everything else is converted from the CSV of boxes anew; the bytes
    of the result depend neither on ``workers`` nor on earlier runs.

    Args:
        card: the subset.
        root: folder of the dataset.
        workers: processes and threads.
        report: receives notices, a line each.

    Raises:
        UserError: a source is absent, cut off or does not fit the card; an image is missing or no image; an
            annotation file cannot be written.
    """
    prepared = []
    for name, split in card.splits.items():
        path = root / split.annotations
        try:
            if path.is_file() and not _is_ours(path):
                prepared.append(_adopt(path, report))
            else:
                prepared.append(_convert(card, name, root, workers, report))
        except OSError as error:
            raise UserError(f'{error.filename or path}: cannot be read or written ({error.strerror})') from error
    write_atomically(root / INFO, msgspec.json.format(msgspec.json.encode(_info(card, prepared)), indent=2) + b'\n')
    return prepared


def check_sources(card: OpenImagesCard, split: OpenImagesSplit, root: Path) -> None:
    """Hold the sizes of the published files against the card.

    Raises:
        UserError: one is shorter or longer than published, such as a download that broke off.
    """
    for source in split.sources:
        path = root / source.path
        if path.is_file() and source.bytes not in (None, path.stat().st_size):
            raise UserError(f'{path}: has {path.stat().st_size:,} bytes, the card states {source.bytes:,}; delete it '
                            f'and run `mlperf-det data download {card.name} --root {root}`')


def _is_ours(path: Path) -> bool:
    with path.open('rb') as stream:
        return MADE_BY.encode() in stream.read(_HEAD_BYTES)


def _adopt(path: Path, report: Callable[[str], None]) -> Prepared:
    """Keep the annotation file of another program, renumbered if necessary."""
    ids = [identity for identity, _ in category_list(path)]
    if counts_from_one(ids):
        renumber(path)
        report(f'notice: {path}: categories were numbered 1 to {len(ids)}, as FiftyOne 1.2 does; renumbered to 0 to '
               f'{len(ids) - 1}')
        return Prepared(path=path, action='renumbered')
    report(f'notice: {path}: is an export of another program and is kept; delete it to convert the CSV instead')
    return Prepared(path=path, action='kept')


def _convert(card: OpenImagesCard, name: str, root: Path, workers: int, report: Callable[[str], None]) -> Prepared:
    split = card.splits[name]
    if not (root / split.boxes).is_file():
        raise UserError(f'{root / split.boxes}: absent; run `mlperf-det data download {card.name} --root {root}` first')
    check_sources(card, split, root)
    subset = read_subset(card, split, root)
    for renaming in renamed_classes(card.classes, read_class_list(root / split.class_list)):
        report(f'notice: {name}: the class list has an older name: {renaming}; the machine id is the same')
    if subset.unknown_flags:
        report(f'notice: {name}: {subset.unknown_flags:,} boxes have a flag that is -1 (unknown), written as true, as '
               'the MLPerf reference does')
    names = (subset.image_ids + '.jpg').to_list()
    found = read_sizes(root / split.images, names, workers=workers, label=f'{name}: image headers')
    _refuse_unusable(card, root, root / split.images, found)
    target = root / split.annotations
    target.parent.mkdir(parents=True, exist_ok=True)
    write_annotations(target, f'{card.title}, {name}', card.classes, subset, found.sizes, workers=workers)
    return Prepared(path=target, action='written', images=len(subset.image_ids), boxes=len(subset.boxes))


def _refuse_unusable(card: OpenImagesCard, root: Path, folder: Path, found: ImageSizes) -> None:
    if found.missing:
        raise UserError(f'{folder}: {len(found.missing):,} of {len(found.sizes):,} images are missing '
                        f'({_some(found.missing)}); run `mlperf-det data download {card.name} --root {root}`')
    if found.unreadable:
        raise UserError(f'{folder}: {len(found.unreadable):,} images cannot be read: {_some(found.unreadable)}; '
                        'delete them and download them again')


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_LISTED]) + (' ...' if len(names) > _LISTED else '')


def _info(card: OpenImagesCard, prepared: Sequence[Prepared]) -> dict[str, Any]:
    """Return the content of ``info.json``: which dataset this is, from what, made how."""
    return {
        'name': card.name, 'title': card.title, 'licence': dict(card.licence),
        'classes': [each.name for each in card.classes],
        'software': {'mlperf-det': __version__, 'polars': pl.__version__, 'python': platform.python_version()},
        'splits': {name: {
            'annotations': split.annotations, 'action': result.action, 'images': result.images, 'boxes': result.boxes,
            'sources': {source.path: source.url for source in split.sources}}
            for (name, split), result in zip(card.splits.items(), prepared, strict=True)}}
