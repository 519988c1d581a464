"""Epoch and block intervals of a log: time spent training, and where epoch numbers start."""

from __future__ import annotations

import math
from typing import NamedTuple

from mlperf_det.mllog.accuracy import LoggedAccuracy, as_number
from mlperf_det.mllog.events import Event


class TrainingTime(NamedTuple):
    """Seconds and epochs of the closed intervals, and which kind they are: ``epoch``, ``block`` or nothing."""

    train_seconds: float | None
    train_epochs: float
    train_interval: str


class EpochIntervals:
    """Pairs the start and stop events of epochs and blocks."""

    #: keys of the events that belong here
    KEYS = ('epoch_start', 'epoch_stop', 'block_start', 'block_stop', 'eval_start', 'eval_stop', 'train_epoch',
            'train_loop')

    def __init__(self) -> None:
        self._open: dict[tuple[str, float], tuple[float, float]] = {}
        #: kind -> (start, stop, epochs) of each closed interval, in the order in which they closed
        self._closed: dict[str, list[tuple[float, float, float]]] = {'epoch': [], 'block': []}
        self._first: float | None = None      # least epoch number that a training interval was given
        self._trained: float | None = None    # number of the last epoch known to be trained
        self._base: int | None = None

    @property
    def closed(self) -> bool:
        """Say whether any interval has ended."""
        return any(self._closed.values())

    @property
    def epoch_base(self) -> int:
        """The number that evaluations give to the first completed epoch: 0 or 1."""
        return 1 if self._base is None else self._base

    def take(self, event: Event, *, running: bool = True) -> None:
        """Take an event of one of `KEYS`; after run_stop (not ``running``) it is dropped.

        Programs that evaluate in the background end an epoch after run_stop that nobody evaluates.
        """
        key = event.key
        if not running or key in ('eval_stop', 'train_loop'):
            return
        if key == 'train_epoch':    # v0.5: an epoch starts; its end is not logged
            epoch = as_number(event.value)
            if epoch is not None:
                self._start(epoch)
                self._trained = epoch
        elif key == 'eval_start':
            number = event.meta('epoch_num')
            self._evaluation(as_number(event.value if number is None else number))
        else:
            kind, edge = key.split('_')
            self._edge(event, kind, starts=edge == 'start')

    def _edge(self, event: Event, kind: str, *, starts: bool) -> None:
        """Take the start or the end of an epoch or a block."""
        number = as_number(event.meta('epoch_num' if kind == 'epoch' else 'first_epoch_num'))
        if number is None:
            return
        if starts:
            count = as_number(event.meta('epoch_count'))
            self._start(number)
            self._open.setdefault((kind, number), (event.time_ms, 1 if count is None else count))
        elif (kind, number) in self._open:
            started, count = self._open.pop((kind, number))
            self._closed[kind].append((started, event.time_ms, count))
            self._trained = number + count - 1

    def _start(self, number: float) -> None:
        self._first = number if self._first is None else min(self._first, number)

    def _evaluation(self, number: int | float | None) -> None:
        """Learn the base from the first evaluation: epochs from 0 that evaluate under the same number have base 0."""
        if self._base is None and self._trained is not None and number is not None:
            self._base = 0 if self._first == 0 and number == self._trained else 1

    def closed_until(self, last: LoggedAccuracy | None) -> TrainingTime:
        """Return the time of the first closed intervals that make up the evaluated epochs; epochs before blocks."""
        if last is None or last.epoch is None:
            return TrainingTime(None, 0.0, '')
        completed = last.epoch + 1 - self.epoch_base
        for kind, intervals in self._closed.items():
            spans, epochs = [], 0.0
            for start, stop, count in intervals:
                if epochs + count <= completed:
                    spans.append((start, stop))
                    epochs += count
            if spans:
                return TrainingTime(_union(spans) / 1000, epochs, kind)
        return TrainingTime(None, 0.0, '')


def _union(intervals: list[tuple[float, float]]) -> float:
    """Return the length of the union: pipelined programs open a block before the one before it is closed."""
    total, reached = 0.0, -math.inf
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total
