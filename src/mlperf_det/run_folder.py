"""The run folder: the fixed, versioned layout of all that one training run leaves behind.

::

    result_0.txt          the MLPerf log (``result_<n>.txt`` for the n-th experiment, as in published results)
    run.json              what ran, where, with which software and data, and how it ended (`RunRecord`)
    metrics.jsonl         losses, rates and the time breakdown, a line an interval and rank
    checkpoints/          what `--resume` continues from
    attempts/             what earlier attempts wrote after the checkpoint that the run was resumed from
    rank_<r>.log          the traceback of a rank that failed

A published MLPerf result folder is a run folder that has only its logs. Imports neither torch nor pandas.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import msgspec

from mlperf_det.errors import UserError

SCHEMA_VERSION = 1
RUN_JSON = 'run.json'
METRICS_JSONL = 'metrics.jsonl'
CHECKPOINTS = 'checkpoints'
ATTEMPTS = 'attempts'


class Outcome(str, Enum):
    """How a training run ended, as the program itself saw it."""

    RUNNING = 'running'            # also what a run leaves that was killed without notice
    CONVERGED = 'converged'        # reached the quality target
    FINISHED = 'finished'          # did the steps it was asked for (throughput tier); no target was tried
    ABORTED = 'aborted'            # ran out of epochs below the target
    DIVERGED = 'diverged'          # a loss was not finite
    INTERRUPTED = 'interrupted'    # told to stop; a checkpoint lies ready
    FAILED = 'failed'              # an error; `reason` has it


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the program; a resumed run has several. Times are Unix seconds."""

    started: float
    ended: float | None = None
    resumed_from_step: int | None = None
    reason: str = ''


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of ``run.json``."""

    schema_version: int = SCHEMA_VERSION
    benchmark: str
    recipe: Mapping[str, Any]
    log: str
    seed: int
    #: one entry a host: name, ranks, device models, CPU model, cores, memory in bytes
    hosts: tuple[Mapping[str, Any], ...]
    #: package or driver -> version
    software: Mapping[str, str]
    #: resolved runtime settings: precision, memory format, compile, optimiser, workers, device, backend
    runtime: Mapping[str, Any]
    #: card name, root, fingerprint, images and annotations of each split
    dataset: Mapping[str, Any]
    #: file name and SHA-256 of the backbone weights; None: random initialisation
    backbone: Mapping[str, Any] | None
    #: path and digest of the container image; None outside a container
    image: Mapping[str, Any] | None
    #: relevant environment: SLURM_*, NCCL_*, OMP_* ...
    environment: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    outcome: Outcome = Outcome.RUNNING
    reason: str = ''


def log_name(experiment: int = 0) -> str:
    """Return the file name of the MLPerf log of the n-th experiment."""
    return f'result_{experiment}.txt'


def write_record(folder: Path, record: RunRecord) -> None:
    """Write ``run.json`` so that a reader sees the old or the new content, never a part."""
    write_atomically(folder / RUN_JSON, msgspec.json.format(msgspec.json.encode(record), indent=2) + b'\n')


def read_record(folder: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        UserError: the file is absent, not JSON, of a newer schema, or a field has the wrong type.
    """
    path = folder / RUN_JSON
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); is this a run folder?') from error
    return parse_record(content, path)


def parse_record(content: bytes, path: PurePath) -> RunRecord:
    """Return the record in the content of a ``run.json``, wherever that lies; raises as `read_record` does."""
    try:
        version = msgspec.json.decode(content, type=dict).get('schema_version')
        if version != SCHEMA_VERSION:
            raise UserError(f'{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}; '
                            'use the version of mlperf-det that wrote it')
        return msgspec.json.decode(content, type=RunRecord)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UserError(f'{path}: {error}') from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it into place."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with temporary.open('wb') as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
