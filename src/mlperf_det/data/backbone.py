"""Backbone weights: fetched or taken from a local file, identified by content, exported as plain arrays."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlperf_det.data.cards import is_hex, is_relative
from mlperf_det.data.detectron_pickle import read_detectron_pickle
from mlperf_det.data.fetch import DEFAULT_RETRIES, Retries, fetch
from mlperf_det.data.layout import file_hash
from mlperf_det.data.typed_yaml import convert, load_mapping
from mlperf_det.errors import UserError
from mlperf_det.share import share_path
from mlperf_det.yaml_files import did_you_mean

Arrays = dict[str, NDArray[np.float32]]
#: file name suffix of each export format
EXPORTS: Mapping[str, str] = {'npz': '.npz', 'safetensors': '.safetensors'}


@dataclass(frozen=True, kw_only=True)
class AcceptedFile:
    """A published weights file: its name, address and what its content must hash to (all that are stated)."""

    file: str
    url: str
    sha256_prefix: str | None = None
    sha512: str | None = None
    md5: tuple[str, ...] = ()
    note: str = ''


@dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A weights file that is easily taken for an accepted one."""

    file: str
    sha256_prefix: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class BackboneCard:
    """Which files may serve as a benchmark's backbone."""

    benchmark: str
    format: Literal['torch', 'detectron-pickle']
    accepted: tuple[AcceptedFile, ...]
    refused: tuple[RefusedFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Cards:
    backbones: Mapping[str, BackboneCard]


@dataclass(frozen=True, kw_only=True)
class VerifiedBackbone:
    """A local file whose content is that of a published weights file.

    Attributes:
        name: 'resnet34', 'resnext50' or 'r50-msra'.
        path: the local file, whatever it is called.
        published_as: name of the published file.
        sha256: digest of the content, hexadecimal.
        format: how the file is read.
    """

    name: str
    path: Path
    published_as: str
    sha256: str
    format: Literal['torch', 'detectron-pickle']


def load_backbone_cards(path: Path | None = None) -> Mapping[str, BackboneCard]:
    """Return the backbones by name.

    Raises:
        UserError: the card file is wrong; names the field.
    """
    path = path or share_path('datasets') / 'backbones.yaml'
    cards = convert(load_mapping(path), _Cards, path).backbones
    problems = [f'backbones.{name}.{problem}' for name, card in cards.items() for problem in _problems(card)]
    if problems:
        raise UserError(f'{path}: ' + '; '.join(problems))
    return cards


def backbone_card(name: str, cards: Mapping[str, BackboneCard] | None = None) -> BackboneCard:
    """Return one backbone's card.

    Raises:
        UserError: there is no such backbone.
    """
    cards = cards or load_backbone_cards()
    if name not in cards:
        raise UserError(f'no backbone {name!r}; {did_you_mean(name, list(cards))}')
    return cards[name]


def identify_backbone(name: str, path: Path, card: BackboneCard | None = None) -> VerifiedBackbone:
    """Check by its content that a local file is one of the accepted files of a backbone.

    Raises:
        UserError: it cannot be read, is a file that the benchmark does not allow, or is none that is known.
    """
    card = card or backbone_card(name)
    try:
        sha256 = file_hash(path, 'sha256')
        for refused in card.refused:
            if sha256.startswith(refused.sha256_prefix):
                raise UserError(f'{path}: is {refused.file}, which {name} does not accept: {refused.reason}')
        matches = [accepted for accepted in card.accepted if not _mismatch(path, accepted)]
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not matches:
        known = ', '.join(f'{accepted.file} ({_expectation(accepted)})' for accepted in card.accepted)
        raise UserError(f'{path}: has SHA-256 {sha256}, which is none of {known}; fetch it again with '
                        f'`mlperf-det data backbone {name} --output DIR`')
    return VerifiedBackbone(name=name, path=path, published_as=matches[0].file, sha256=sha256, format=card.format)


def obtain_backbone(name: str, output: Path, *, source: Path | None = None, mirror: str | None = None,
                    card: BackboneCard | None = None, retries: Retries = DEFAULT_RETRIES) -> VerifiedBackbone:
    """Put the verified weights file into a folder: a copy of a local file, or downloaded.

    Args:
        name: the backbone.
        output: the folder.
        source: a local file to take.
        mirror: address of a folder with the file, instead of the publisher's address.
        card: the backbone's card, by default the shipped one.
        retries: how often a download is tried again.

    Raises:
        UserError: the file cannot be had, or its content is not the published one.
    """
    card = card or backbone_card(name)
    output.mkdir(parents=True, exist_ok=True)
    if source is None:
        wanted = card.accepted[0]
        url = wanted.url if mirror is None else f'{mirror.rstrip("/")}/{wanted.file}'
        target = output / wanted.file
        fetch(url, target, check=lambda path: _mismatch(path, wanted), retries=retries)
        return identify_backbone(name, target, card)
    found = identify_backbone(name, source, card)
    target = output / found.published_as
    if not (target.exists() and target.samefile(source)):
        temporary = target.with_name(f'.{target.name}.part')
        try:
            shutil.copyfile(source, temporary)
            # The copy is checked too: the source may have changed meanwhile.
            identify_backbone(name, temporary, card)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return identify_backbone(name, target, card)


def read_arrays(backbone: VerifiedBackbone) -> Arrays:
    """Return the weights by name as float32, in the file's order and under its names.

    Integer entries (``num_batches_tracked``, which only some files have) are left out.

    Raises:
        UserError: the file holds anything else than named arrays.
    """
    if backbone.format == 'detectron-pickle':
        return read_detectron_pickle(backbone.path)
    # Imported here: seconds, and a login node may lack it.
    import torch

    try:
        state: Any = torch.load(backbone.path, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(f'{backbone.path}: cannot be loaded as weights ({_first_line(error)})') from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f'{backbone.path}: is not a mapping of names to tensors')
    return {name: tensor.float().contiguous().numpy() for name, tensor in state.items() if tensor.is_floating_point()}


def export_backbone(backbone: VerifiedBackbone, output: Path, form: str) -> Path:
    """Write the arrays for other frameworks: numpy ``.npz`` or ``.safetensors``, named after the published file.

    Raises:
        UserError: an unknown form, or weights that cannot be read.
    """
    if form not in EXPORTS:
        raise UserError(f'--export {form}: {did_you_mean(form, list(EXPORTS))}')
    arrays = read_arrays(backbone)
    target = output / (Path(backbone.published_as).stem + EXPORTS[form])
    temporary = target.with_name(f'.{target.stem}.part{target.suffix}')
    try:
        if form == 'npz':
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        else:
            from safetensors.numpy import save

            # Not by save_file(), which makes files that no other user may read.
            temporary.write_bytes(save(arrays, {'source': backbone.published_as, 'sha256': backbone.sha256}))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _mismatch(path: Path, accepted: AcceptedFile) -> str | None:
    """Return what of the content differs from what the card states, or None."""
    for algorithm, expected in _digests(accepted).items():
        found = file_hash(path, algorithm)
        if not found.startswith(expected):
            return f'the {algorithm} is {found}, expected: {" or ".join(expected)}'
    return None


def _digests(accepted: AcceptedFile) -> dict[str, tuple[str, ...]]:
    """Return algorithm -> allowed digests or beginnings of digests."""
    single = {'sha256': accepted.sha256_prefix, 'sha512': accepted.sha512}
    known: dict[str, tuple[str, ...]] = {name: (value,) for name, value in single.items() if value is not None}
    return {**known, 'md5': accepted.md5} if accepted.md5 else known


def _expectation(accepted: AcceptedFile) -> str:
    return ', '.join(f'{algorithm} {" or ".join(value[:16] for value in values)}…'
                     for algorithm, values in _digests(accepted).items())


def _problems(card: BackboneCard) -> list[str]:
    found = [] if card.accepted else ['accepted: is empty']
    for accepted in card.accepted:
        if not _digests(accepted):
            found.append(f'accepted.{accepted.file}: has no checksum')
        if '/' in accepted.file or not is_relative(accepted.file):
            found.append(f'accepted.{accepted.file}: must be a plain file name')
        if accepted.sha512 is not None and not is_hex(accepted.sha512, 128):
            found.append(f'accepted.{accepted.file}.sha512: is not 128 hexadecimal digits')
        found += [f'accepted.{accepted.file}.md5: {value!r} is not 32 hexadecimal digits'
                  for value in accepted.md5 if not is_hex(value, 32)]
    prefixes = [*(accepted.sha256_prefix for accepted in card.accepted), *(file.sha256_prefix for file in card.refused)]
    return found + [f'sha256_prefix: {prefix!r} is not 8 to 64 hexadecimal digits'
                    for prefix in prefixes if prefix is not None and not re.fullmatch('[0-9a-f]{8,64}', prefix)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
