"""What a run tells its MLPerf log, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlperf_det.mllog import keys
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.recipes.recipe import Division, Recipe
from mlperf_det.training.task import Task


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Who runs what, for the ``submission_*`` events."""

    org: str = 'unknown'
    platform: str = 'unknown'
    status: str = 'onprem'


def open_run(log: MLPerfLog, recipe: Recipe, submission: Submission, *, cache_cleared: bool) -> None:
    """Say who runs what and begin ``init``; ``cache_clear`` only if somebody vouches for it."""
    log.event(keys.SUBMISSION_BENCHMARK, recipe.submission_benchmark)
    log.event(keys.SUBMISSION_ORG, submission.org)
    log.event(keys.SUBMISSION_DIVISION, recipe.division.value)
    log.event(keys.SUBMISSION_STATUS, submission.status)
    log.event(keys.SUBMISSION_PLATFORM, submission.platform)
    if cache_cleared:
        log.event(keys.CACHE_CLEAR, True)
    log.start(keys.INIT_START)


class RunLog:
    """The MLPerf log of one run, in the terms of the loop. ``epoch`` counts completed epochs throughout."""

    def __init__(self, log: MLPerfLog, task: Task) -> None:
        self._log = log
        self._task = task
        self.offset = log.offset

    def describe(self, recipe: Recipe, seed: int, tensors: Sequence[str]) -> None:
        """State seed, hyperparameters and initialised tensors, and what an open run does differently."""
        log = self._log
        log.event(keys.SEED, seed)
        hyperparameters, _ = self._hyperparameters()
        if keys.WEIGHTS_INITIALIZATION not in dict(hyperparameters):
            hyperparameters.append((keys.WEIGHTS_INITIALIZATION, None))
        for key, value in hyperparameters:
            if key != keys.WEIGHTS_INITIALIZATION:
                log.event(key, value)
                continue
            for tensor in tensors:
                log.event(key, None, {keys.TENSOR: tensor})
        backbone = self._task.backbone_record()
        # In a log ``file`` is the source file of an event.
        weights = backbone and {'weights' if name == 'file' else name: value for name, value in backbone.items()}
        log.event('backbone_initialization', 'pretrained' if backbone else 'random', weights)
        if recipe.division is Division.OPEN:
            log.event('open_division', f'{recipe.tier.value} run of recipe {recipe.name}: not comparable with results')

    def start_run(self) -> None:
        """End ``init`` and start the clock; nothing of the data has been read so far."""
        self._log.end(keys.INIT_STOP)
        self._log.start(keys.RUN_START)
        for key, value in self._hyperparameters()[1]:
            self._log.event(key, value)

    def _hyperparameters(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        """Return the task's hyperparameter events before and after ``run_start``."""
        events = list(self._task.mllog_hyperparameters())
        start = next((place for place, (key, _) in enumerate(events) if key == keys.RUN_START), len(events))
        return events[:start], events[start + 1:]

    def resume(self, step: int, attempt: int) -> None:
        """Mark where attempt ``attempt`` took over; the clock has been running since the first attempt."""
        self._log.event('resume', step, {'attempt': attempt})

    def start_epoch(self, epoch: int) -> None:
        """Start the epoch that follows ``epoch`` completed ones."""
        number = self._task.first_epoch_num + epoch
        if self._task.logs_blocks:
            self._log.start(keys.BLOCK_START, None, {keys.FIRST_EPOCH_NUM: number, keys.EPOCH_COUNT: 1})
        self._log.start(keys.EPOCH_START, None, {keys.EPOCH_NUM: number})

    def stop_epoch(self, epoch: int, *, throughput: float, loss: float, lr: float) -> None:
        """End an epoch; ``epoch`` includes it. Throughput in images per second over all ranks."""
        self._log.event(keys.TRACKED_STATS, {'throughput': throughput, 'loss': loss, 'lr': lr}, {keys.STEP: epoch})
        self._log.event('throughput', throughput)
        number = self._task.first_epoch_num + epoch - 1
        self._log.end(keys.EPOCH_STOP, None, {keys.EPOCH_NUM: number})
        if self._task.logs_blocks:
            self._log.end(keys.BLOCK_STOP, None, {keys.FIRST_EPOCH_NUM: number})

    def start_evaluation(self, epoch: int) -> None:
        """Start the evaluation after ``epoch`` epochs."""
        self._log.start(keys.EVAL_START, None, {keys.EPOCH_NUM: epoch})

    def stop_evaluation(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """State the accuracy, a number for one metric and an object for several, and end the evaluation."""
        accuracy = ({name.upper(): value for name, value in metrics.items()} if len(metrics) > 1
                    else next(iter(metrics.values())))
        self._log.event(keys.EVAL_ACCURACY, accuracy, {keys.EPOCH_NUM: epoch})
        self._log.end(keys.EVAL_STOP, None, {keys.EPOCH_NUM: epoch})

    def stop_run(self, *, success: bool, reason: str) -> None:
        """Stop the clock: ``success`` means that the quality target was reached, nothing less."""
        metadata = {keys.STATUS: keys.SUCCESS} if success else {keys.STATUS: keys.ABORTED, 'reason': reason}
        self._log.end(keys.RUN_STOP, None, metadata)
