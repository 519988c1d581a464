"""Stop requests: SIGTERM and SIGUSR1 ask the run to write a checkpoint and end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: SIGTERM comes from schedulers and torchrun; SIGUSR1 from ``sbatch --signal=USR1@120``
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes a stop signal while it is entered; the loop looks at `received` when it polls."""

    def __init__(self) -> None:
        self.received: str = ''
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


@contextmanager
def shielded() -> Iterator[None]:
    """Start helper processes in this context: they inherit a mask that keeps stop signals from them.

    Schedulers signal every process of a job. A loader or scorer that died of it would take the checkpoint with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
