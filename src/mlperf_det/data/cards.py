"""Dataset cards: the one place that states names, files, sizes, checksums, licence and expected counts of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

import msgspec
import yaml

from mlperf_det.data.typed_yaml import convert, load_mapping
from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically
from mlperf_det.share import share_path
from mlperf_det.yaml_files import did_you_mean

#: a card of this name in a dataset's root describes a dataset that no shipped card does
ROOT_CARD = 'card.yaml'
_DIGEST_LENGTHS = MappingProxyType({'md5': 32, 'sha1': 40, 'sha256': 64})


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file the publisher offers for download.

    Attributes:
        name: file name.
        url: the publisher's address.
        bytes: size; None where no source states it.
        md5, sha1, sha256: hexadecimal digests; at least one is known.
        splits: splits that need the file; empty: fetched by name only.
        extract: members to unpack, a path or, ending in '/', a folder; empty: the file stays packed.
        unpacked_bytes_limit: most bytes the unpacked members may take together.
    """

    name: str
    url: str
    bytes: int | None = None
    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    splits: tuple[str, ...] = ()
    extract: tuple[str, ...] = ()
    unpacked_bytes_limit: int | None = None

    @property
    def digest(self) -> tuple[str, str]:
        """Algorithm and value of the strongest digest known."""
        known = {'sha256': self.sha256, 'sha1': self.sha1, 'md5': self.md5}
        return next((algorithm, value) for algorithm, value in known.items() if value is not None)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside an archive: size in bytes and SHA-256, each None where no source states it."""

    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitCard:
    """One split: image folder and annotation file relative to the root, and what they must contain.

    The counts of annotated images and of annotations are None where nobody published them.
    """

    images: str
    annotations: str
    image_count: int
    annotated_image_count: int | None
    annotation_count: int | None


@dataclass(frozen=True, kw_only=True)
class Card:
    """All facts of one dataset. Each ``kind`` has its own download, prepare and verify."""

    name: str
    kind: str
    title: str
    licence: Mapping[str, str]
    categories: int
    splits: Mapping[str, SplitCard]
    home: str = ''
    files: tuple[RemoteFile, ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict)
    #: what was spoilt on purpose, so that training must fail; empty for a dataset to learn from
    negative_control: str = ''

    def split(self, name: str) -> SplitCard:
        """Return a split.

        Raises:
            UserError: the dataset has no such split.
        """
        if name not in self.splits:
            raise UserError(f'{self.name}: has no split {name!r}; {did_you_mean(name, list(self.splits))}')
        return self.splits[name]

    def problems(self) -> list[str]:
        """Return what is wrong with the card's values, each as ``field: what is wrong``."""
        found = []
        for name, split in self.splits.items():
            found += [f'splits.{name}.{key}: {value!r} must be a path below the root'
                      for key, value in (('images', split.images), ('annotations', split.annotations))
                      if not is_relative(value)]
            if not 0 <= (split.annotated_image_count or 0) <= split.image_count or split.image_count < 1:
                found.append(f'splits.{name}: annotated_image_count ({split.annotated_image_count}) must lie between 0 '
                             f'and image_count ({split.image_count})')
        for remote in self.files:
            found += _file_problems(remote, self.splits)
        for path, member in self.members.items():
            if member.sha256 is not None and not is_hex(member.sha256, 64):
                found.append(f'members.{path}.sha256: is not 64 hexadecimal digits')
        if self.categories < 1 or not self.splits:
            found.append('categories, splits: at least one of each is needed')
        return found


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A published file that is kept as it is, at its place in the dataset's folder.

    Attributes:
        path: place relative to the root.
        url: the publisher's address.
        bytes: size; None where no source states it.
        sha256: None where nobody published one; then the first download records what it got.
    """

    path: str
    url: str
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class OpenImagesSplit(SplitCard):
    """One split of an Open Images subset; paths are relative to the root.

    Attributes:
        boxes: CSV of all boxes of the release.
        class_list: CSV of machine ids and display names of all classes of the release, with or without a header.
        image_list: CSV of the images that may be used, first column ``ImageID``; None: every image with boxes.
        image_url: address of the folder of ``<ImageID>.jpg``; empty: not offered for download.
        sources: the published files.
    """

    boxes: str
    class_list: str
    image_list: str | None = None
    image_url: str = ''
    sources: tuple[SourceFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ObjectClass:
    """A class: Open Images' machine id, which never changes, and its display name, which releases have changed."""

    mid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class OpenImagesCard(Card):
    """A subset of Open Images: the images with a box of at least one of its classes.

    ``classes`` are in the order of their category ids, from 0.
    """

    splits: Mapping[str, OpenImagesSplit]
    classes: tuple[ObjectClass, ...]

    def problems(self) -> list[str]:
        """See `Card.problems`."""
        found = super().problems()
        if len(self.classes) != self.categories:
            found.append(f'classes: {len(self.classes)} are listed, categories is {self.categories}')
        for what in ('mid', 'name'):
            values = [getattr(each, what) for each in self.classes]
            found += [f'classes: {what} {value!r} occurs more than once'
                      for value in sorted({value for value in values if values.count(value) > 1})]
        for name, split in self.splits.items():
            paths = [split.boxes, split.class_list, split.image_list, *(source.path for source in split.sources)]
            found += [f'splits.{name}: {path!r} must be a path below the root'
                      for path in paths if path is not None and not is_relative(path)]
            found += [f'splits.{name}.sources: {source.path}: sha256 is not 64 hexadecimal digits'
                      for source in split.sources if source.sha256 is not None and not is_hex(source.sha256, 64)]
        return found


#: kind -> its card; a kind with facts of its own derives from `Card`
CARD_TYPES: Mapping[str, type[Card]] = MappingProxyType({'coco': Card, 'openimages': OpenImagesCard})


def load_card(name: str, root: Path | None = None) -> Card:
    """Return the shipped card of that name, else the ``card.yaml`` of the dataset's root.

    A root cannot redefine a shipped dataset: its counts would prove nothing.

    Raises:
        UserError: there is no such card, or it is wrong.
    """
    shipped = shipped_cards()
    if name in shipped:
        return read_card(shipped[name])
    if root is not None and (root / ROOT_CARD).is_file():
        card = read_card(root / ROOT_CARD)
        if card.name != name:
            raise UserError(f'{root / ROOT_CARD}: describes {card.name!r}, not {name!r}; '
                            'name that dataset, or another folder')
        return card
    advice = did_you_mean(name, list(shipped))
    raise UserError(f'no dataset card {name!r}; {advice}' + (f' ({root} has no {ROOT_CARD})' if root else ''))


def shipped_cards() -> dict[str, Path]:
    """Return the files of the cards that come with this program, by name."""
    return {path.stem: path for path in sorted(share_path('datasets').glob('*.yaml')) if path.stem != 'backbones'}


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        UserError: names the file, the field and the nearest valid name.
    """
    content = load_mapping(path)
    kind = str(content.get('kind'))
    if kind not in CARD_TYPES:
        raise UserError(f'{path}: kind: {kind!r} is not a kind of dataset; {did_you_mean(kind, list(CARD_TYPES))}')
    card = convert(content, CARD_TYPES[kind], path)
    problems = card.problems()
    if problems:
        raise UserError(f'{path}: ' + '; '.join(problems))
    return card


def write_card(root: Path, card: Card) -> Path:
    """Write ``card.yaml`` into the root of a dataset that no shipped card describes.

    Raises:
        UserError: the card is wrong, or has the name of a shipped card.
    """
    problems = card.problems()
    if card.name in shipped_cards():
        problems.append(f'name: {card.name!r} is the name of a shipped card')
    if problems:
        raise UserError(f'{root / ROOT_CARD}: ' + '; '.join(problems))
    optional = {'home', 'files', 'members', 'negative_control'}
    content = {name: value for name, value in msgspec.to_builtins(card).items() if value or name not in optional}
    write_atomically(root / ROOT_CARD, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    return root / ROOT_CARD


def is_relative(path: str) -> bool:
    """Say whether a path stays below the folder it is joined to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith('/') and '..' not in parts and '\\' not in path and '\0' not in path


def is_hex(text: str, length: int) -> bool:
    """Say whether a text is a lower-case hexadecimal digest of that many digits."""
    return len(text) == length and set(text) <= set('0123456789abcdef')


def _file_problems(remote: RemoteFile, splits: Iterable[str]) -> list[str]:
    where = f'files.{remote.name}'
    known = {name: getattr(remote, name) for name in _DIGEST_LENGTHS}
    found = [f'{where}.{name}: is not {_DIGEST_LENGTHS[name]} hexadecimal digits'
             for name, value in known.items() if value is not None and not is_hex(value, _DIGEST_LENGTHS[name])]
    if not any(known.values()):
        found.append(f'{where}: has no checksum; state sha256')
    if '/' in remote.name or not is_relative(remote.name):
        found.append(f'{where}.name: must be a plain file name')
    if remote.bytes is not None and remote.bytes < 1:
        found.append(f'{where}.bytes: {remote.bytes} is not a size')
    found += [f'{where}.splits: {name!r} is no split of this dataset' for name in remote.splits if name not in splits]
    found += [f'{where}.extract: {path!r} must be a path below the root'
              for path in remote.extract if not is_relative(path)]
    if remote.extract and not remote.unpacked_bytes_limit:
        found.append(f'{where}.unpacked_bytes_limit: is needed to unpack the archive safely')
    return found
