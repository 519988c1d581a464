"""Checkpoints: written whole or not at all, verified before use, plain data that cannot run code."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.run_folder import CHECKPOINTS, write_atomically

FORMAT = 1
#: checkpoints that stay: the newest, and one to fall back to
KEPT = 2
#: recipe fields that may change between the attempts of a run: they alter neither losses nor the log
FREE_FIELDS = frozenset({'walltime_minutes', 'experiments', 'runtime.loader_workers', 'runtime.poll_interval'})


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run is.

    Attributes:
        step: optimiser steps done.
        epoch: completed epochs.
        iteration: optimiser steps done in the epoch under way; 0 at an epoch boundary.
        evaluation_due: the evaluation after ``epoch`` has not been scored yet.
    """

    step: int = 0
    epoch: int = 0
    iteration: int = 0
    evaluation_due: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run continues from; tensors on the CPU.

    Attributes:
        position: how far the run was.
        seed: of the run.
        model, optimizer, scaler: state dicts.
        rank_states: one entry a rank: ``random`` (from `random_state`) and ``buffers`` (those of its model's state).
        log_offset, metrics_offset: bytes of the MLPerf log and of metrics.jsonl that belong to this position.
        recipe: as plain values (`recipes.load.to_mapping`).
        dataset_fingerprint: of the data the run was trained on so far.
    """

    position: Position
    seed: int
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    rank_states: Sequence[Mapping[str, Any]]
    log_offset: int
    metrics_offset: int
    recipe: Mapping[str, Any]
    dataset_fingerprint: str


def recipe_digest(recipe: Recipe) -> str:
    """Return the SHA-256 of a recipe's fields that must not change within a run."""
    fields = {name: value for name, value in _flat(to_mapping(recipe)).items() if name not in FREE_FIELDS}
    return hashlib.sha256(msgspec.json.encode(fields, order='sorted')).hexdigest()


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of this rank's random generators: PyTorch's (CPU, and GPU if used) and NumPy's."""
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {'torch': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state(device) if device.type == 'cuda' else None,
            'numpy_keys': torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            'numpy_rest': [int(position), int(has_gauss), float(cached)]}


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set this rank's random generators to a state from `random_state`."""
    torch.set_rng_state(state['torch'])
    if device.type == 'cuda' and state['cuda'] is not None:
        torch.cuda.set_rng_state(state['cuda'], device)
    position, has_gauss, cached = state['numpy_rest']
    np.random.set_state(('MT19937', state['numpy_keys'].numpy().astype(np.uint32), position, has_gauss, cached))


class CheckpointStore:
    """The checkpoints of a run folder: ``checkpoints/step_<n>.pt``, each with a ``.sha256`` beside it."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / CHECKPOINTS

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and remove all but the newest `KEPT`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        payload = {**vars(checkpoint), 'format': FORMAT, 'position': vars(checkpoint.position)}
        torch.save(payload, buffer)
        content = buffer.getvalue()
        path = self.folder / f'step_{checkpoint.position.step:09d}.pt'
        # The checksum comes first: a checkpoint without one counts as unfinished.
        write_atomically(_sum_path(path), f'{hashlib.sha256(content).hexdigest()}  {path.name}\n'.encode())
        write_atomically(path, content)
        _sync_folder(self.folder)
        for old in self.paths()[KEPT:]:
            old.unlink()
            _sum_path(old).unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """Return the checkpoint files, newest first."""
        return sorted((path for path in self.folder.glob('step_*.pt') if re.fullmatch(r'step_\d+', path.stem)),
                      key=lambda path: int(path.stem.removeprefix('step_')), reverse=True)

    def find_newest(self) -> tuple[Path | None, list[str]]:
        """Return the newest undamaged checkpoint, None where there is none at all, and a notice for each damaged one.

        Raises:
            UserError: there are checkpoints, and all are damaged.
        """
        notices: list[str] = []
        for path in self.paths():
            try:
                read_checkpoint(path)
            except DamagedError as error:
                notices.append(f'{error}; falling back to the checkpoint before it')
            else:
                return path, notices
        if notices:
            raise UserError(f'{self.folder}: every checkpoint is damaged ({notices[0]}); remove the folder to start '
                            'anew')
        return None, notices


class DamagedError(UserError):
    """A checkpoint is not what was written."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after comparing it with its checksum.

    Raises:
        DamagedError: the file or its checksum is missing, or they do not fit.
        UserError: another version of the program wrote it.
    """
    try:
        content = path.read_bytes()
        expected = _sum_path(path).read_text().split()[0]
    except (OSError, IndexError) as error:
        raise DamagedError(f'{path}: cannot be read or has no checksum ({error})') from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamagedError(f'{path}: content does not match its checksum')
    payload = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    if payload.pop('format') != FORMAT:
        raise UserError(f'{path}: written by another version of mlperf-det; resume with that version')
    return Checkpoint(**{**payload, 'position': Position(**payload['position'])})


def check_resumable(checkpoint: Checkpoint, recipe: Recipe, world_size: int, fingerprint: str) -> None:
    """Check that a run may continue under this recipe, on this many ranks, with this dataset.

    Raises:
        UserError: names the first field that differs, its old and its new value.
    """
    if len(checkpoint.rank_states) != world_size:
        raise UserError(f'--resume: the run was started on {len(checkpoint.rank_states)} ranks, now there are '
                        f'{world_size}; start as many as before')
    old, new = _flat(checkpoint.recipe), _flat(to_mapping(recipe))
    for name in sorted(old.keys() | new.keys()):
        if name not in FREE_FIELDS and old.get(name) != new.get(name):
            raise UserError(f'--resume: recipe field {name} was {old.get(name)!r}, now it is {new.get(name)!r}; '
                            'resume with the recipe of the run, or start a new one in another --output')
    if checkpoint.dataset_fingerprint != fingerprint:
        raise UserError(f'--resume: the dataset has fingerprint {fingerprint}, the run was started on '
                        f'{checkpoint.dataset_fingerprint}; give the same --data')


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = value
    return flat


def _sum_path(path: Path) -> Path:
    return path.with_name(path.name + '.sha256')


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
