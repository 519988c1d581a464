"""Brings the whole job down, with the cause, when one rank fails, dies or hangs.

Each rank beats in the store the ranks share. The first failure is written there for all; rank 0 looks for silent
ranks, every rank for rank 0's silence, for a published failure, and for processes of its own host that have vanished.
A rank whose main thread does not end by itself after that (it may wait in a collective operation that never returns)
is ended by its watch, which leaves the stacks of all threads in the rank's log.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from mlperf_det.training.exit_codes import ExitCode

_FAILURE = 'failure'


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Seconds between beats, of silence until a rank counts as dead, and of grace for an orderly end."""

    beat: float = 1.0
    silence: float = 60.0
    grace: float = 10.0


@dataclass
class Watch:
    """A rank's watch over the others. Starts on entry, must be left on every path.

    Attributes:
        rank: this rank.
        size: number of ranks.
        store: a connection to the shared store of the watch's own, for it must answer while others wait in theirs.
        on_forced_exit: called with the cause just before the watch ends the process.
        log: the file for the stacks.
        rhythm: see `Rhythm`.
        activity: what the main thread does, told to all with each beat; the loop keeps it up to date.
    """

    rank: int
    size: int
    store: Store
    on_forced_exit: Callable[[str], None]
    log: Path
    rhythm: Rhythm = field(default_factory=Rhythm)
    activity: str = 'starting'
    #: what brought the job down, once known
    cause: str = ''
    _closing: threading.Event = field(default_factory=threading.Event)
    _known: threading.Event = field(default_factory=threading.Event)
    _heard: dict[int, tuple[bytes, float]] = field(default_factory=dict)
    _neighbours: dict[int, int] = field(default_factory=dict)
    _answered: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Watch:
        self.store.set(f'where/{self.rank}', f'{socket.gethostname()} {_pid_namespace()} {os.getpid()}')
        self._beat(0)
        self._answered = time.monotonic()
        self._thread = threading.Thread(target=self._run, name='rank-watch', daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_store, name='store-watch', daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._thread.join(self.rhythm.grace)

    def publish(self, message: str) -> str:
        """Tell all ranks of a failure; return the first one published, which is the cause."""
        try:
            first = self.store.compare_set(_FAILURE, '', message).decode()
        except (dist.DistError, RuntimeError):
            first = message
        self._conclude(first)
        return self.cause

    def find_cause(self) -> str:
        """Wait until the cause of a broken connection is known, as long as it takes to notice a silent rank."""
        self._known.wait(self.rhythm.silence + 4 * self.rhythm.beat)
        return self.cause

    def note(self, activity: str) -> None:
        """Keep in mind what the main thread does now."""
        self.activity = activity

    def whereabouts(self) -> str:
        """Return what each rank was doing at its last beat: where one hangs, the others wait for it elsewhere."""
        doing: dict[str, list[int]] = {}
        with contextlib.suppress(dist.DistError, RuntimeError):
            for rank in range(self.size):
                beat = self.store.get(f'beat/{rank}').decode() if self.store.check([f'beat/{rank}']) else ' not started'
                doing.setdefault(beat.partition(' ')[2], []).append(rank)
        return '; '.join(f'{_ranks(ranks)}: {activity}' for activity, ranks in doing.items())

    def _run(self) -> None:
        count = 0
        while not self._closing.wait(self.rhythm.beat):
            count += 1
            try:
                self._beat(count)
                message = self._look()
                self._answered = time.monotonic()
            except (dist.DistError, RuntimeError) as error:
                # A process loses its connections before it counts as ended. The store answers no question any more.
                time.sleep(self.rhythm.beat)
                gone = _dead(self._neighbours)
                # Rank 0 keeps the store. On another node it cannot be looked at, and here it may be a while in ending.
                message = _vanished(gone) if gone else (
                    f'{_vanished([0])}; its store no longer answers ({str(error).splitlines()[0][:120]})')
            if message:
                self._conclude(message)
                break
        if self._known.is_set() and not self._closing.wait(self.rhythm.grace):
            self._end_process()

    def _watch_store(self) -> None:
        """End the job where the store, which rank 0 serves, neither answers nor breaks the connection."""
        while not self._closing.wait(self.rhythm.beat):
            if time.monotonic() - self._answered > self.rhythm.silence:
                self._conclude(f'rank 0 silent for {self.rhythm.silence:.0f} s: host down, network lost, or process '
                               'stopped')
                if not self._closing.wait(self.rhythm.grace):
                    self._end_process()
                return

    def _beat(self, count: int) -> None:
        self.store.set(f'beat/{self.rank}', f'{count} {self.activity}')

    def _look(self) -> str:
        """Return what has brought the job down, or an empty string."""
        if self.store.check([_FAILURE]):
            return self.store.get(_FAILURE).decode()
        watched = [rank for rank in (range(1, self.size) if self.rank == 0 else [0])
                   if self.store.check([f'beat/{rank}'])]
        now = time.monotonic()
        beats = self.store.multi_get([f'beat/{rank}' for rank in watched]) if watched else []
        for rank, beat in zip(watched, beats, strict=True):
            if self._heard.get(rank, (b'', 0.0))[0] != beat:
                self._heard[rank] = (beat, now)
        silent = [rank for rank, (_, heard) in self._heard.items() if now - heard > self.rhythm.silence]
        self._meet_neighbours()
        gone = _dead(self._neighbours)
        if gone:
            # A rank that failed by itself has published why before it ended.
            time.sleep(self.rhythm.beat)
            return self._first(_vanished(gone))
        if silent:
            return self._first(f'{_ranks(silent)} silent for {self.rhythm.silence:.0f} s: host down, network lost, or '
                               'process stopped')
        return ''

    def _first(self, message: str) -> str:
        return self.store.compare_set(_FAILURE, '', message).decode()

    def _meet_neighbours(self) -> None:
        """Keep the process ids of the other ranks on this host, 0 for those on others, as far as they have come."""
        if len(self._neighbours) == self.size - 1:
            return
        here = f'{socket.gethostname()} {_pid_namespace()} '
        for rank in range(self.size):
            if rank != self.rank and rank not in self._neighbours and self.store.check([f'where/{rank}']):
                place = self.store.get(f'where/{rank}').decode()
                self._neighbours[rank] = int(place.removeprefix(here)) if place.startswith(here) else 0

    def _conclude(self, message: str) -> None:
        if not self._known.is_set():
            self.cause = message
            self._known.set()

    def _end_process(self) -> None:
        stacks = ''.join(f'\nThread {name}:\n{stack}' for name, stack in _stacks())
        text = f'rank {self.rank} was ended because {self.cause}\nIt stood here:\n{stacks}'
        try:
            sys.stderr.write(f'mlperf-det: rank {self.rank}: ended because {self.cause}; stacks in {self.log}\n')
            sys.stderr.flush()
            self.on_forced_exit(self.cause)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text(text, encoding='utf-8')
        finally:
            # Whatever cannot be written: nobody else would end this process.
            os._exit(ExitCode.FAILED)


def connect(host: str, port: int, timeout: timedelta) -> Store:
    """Return a connection of the watch's own to the store that serves the ranks."""
    return PrefixStore('watch', TCPStore(host, port, is_master=False, timeout=timeout))


def _ranks(ranks: list[int]) -> str:
    shown = ', '.join(map(str, ranks[:8])) + (f' and {len(ranks) - 8} more' if len(ranks) > 8 else '')
    return f'rank{"s" if len(ranks) > 1 else ""} {shown}'


def _vanished(ranks: list[int]) -> str:
    return (f'{_ranks(ranks)} vanished without a traceback: killed from outside, or out of memory (dmesg, sacct -o '
            'MaxRSS)')


def _dead(neighbours: Mapping[int, int]) -> list[int]:
    return [rank for rank, pid in neighbours.items() if pid and not _is_alive(pid)]


def _pid_namespace() -> str:
    try:
        return str(Path('/proc/self/ns/pid').readlink())
    except OSError:
        return f'unknown-{os.getpid()}'


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True
    return state not in 'ZX'


def _stacks() -> list[tuple[str, str]]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [(names.get(ident, str(ident)), ''.join(traceback.format_stack(frame)))
            for ident, frame in sys._current_frames().items()]
