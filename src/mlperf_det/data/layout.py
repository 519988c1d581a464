"""A verified dataset on disk: its manifest, and which files each split is read from.

::

    train2017/*.jpg  val2017/*.jpg
    annotations/instances_{train,val}2017.json             what the publisher ships
    annotations/bbox_only_instances_{train,val}2017.json   trimmed by ``data prepare``; used when present
    dataset.json                                           the manifest, written by ``data verify``
    card.yaml                                              the card, where no shipped card describes the dataset
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically

MANIFEST = 'dataset.json'
MANIFEST_VERSION = 2
PREPARED_PREFIX = 'bbox_only_'


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """A file of the dataset: path relative to the root, size in bytes, SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitManifest:
    """What ``data verify`` found in one split. Counts are those of the source annotation file."""

    #: image folder, relative to the root
    image_root: str
    images: int
    annotated_images: int
    #: images with a box of more than a pixel in width and height, crowds counted: what Mask R-CNN trains on
    substantial_images: int
    annotations: int
    #: original ids and names of the categories, in the order of the annotation file
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    #: the publisher's annotation file
    source: FileDigest
    #: the trimmed annotation file, if there was one
    prepared: FileDigest | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``dataset.json``."""

    schema_version: int = MANIFEST_VERSION
    card: str
    fingerprint: str
    #: whether every image was decoded, or only its header read (``verify --quick``)
    images_decoded: bool
    splits: Mapping[str, SplitManifest]
    #: what was spoilt on purpose, as the card declares it; empty for a dataset that a model can learn from
    negative_control: str = ''


@dataclass(frozen=True, kw_only=True)
class Split:
    """The files that one split is read from, and what its manifest says of them.

    Attributes:
        name: 'train' or 'val'.
        image_root: folder that the file names of the annotations are relative to.
        annotations: COCO annotation file for boxes (trimmed where ``data prepare`` was run).
        annotations_sha256: of that file when it was verified.
        source: the publisher's annotation file, with masks and true areas.
        source_sha256: of that file when it was verified.
        images: image records.
        annotated_images: images that at least one annotation names.
        substantial_images: images with a box of more than a pixel in width and height.
        annotation_count: annotation records.
        category_ids, category_names: of the annotation file, in its order.
    """

    name: str
    image_root: Path
    annotations: Path
    annotations_sha256: str
    source: Path
    source_sha256: str
    images: int
    annotated_images: int
    substantial_images: int
    annotation_count: int
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A verified dataset, as its manifest describes it; its files are read when they are needed."""

    card: str
    root: Path
    fingerprint: str
    splits: Mapping[str, Split]
    #: see `Manifest`
    negative_control: str = ''

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            UserError: the dataset was verified without this split.
        """
        if name not in self.splits:
            raise UserError(f'{self.root / MANIFEST}: has no split {name!r} (it has: {", ".join(self.splits)}); '
                            + _verify_first(self.card, self.root))
        return self.splits[name]

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` keeps of the dataset."""
        declared = {'negative_control': self.negative_control} if self.negative_control else {}
        return {
            'card': self.card, 'root': str(self.root), 'fingerprint': self.fingerprint, **declared,
            'splits': {split.name: {'images': split.images, 'annotated_images': split.annotated_images,
                                    'annotations': split.annotation_count, 'file': split.annotations.name}
                       for split in self.splits.values()}}


def open_dataset(card: str, root: Path) -> Dataset:
    """Open a verified dataset for training or evaluation.

    Reads the manifest alone, because MLPerf's clock starts when data is touched. That the annotation files have the
    size that was verified is checked here, their SHA-256 by `check_unchanged` when they are read.

    Args:
        card: name of the dataset card, e.g. 'coco2017'.
        root: folder of the dataset.

    Raises:
        UserError: the dataset was never verified, is another one, or its annotation files are absent or of another
            size.
    """
    root = root.absolute()
    manifest = read_manifest(card, root)
    if manifest.card != card:
        raise UserError(f'{root / MANIFEST}: is a manifest of {manifest.card!r}, not of {card!r}; '
                        'name the right folder, or ' + _verify_first(card, root))
    splits = {name: _open_split(name, found, card, root) for name, found in manifest.splits.items()}
    return Dataset(card=card, root=root, fingerprint=manifest.fingerprint, splits=splits,
                   negative_control=manifest.negative_control)


def check_unchanged(path: Path, sha256: str) -> Path:
    """Return an annotation file's path after comparing its content with what was verified.

    Raises:
        UserError: it cannot be read, or its SHA-256 is another.
    """
    try:
        unchanged = file_hash(path, 'sha256') == sha256
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not unchanged:
        raise UserError(f'{path}: changed since the dataset was verified; run `mlperf-det data verify` on it again')
    return path


def read_manifest(card: str, root: Path) -> Manifest:
    """Read ``dataset.json``.

    Raises:
        UserError: it is absent, unreadable or of another version; ``card`` serves for the advice only.
    """
    path = root / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise UserError(f'{path}: absent, the dataset was not verified; ' + _verify_first(card, root)) from error
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: {error}; ' + _verify_first(card, root)) from error
    if manifest.schema_version != MANIFEST_VERSION:
        raise UserError(f'{path}: schema_version is {manifest.schema_version}, this program reads {MANIFEST_VERSION}; '
                        + _verify_first(card, root))
    return manifest


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``dataset.json`` in one step."""
    write_atomically(root / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b'\n')


def prepared_path(annotations: Path) -> Path:
    """Return where ``data prepare`` puts the trimmed form of an annotation file."""
    return annotations.with_name(PREPARED_PREFIX + annotations.name)


def digest(path: Path, root: Path) -> FileDigest:
    """Return size and SHA-256 of a file below ``root``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        sha256 = file_hash(path, 'sha256')
        return FileDigest(path=path.relative_to(root).as_posix(), bytes=path.stat().st_size, sha256=sha256)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error


def file_hash(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    buffer = memoryview(bytearray(1 << 20))
    with path.open('rb', buffering=0) as stream:
        while count := stream.readinto(buffer):
            state.update(buffer[:count])
    return state.hexdigest()


def fingerprint(sources: Iterable[FileDigest], images: Iterable[tuple[str, int]]) -> str:
    """Return what identifies a dataset: a SHA-256 over its annotation digests and the names and sizes of its images.

    Trimmed annotation files do not count, because they follow from their sources.

    Args:
        sources: the publisher's annotation files.
        images: path relative to the root and size in bytes of each image, in any order.
    """
    state = hashlib.sha256()
    for source in sorted(sources, key=lambda found: found.path):
        state.update(f'{source.path}\0{source.sha256}\n'.encode())
    for name, size in sorted(images):
        state.update(f'{name}\0{size}\n'.encode())
    return f'sha256:{state.hexdigest()}'


def _open_split(name: str, found: SplitManifest, card: str, root: Path) -> Split:
    source = root / found.source.path
    chosen = found.source
    if prepared_path(source).exists():
        if found.prepared is None:
            raise UserError(f'{prepared_path(source)}: was made after the dataset was verified; '
                            + _verify_first(card, root))
        chosen = found.prepared
    path = root / chosen.path
    if not path.is_file() or path.stat().st_size != chosen.bytes:
        raise UserError(f'{path}: absent or changed since the dataset was verified; ' + _verify_first(card, root))
    image_root = root / found.image_root
    if not image_root.is_dir():
        raise UserError(f'{image_root}: the image folder is absent; ' + _verify_first(card, root))
    return Split(name=name, image_root=image_root, annotations=path, annotations_sha256=chosen.sha256, source=source,
                 source_sha256=found.source.sha256, images=found.images, annotated_images=found.annotated_images,
                 substantial_images=found.substantial_images, annotation_count=found.annotations,
                 category_ids=found.category_ids, category_names=found.category_names)


def _verify_first(card: str, root: Path) -> str:
    return f'run `mlperf-det data verify {card} --root {root}` first'
