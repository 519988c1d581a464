"""The run folder at the start of an attempt, and run.json through its life."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.mllog.writer import cut
from mlperf_det.run_folder import (
    ATTEMPTS,
    METRICS_JSONL,
    RUN_JSON,
    Attempt,
    Outcome,
    RunRecord,
    log_name,
    read_record,
    write_record,
)
from mlperf_det.training.checkpoint import CheckpointStore, read_checkpoint

_ENDED = frozenset({Outcome.CONVERGED, Outcome.FINISHED, Outcome.ABORTED, Outcome.DIVERGED})


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an attempt begins.

    Attributes:
        earlier: the attempts before this one.
        checkpoint: the file to continue from; None: from the beginning.
        seed: of the run.
        notices: what the user should know, e.g. of a damaged checkpoint.
    """

    earlier: tuple[Attempt, ...] = ()
    checkpoint: Path | None = None
    seed: int
    notices: tuple[str, ...] = ()

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 0."""
        return len(self.earlier)


def open_folder(folder: Path, *, resume: bool, experiment: int, seed: int | None) -> Start:
    """Make the run folder ready for an attempt; called on rank 0 alone.

    On resume, log and metrics are cut back to the checkpoint, or, where none was written yet, emptied; the tails are
    kept in ``attempts/``. ``resume`` with a folder that is empty or absent starts a new run, so that a job script can
    always pass it.

    Raises:
        UserError: the folder holds something and ``resume`` was not asked for, the run has ended, or the experiment or
            the seed is not that of the run.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        return Start(seed=_new_seed() if seed is None else seed)
    if not resume:
        raise UserError(f'{folder}: is not empty; name another --output, or continue the run in it with --resume')
    record = read_record(folder)
    if record.outcome in _ENDED:
        raise UserError(f'{folder / RUN_JSON}: the run has ended ({record.outcome.value}: {record.reason}), there is '
                        'nothing to resume; name another --output')
    if record.log != log_name(experiment):
        raise UserError(f'{folder / RUN_JSON}: the run writes {record.log}; resume it with the --experiment it was '
                        'started with')
    if seed is not None and seed != record.seed:
        raise UserError(f'--seed {seed}: the run was started with seed {record.seed}; leave --seed out on --resume')
    path, notices = CheckpointStore(folder).find_newest()
    checkpoint = read_checkpoint(path) if path else None
    tails = folder / ATTEMPTS / str(len(record.attempts) - 1)
    tails.parent.mkdir(exist_ok=True)
    for name, offset in ((record.log, checkpoint.log_offset if checkpoint else 0),
                         (METRICS_JSONL, checkpoint.metrics_offset if checkpoint else 0)):
        if (folder / name).exists() or offset:
            cut(folder / name, offset, tails.with_suffix(Path(name).suffix))
    if checkpoint is None:
        notices = [*notices, f'{folder}: no checkpoint was written yet; starting from the beginning']
    return Start(earlier=record.attempts, checkpoint=path, seed=record.seed, notices=tuple(notices))


def _new_seed() -> int:
    return int.from_bytes(os.urandom(4), 'little')


class RecordKeeper:
    """Keeps run.json true: ``running`` from the start, the outcome at the end, whatever the end is.

    Rank 0 writes it. The failure that ends a run is written by the others as well, for rank 0 may be what was lost.
    """

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._record: RunRecord | None = None
        self.opened = False

    def open(self, record: RunRecord) -> None:
        """Write the record of a run that starts; its last attempt is the one that is under way."""
        if self._rank == 0:
            write_record(self._folder, record)
        self._record = record
        self.opened = True

    def close(self, outcome: Outcome, reason: str) -> None:
        """Write how the attempt ended; the first call counts. Nothing happens before `open`."""
        record, self._record = self._record, None
        if record is not None and self._rank != 0:
            record = self._left_open(record) if outcome is Outcome.FAILED else None
        if record is None:
            return
        last = replace(record.attempts[-1], ended=time.time(), reason=reason)
        write_record(self._folder, replace(record, outcome=outcome, reason=reason,
                                           attempts=(*record.attempts[:-1], last)))

    def _left_open(self, record: RunRecord) -> RunRecord | None:
        """Return what rank 0 wrote of this attempt if it has not closed it; None where this host does not see it."""
        try:
            found = read_record(self._folder)
        except UserError:
            return None
        return found if found.outcome is Outcome.RUNNING and len(found.attempts) == len(record.attempts) else None
