"""Where the time of a rank goes, without making the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

#: Parts of an epoch, in seconds: waiting for data, training steps, inference and gathering for an evaluation,
#: waiting for a score, writing checkpoints.
PHASES = ('data_wait', 'step', 'evaluation', 'score_wait', 'checkpoint')


@dataclass
class Stopwatch:
    """Adds up seconds by phase.

    On a GPU a step is timed by events on the device, and waiting for data counts only as far as the device was idle
    meanwhile: the host fetches while the device computes. Events are read in `settle`, after a synchronisation.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    _events: list[tuple[float, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    _last: torch.cuda.Event | None = None
    _fetch_wait: float = 0.0

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the host's seconds in this context to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Measure one wait for a batch."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._fetch_wait = time.perf_counter() - start
            if self.device.type != 'cuda':
                self.seconds['data_wait'] += self._fetch_wait

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Measure one training step; on a GPU only two events are queued."""
        if self.device.type != 'cuda':
            with self.measure('step'):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._events.append((self._fetch_wait, begin, end))

    def settle(self) -> None:
        """Read the events of all steps since the last call; the device must have finished them."""
        for host_wait, begin, end in self._events:
            idle = self._last.elapsed_time(begin) / 1000 if self._last else host_wait
            self.seconds['data_wait'] += min(host_wait, idle)
            self.seconds['step'] += begin.elapsed_time(end) / 1000
            self._last = end
        self._events.clear()

    def take(self) -> dict[str, float]:
        """Return the seconds by phase since the last call and start again from zero."""
        taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken
