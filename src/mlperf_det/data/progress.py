"""Progress of long data work: a bar on a terminal, a line now and then otherwise (a batch job's log)."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts work done and shows it on standard error; a context manager.

    Args:
        label: what is done.
        total: the amount of work; None where it is not known.
        unit: 'bytes' or what is counted.
    """

    def __init__(self, label: str, total: int | None, unit: str = 'bytes') -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self._started = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            # Imported here: it takes longer than a small verification.
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            amount = [DownloadColumn(), TransferSpeedColumn()] if self.unit == 'bytes' else [MofNCompleteColumn()]
            self._bar = Progress(TextColumn('{task.description}'), BarColumn(), *amount, TimeRemainingColumn(),
                                 console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.label, total=self.total)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int) -> None:
        """Add work done (negative where work was lost and starts again)."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            sys.stderr.write(self._line() + '\n')
            sys.stderr.flush()

    def _line(self) -> str:
        scale, unit = (1e6, 'MB') if self.unit == 'bytes' else (1.0, self.unit)
        rate = self.done / max(time.monotonic() - self._started, 1e-9)
        if not self.total:
            return f'{self.label}: {self.done / scale:,.0f} {unit}, {rate / scale:,.1f} {unit}/s'
        left = _duration((self.total - self.done) / rate) if rate > 0 else 'unknown time'
        return (f'{self.label}: {self.done / scale:,.0f} of {self.total / scale:,.0f} {unit} '
                f'({self.done / self.total:.0%}), {rate / scale:,.1f} {unit}/s, {left} left at this rate')


def _duration(seconds: float) -> str:
    """Return seconds, minutes or hours, as precise as an estimate is."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 90 * 60 else f'{seconds / 3600:.1f} h'
