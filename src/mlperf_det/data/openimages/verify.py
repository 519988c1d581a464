"""Verifying an Open Images subset: what every dataset in COCO form must be, and the classes and boxes of the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlperf_det.data.annotation_cache import columns_path, write_columns
from mlperf_det.data.annotations import Annotations
from mlperf_det.data.cards import Card, OpenImagesCard
from mlperf_det.data.layout import FileDigest
from mlperf_det.data.openimages.boxes import SubsetBoxes, class_counts, group_count, read_subset
from mlperf_det.data.openimages.prepare import check_sources
from mlperf_det.data.openimages.renumber import counts_from_one
from mlperf_det.data.verify import SplitReport, Verification, verify_coco
from mlperf_det.errors import UserError


def verify_openimages(card: OpenImagesCard, root: Path, *, quick: bool = False, workers: int = 1,
                      splits: Sequence[str] = ()) -> Verification:
    """Check a subset as `verify.verify_coco` does, and besides: the number and order of its classes, that categories
    count from 0, the sizes of the published files, and images, boxes of each class and group-of boxes against the CSV
    that they come from. Columns for a quick start of training are written beside the annotation files.

    Raises:
        UserError: an unknown split, or the manifest cannot be written.
    """
    return verify_coco(card, root, quick=quick, workers=workers, splits=splits, further=_check_openimages)


def _check_openimages(card: Card, root: Path, truth: Annotations, source: FileDigest, report: SplitReport) -> None:
    assert isinstance(card, OpenImagesCard)
    _check_classes(card, truth, report)
    split = card.splits[report.name]
    if (root / split.boxes).is_file():
        try:
            check_sources(card, split, root)
            _check_boxes(card, truth, read_subset(card, split, root), report)
        except UserError as error:
            report.problem(str(error))
    else:
        report.notice(f'{split.boxes}: absent, so the boxes were not compared with those published')
    try:
        write_columns(truth, source.sha256)
    except OSError as error:
        report.notice(f'{columns_path(truth.path)}: cannot be written ({error.strerror}); training starts slowly')


def _check_classes(card: OpenImagesCard, truth: Annotations, report: SplitReport) -> None:
    file, names = truth.path.name, [each.name for each in card.classes]
    ids, found = truth.category_ids.tolist(), list(truth.category_names)
    if counts_from_one(ids):
        report.problem(f'{file}: categories are numbered 1 to {len(ids)}, the benchmark needs 0 to {len(ids) - 1}; '
                       f'run `mlperf-det data prepare {card.name}`, which renumbers them')
    elif ids != list(range(len(ids))):
        report.problem(f'{file}: category ids are not 0, 1, 2 ... in this order (from {min(ids)} to {max(ids)})')
    absent, foreign = ([name for name in some if name not in set(others)]
                       for some, others in ((names, found), (found, names)))
    if absent:
        report.problem(f'{file}: categories that the card lists are missing ({len(absent)})', absent)
    if foreign:
        report.problem(f'{file}: categories that the card does not list ({len(foreign)})', foreign)
    if not absent and not foreign and found != names:
        place = next(index for index, pair in enumerate(zip(found, names, strict=True)) if pair[0] != pair[1])
        report.problem(f'{file}: categories are in another order than the card states: number {place} is '
                       f'{found[place]!r}, not {names[place]!r}; delete the file and prepare again')


def _check_boxes(card: OpenImagesCard, truth: Annotations, subset: SubsetBoxes, report: SplitReport) -> None:
    """Compare images and boxes with the CSV."""
    file, stated = truth.path.name, {f'{image_id}.jpg' for image_id in subset.image_ids}
    present = set(truth.file_names)
    for message, names in (('images of the subset are not in it', stated - present),
                           ('images in it are not of the subset', present - stated)):
        if names:
            report.problem(f'{file}: {message} ({len(names):,})', sorted(names))
    if len(truth.category_ids) != card.categories:
        return  # already named; class counts would differ for that reason alone
    counts = np.bincount(truth.labels, minlength=card.categories)
    expected = class_counts(subset, card.categories)
    if _is_shifted(counts, expected):
        report.problem(f'{file}: boxes are off by one category: each class has the boxes of its neighbour; '
                       'delete the file and prepare again')
    elif (counts != expected).any():
        wrong = np.flatnonzero(counts != expected)
        report.problem(f'{file}: boxes of {len(wrong)} classes differ in number from those of the CSV',
                       [f'{card.classes[index].name} {counts[index]:,} instead of {expected[index]:,}'
                        for index in wrong])
    groups = group_count(subset)
    if int(truth.crowd.sum()) != groups:
        report.problem(f'{file}: {int(truth.crowd.sum()):,} boxes have iscrowd, {groups:,} of the CSV are group-of or '
                       'unknown; delete the file and prepare again')


def _is_shifted(counts: NDArray[np.int64], expected: NDArray[np.int64]) -> bool:
    return bool((counts != expected).any()) and any(
        np.array_equal(np.roll(counts, step), expected) for step in (-1, 1))
