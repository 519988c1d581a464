"""What a person watching the run sees on stderr: a bar on a terminal, plain lines in a job's output file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class TrainingProgress:
    """Progress of a run; on ranks other than 0 it shows nothing."""

    def __init__(self, *, rank: int = 0, line_interval: float = 10.0) -> None:
        """Choose the form.

        Args:
            rank: of this process.
            line_interval: least seconds between two plain lines about steps.
        """
        self._shown = rank == 0
        self._interval = line_interval
        self._last_line = float('-inf')
        self._progress: Progress | None = None
        if self._shown and sys.stderr.isatty():
            self._progress = Progress(
                TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn('{task.fields[status]}'), console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task('starting', total=None, status='') if self._progress else None

    def __enter__(self) -> TrainingProgress:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        if self._progress:
            self._progress.console.print(line, highlight=False, markup=False)
        elif self._shown:
            sys.stderr.write(f'[{time.strftime("%H:%M:%S")}] {line}\n')
            sys.stderr.flush()

    def step(self, *, epoch: int, epochs: int, iteration: int, steps: int, status: str) -> None:
        """Show how far the epoch is; plain lines come no more often than `line_interval`."""
        if self._progress and self._task is not None:
            self._progress.update(self._task, description=f'epoch {epoch}/{epochs}', completed=iteration, total=steps,
                                  status=status)
        elif self._shown and time.monotonic() - self._last_line >= self._interval:
            self._last_line = time.monotonic()
            self.say(f'epoch {epoch}/{epochs} step {iteration}/{steps}: {status}')
