"""What the loop reports of steps and epochs: to metrics.jsonl, to the MLPerf log and to whoever watches."""

from __future__ import annotations

import socket
import time

from mlperf_det.recipes.recipe import Recipe
from mlperf_det.training.checkpoint import Position
from mlperf_det.training.clock import Stopwatch
from mlperf_det.training.control import Control
from mlperf_det.training.metrics import MetricsFile, SteadyState
from mlperf_det.training.progress import TrainingProgress
from mlperf_det.training.run_log import RunLog
from mlperf_det.training.window import WindowResult

#: first steps of an attempt that do not count for throughput: compilation, autotuning, cold caches
WARM_UP_STEPS = 10


class Reporter:
    """Collects the windows of an epoch and writes the lines about them.

    `end_epoch` and `end` are collective.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int, control: Control, clock: Stopwatch, log: RunLog,
                 metrics: MetricsFile, progress: TrainingProgress) -> None:
        self._recipe, self._steps_per_epoch = recipe, steps_per_epoch
        self._control, self._clock = control, clock
        self._log, self._metrics, self._progress = log, metrics, progress
        self._windows: list[WindowResult] = []
        self._epoch_started: float | None = None
        self._rate = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begin an attempt after ``step`` optimiser steps."""
        total = self._recipe.max_steps or self._recipe.epochs * self._steps_per_epoch
        self.warm_until = step + min(WARM_UP_STEPS, (total - step) // 2)
        self._steady = SteadyState(warm_up_steps=self.warm_until - step)

    def start_epoch(self) -> None:
        """Start the clock of an epoch, or of what is left of it."""
        self._windows.clear()
        self._clock.take()
        self._epoch_started = time.perf_counter()

    def window(self, window: WindowResult, at: Position, rate: float) -> None:
        """Report a closed window that ended at a position; ``rate`` is the learning rate of its last step."""
        warm_up = at.step <= self.warm_until
        self._windows.append(window)
        self._rate = rate
        self._metrics.write(
            'step', step=at.step, epoch=at.epoch, steps=window.steps, loss=window.loss, lr=rate, warm_up=warm_up,
            images_per_second=window.images_per_second, data_wait_share=window.data_wait_share)
        if not warm_up:
            self._steady.add(first_step=at.step - window.steps + 1, last_step=at.step, images=window.images,
                             seconds=window.seconds, data_wait=window.data_wait)
        self._progress.step(
            epoch=at.epoch + 1, epochs=self._recipe.epochs, iteration=at.iteration, steps=self._steps_per_epoch,
            status=f'loss {window.loss:.4f}, {window.images_per_second:.1f} images/s, waiting for data '
                   f'{window.data_wait_share:.0%}')

    def stop_epoch(self, epoch: int) -> None:
        """Write the end of the training of an epoch to the MLPerf log; ``epoch`` includes it."""
        self._log.stop_epoch(
            epoch, lr=self._rate, loss=sum(w.loss * w.steps for w in self._windows) / max(1, self._steps()),
            throughput=sum(w.images for w in self._windows) / max(1e-9, sum(w.seconds for w in self._windows)))

    def end_epoch(self, at: Position) -> None:
        """Write where each rank's time of the epoch went, evaluation and checkpoint included; once an epoch."""
        if self._epoch_started is None:
            return
        complete = at.iteration == 0
        mine = {'rank': self._control.rank, 'host': socket.gethostname(), 'steps': self._steps(),
                'seconds': time.perf_counter() - self._epoch_started, **self._clock.take()}
        self._epoch_started = None
        for line in self._control.to_first(mine) or ():
            self._metrics.write('epoch', epoch=at.epoch if complete else at.epoch + 1, complete=complete, **line)

    def end(self, at: Position) -> None:
        """Write the last lines of an attempt."""
        self.end_epoch(at)
        if (summary := self._steady.summary()) is not None:
            self._metrics.write('steady_state', **summary)

    def _steps(self) -> int:
        return sum(window.steps for window in self._windows)
