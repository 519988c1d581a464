"""Verifying a dataset in COCO layout against its card; a good one gets its manifest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.cards import Card, SplitCard
from mlperf_det.data.layout import (
    MANIFEST,
    FileDigest,
    Manifest,
    SplitManifest,
    digest,
    fingerprint,
    prepared_path,
    write_manifest,
)
from mlperf_det.data.verify_images import ImageFinding, inspect_images
from mlperf_det.errors import UserError

_LISTED = 10
_CONSEQUENCES = {
    'grayscale': 'grayscale images, converted to RGB when read',
    'cmyk': 'CMYK images, converted to RGB when read',
    'other mode': 'images of another colour mode, converted to RGB when read',
    'exif rotated': 'images with an EXIF orientation, which is ignored: they are read as stored',
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something noteworthy: a problem makes the dataset unusable, a notice does not.

    Attributes:
        split: the split.
        message: what is wrong (or unusual, with the behaviour it meets).
        count: records or files concerned.
        examples: the first of them.
    """

    split: str
    message: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        listed = ': ' + ', '.join(self.examples) if self.examples else ''
        more = f' and {self.count - len(self.examples):,} more' if 0 < len(self.examples) < self.count else ''
        return f'{self.split}: {self.message}{listed}{more}'


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of one verification; the dataset is good if there are no problems."""

    card: str
    root: Path
    images_decoded: bool
    fingerprint: str | None = None
    problems: tuple[Finding, ...] = ()
    notices: tuple[Finding, ...] = ()
    splits: dict[str, SplitManifest] = field(default_factory=dict)


@dataclass
class SplitReport:
    """What the checks of one split gather; ``images`` are the paths and sizes that its fingerprint covers."""

    name: str
    problems: list[Finding] = field(default_factory=list)
    notices: list[Finding] = field(default_factory=list)
    images: list[tuple[str, int]] = field(default_factory=list)
    manifest: SplitManifest | None = None

    def problem(self, message: str, examples: Sequence[str] = ()) -> None:
        """Add what makes the dataset unusable."""
        self.problems.append(_finding(self.name, message, examples))

    def notice(self, message: str, examples: Sequence[str] = ()) -> None:
        """Add what is unusual, with the behaviour that it meets."""
        self.notices.append(_finding(self.name, message, examples))


#: (card, root, annotations, digest of their file, report) -> None: what a kind of dataset checks besides
FurtherCheck = Callable[[Card, Path, Annotations, FileDigest, SplitReport], None]


def verify_coco(card: Card, root: Path, *, quick: bool = False, workers: int = 1, splits: Sequence[str] = (),
                further: FurtherCheck | None = None) -> Verification:
    """Check annotations and images of a dataset; write the manifest if all is good, else remove an earlier one.

    Checked are: size and SHA-256 of annotation files that the card knows, the counts of the card, unknown images in
    annotations, the trimmed annotation files against their sources, and that every image exists, can be read and has
    the stated size.

    Args:
        card: what to expect.
        root: folder of the dataset.
        quick: read only the headers of images instead of decoding them.
        workers: processes that read images.
        splits: splits to verify; empty: all.
        further: called for each split whose annotations could be read, after the checks above.

    Raises:
        UserError: an unknown split, or the manifest cannot be written.
    """
    root = root.absolute()
    reports = [_verify_split(card, name, root, decode=not quick, workers=workers, further=further)
               for name in splits or card.splits]
    result = Verification(
        card=card.name, root=root, images_decoded=not quick,
        problems=tuple(problem for report in reports for problem in report.problems),
        notices=tuple(notice for report in reports for notice in report.notices),
        splits={report.name: report.manifest for report in reports if report.manifest is not None})
    try:
        if result.problems:
            (root / MANIFEST).unlink(missing_ok=True)
            return result
        mark = fingerprint((split.source for split in result.splits.values()),
                           (image for report in reports for image in report.images))
        write_manifest(root, Manifest(card=card.name, fingerprint=mark, images_decoded=not quick, splits=result.splits,
                                      negative_control=card.negative_control))
        return replace(result, fingerprint=mark)
    except OSError as error:
        raise UserError(f'{root / MANIFEST}: cannot be written ({error.strerror}); verify as the owner of the folder'
                        ) from error


def _verify_split(card: Card, name: str, root: Path, *, decode: bool, workers: int,
                  further: FurtherCheck | None) -> SplitReport:
    split = card.split(name)
    report = SplitReport(name)
    path = root / split.annotations
    try:
        source = digest(path, root)
        _check_digest(card, source, report)
        truth = read_annotations(path, on_unknown_image='drop')
    except UserError as error:
        report.problem(str(error))
        return report
    _check_annotations(card, split, truth, report)
    if further is not None:
        further(card, root, truth, source, report)
    prepared = _check_prepared(truth, path, root, report)
    folder = root / split.images
    if not folder.is_dir():
        report.problem(f'{folder}: the image folder is absent; '
                       f'run `mlperf-det data download {card.name} --root {root}`')
        return report
    images = list(zip(truth.file_names, truth.heights.tolist(), truth.widths.tolist(), strict=True))
    findings = inspect_images(folder, images, decode=decode, workers=workers, label=f'{name}: images')
    _check_images(folder, findings, report)
    report.images = [(f'{split.images}/{finding.name}', finding.bytes) for finding in findings]
    report.manifest = SplitManifest(
        image_root=split.images, images=len(truth), annotated_images=int((truth.boxes_per_image > 0).sum()),
        substantial_images=_substantial_images(truth), annotations=_annotation_count(truth),
        category_ids=tuple(truth.category_ids.tolist()), category_names=truth.category_names, source=source,
        prepared=prepared)
    return report


def _check_digest(card: Card, source: FileDigest, report: SplitReport) -> None:
    expected = card.members.get(source.path)
    if expected is None:
        return
    if expected.bytes not in (None, source.bytes):
        report.problem(f'{source.path}: has {source.bytes:,} bytes, the card states {expected.bytes:,}')
    if expected.sha256 not in (None, source.sha256):
        report.problem(f'{source.path}: SHA-256 is {source.sha256}, the card states {expected.sha256}')


def _check_annotations(card: Card, split: SplitCard, truth: Annotations, report: SplitReport) -> None:
    annotated = int((truth.boxes_per_image > 0).sum())
    counts = (('images', len(truth), split.image_count),
              ('images with boxes', annotated, split.annotated_image_count),
              ('annotations', _annotation_count(truth), split.annotation_count),
              ('categories', len(truth.category_ids), card.categories))
    for what, found, expected in counts:
        if expected is not None and found != expected:
            report.problem(f'{split.annotations}: has {found:,} {what}, the card states {expected:,}')
    if not truth.scorable:
        report.problem(f'{split.annotations}: annotations lack area or iscrowd, so they cannot be scored; '
                       'is it a trimmed file?')
    if truth.unknown_images:
        report.problem(f'{split.annotations}: annotations name images that have no record, by annotation id',
                       [str(identity) for identity in truth.unknown_images])
    if truth.degenerate:
        report.notice(f'boxes without area ({truth.degenerate:,}), left out when read; their images stay')
    if annotated < len(truth):
        report.notice(f'images without boxes ({len(truth) - annotated:,}), not trained on, counted in evaluation')


def _check_prepared(truth: Annotations, source: Path, root: Path, report: SplitReport) -> FileDigest | None:
    """Compare the trimmed annotation file, if there is one, with its source."""
    path = prepared_path(source)
    if not path.is_file():
        return None
    try:
        trimmed = read_annotations(path, on_unknown_image='drop')
        found = digest(path, root)
    except UserError as error:
        report.problem(str(error))
        return None
    columns = ('image_ids', 'heights', 'widths', 'category_ids', 'offsets', 'boxes', 'labels', 'annotation_ids')
    different = [name for name in columns if not np.array_equal(getattr(truth, name), getattr(trimmed, name))]
    different += ['file_names'] if truth.file_names != trimmed.file_names else []
    if trimmed.scorable and not np.array_equal(truth.crowd, trimmed.crowd):
        different.append('crowd')
    if not trimmed.scorable and report.name != 'train':
        report.problem(f'{found.path}: lacks area or iscrowd, so it cannot be scored; prepare it with --keep-keys')
    if different:
        report.problem(f'{found.path}: differs from {source.name} in {", ".join(different)}; '
                       'delete it, or run `mlperf-det data prepare` again')
    return found


def _check_images(folder: Path, findings: Sequence[ImageFinding], report: SplitReport) -> None:
    by_problem: dict[str, list[str]] = defaultdict(list)
    by_notice: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if finding.problem:
            detail = '' if finding.problem == 'missing' else f' ({finding.detail})'
            by_problem[finding.problem].append(finding.name + detail)
        for notice in finding.notices:
            by_notice[notice].append(finding.name)
    for kind, names in by_problem.items():
        report.problem(f'images {kind} in {folder} ({len(names):,})', names)
    for kind, names in by_notice.items():
        report.notice(f'{_CONSEQUENCES[kind]} ({len(names):,})', names)
    named = {finding.name for finding in findings}
    extra = sorted(entry.name for entry in folder.iterdir() if entry.is_file() and entry.name not in named)
    if extra:
        report.notice(f'files in {folder} that the annotations do not name, not used ({len(extra):,})', extra)


def _annotation_count(truth: Annotations) -> int:
    return len(truth.boxes) + truth.degenerate + len(truth.unknown_images)


def _substantial_images(truth: Annotations) -> int:
    image_of = np.repeat(np.arange(len(truth)), truth.boxes_per_image)
    return len(np.unique(image_of[(truth.boxes[:, 2:] > 1).all(axis=1)]))


def _finding(split: str, message: str, examples: Sequence[str]) -> Finding:
    return Finding(split=split, message=message, count=max(len(examples), 1), examples=tuple(examples[:_LISTED]))
