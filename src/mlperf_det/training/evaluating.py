"""Evaluation off the training path: all ranks infer, rank 0 hands the rows to the scoring process, training goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mlperf_det.errors import UserError
from mlperf_det.evaluation.gather import gather_rows
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import DetectionRows, concatenate
from mlperf_det.evaluation.scorer import AsyncScorer, ScoredEvaluation
from mlperf_det.training.control import Control
from mlperf_det.training.device import ResolvedRuntime
from mlperf_det.training.metrics import MetricsFile
from mlperf_det.training.prefetch import started, to_device
from mlperf_det.training.run_log import RunLog
from mlperf_det.training.signals import shielded
from mlperf_det.training.task import Detector, Task

#: seconds between two looks for a stop request while a score is awaited
SCORE_LOOK = 1.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What all ranks know of a finished evaluation; the target is met when every metric reaches its value."""

    epoch: int
    metrics: Mapping[str, float]
    target_met: bool
    #: scored over all images
    detections: int


@dataclass
class Evaluator:
    """Runs evaluations one at a time. Every method but `start` and `close` is collective.

    Attributes:
        pending: completed epochs at the evaluation whose score is awaited; None: none is.
    """

    task: Task
    control: Control
    runtime: ResolvedRuntime
    device: torch.device
    log: RunLog
    metrics: MetricsFile
    pending: int | None = None
    _scorer: AsyncScorer | None = None
    _expected: NDArray[np.int64] | None = None
    _inference_seconds: float = 0.0
    _images: int = 0
    _detections: int = 0

    def __post_init__(self) -> None:
        target = self.task.recipe.quality_target
        unknown = sorted(set(target) - set(self.task.iou_types))
        if unknown or not target:
            named = ', '.join(unknown) or 'no metric'
            raise UserError(f'recipe {self.task.recipe.name}: quality_target names {named}; '
                            f'the benchmark scores {", ".join(self.task.iou_types)}')

    def start(self) -> None:
        """Start the scoring process on rank 0, shielded from the signals that are meant for the loop."""
        if self.control.rank == 0:
            self._scorer = AsyncScorer(self.task.annotations, self.task.iou_types, self.task.category_ids)
            with shielded():
                self._scorer.start()

    def close(self) -> None:
        """End the scoring process."""
        if self._scorer is not None:
            self._scorer.close()

    def evaluate(self, epoch: int, model: nn.Module) -> None:
        """Infer all evaluation images with the model after ``epoch`` epochs and submit them for scoring."""
        assert self.pending is None, 'the score of the evaluation before is collected first'
        self.log.start_evaluation(epoch)
        started = time.perf_counter()
        self.task.before_evaluation(model)
        rows = self._gather(self._infer(model))
        self._inference_seconds = time.perf_counter() - started
        if self._scorer is not None and rows is not None:
            self._images, self._detections = len(rows.seen_image_ids), len(rows.image_ids)
            self._scorer.submit(epoch, rows)
        self.pending = epoch

    def poll(self) -> ScoredEvaluation | None:
        """Return the score on rank 0 if it is there; None elsewhere. Not collective: `settle` tells the others."""
        return self._scorer.poll() if self._scorer is not None and self.pending is not None else None

    def collect(self, stop_asked: Callable[[], bool], *, timeout: float, grace: float) -> Verdict | None:
        """Wait for the pending score; None when a stop is asked for on any rank and it does not come soon after.

        Args:
            stop_asked: whether this rank was told to stop.
            timeout: most seconds to wait.
            grace: most seconds to wait once a stop is asked for.

        Raises:
            RuntimeError: the score did not come in time.
        """
        # All ranks count the same looks: clocks of their own would tell them apart.
        waited, stop_by = 0.0, math.inf
        while True:
            if stop_by == math.inf and self.control.any(stop_asked())[0]:
                stop_by = waited + grace
            if waited >= stop_by:
                return None
            if waited >= timeout:
                raise RuntimeError(f'the evaluation after epoch {self.pending} was not scored within {timeout:.0f} s')
            look = min(SCORE_LOOK, stop_by - waited)
            verdict = self.wait(look)
            if verdict is not None:
                return verdict
            waited += look

    def wait(self, timeout: float) -> Verdict | None:
        """Wait for the pending score; None when it does not come in time."""
        scored = None
        if self._scorer is not None:
            try:
                scored = self._scorer.wait(timeout)
            except TimeoutError:
                scored = None
        return self.settle(scored) if self.control.any(scored is not None)[0] else None

    def settle(self, scored: ScoredEvaluation | None) -> Verdict:
        """Record the score that rank 0 holds and tell it to all ranks."""
        verdict = None
        if scored is not None:
            verdict = self._record(scored)
        self.pending = None
        return self.control.from_first(verdict)

    def _record(self, scored: ScoredEvaluation) -> Verdict:
        metrics = {name: float(scored.summaries[name].AP) for name in self.task.iou_types}
        met = all(metrics[name] >= least for name, least in self.task.recipe.quality_target.items())
        self.log.stop_evaluation(scored.epoch, metrics)
        self.metrics.write(
            'evaluation', epoch=scored.epoch, metrics=metrics, target_met=met, scoring_seconds=scored.seconds,
            inference_seconds=self._inference_seconds, images=self._images, detections=self._detections,
            numbers={name: summary.numbers() for name, summary in scored.summaries.items()})
        return Verdict(epoch=scored.epoch, metrics=metrics, target_met=met, detections=self._detections)

    def _infer(self, model: nn.Module) -> DetectionRows:
        parts = []
        model.eval()
        try:
            batches = started(self.task.evaluation_batches(rank=self.control.rank, world_size=self.control.size))
            with torch.inference_mode():
                detector = cast(Detector, model)
                for batch in to_device(batches, self.device, self.runtime.torch_memory_format):
                    with self.runtime.autocast():
                        detections = detector.detect(batch)
                    parts.append(self.task.detection_rows(detections, batch))
        finally:
            model.train()
        return concatenate(parts)

    def _gather(self, rows: DetectionRows) -> DetectionRows | None:
        if self._expected is None:
            # Only rank 0 compares, so only rank 0 reads the file.
            self._expected = (read_ground_truth(self.task.annotations).image_ids if self.control.rank == 0
                              else np.empty(0, dtype=np.int64))
        return gather_rows(rows, self.control.group, expected_image_ids=self._expected)
