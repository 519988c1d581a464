"""``metrics.jsonl``: one JSON object a line, written by rank 0. Times are Unix seconds, durations seconds.

==============  ======================================================================================================
kind            further fields
==============  ======================================================================================================
``attempt``     resumed_from_step
``step``        step, epoch (completed), steps (in this window), loss (mean over window and ranks), lr,
                images_per_second (all ranks), data_wait_share (mean over ranks), warm_up (left out of steady_state)
``epoch``       epoch (from 1), complete (false: the run ended within it), rank, host, steps, seconds (whole epoch), and
                the rank's seconds by phase: data_wait, step, evaluation, score_wait, checkpoint
``evaluation``  epoch, metrics (metric -> AP), images and detections (how many were scored), target_met,
                numbers (metric -> the twelve COCO numbers), inference_seconds, scoring_seconds
``checkpoint``  step, epoch, seconds, bytes
``steady_state``  first_step, last_step, images_per_second, data_wait_share, warm_up_steps: the windows after warm-up,
                without evaluations and checkpoints; written once, at the end of an attempt
==============  ======================================================================================================

Every line carries ``kind``, ``time`` and ``attempt`` (from 0).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.run_folder import METRICS_JSONL


class MetricsFile:
    """Appends lines to metrics.jsonl; ranks other than 0 write nothing."""

    def __init__(self, folder: Path, *, rank: int = 0, attempt: int = 0) -> None:
        """Open the file of a run folder to append to it; ``attempt`` counts the starts of the program from 0."""
        self._attempt = attempt
        self._stream = None
        if rank != 0:
            return
        path = folder / METRICS_JSONL
        self._stream = path.open('ab')

    def write(self, kind: str, **fields: Any) -> None:
        """Append a line; see the table above."""
        if self._stream is not None:
            line = {'kind': kind, 'time': time.time(), 'attempt': self._attempt, **fields}
            self._stream.write(msgspec.json.encode(line) + b'\n')
            self._stream.flush()

    def offset(self) -> int:
        """Return the size of the file in bytes, all of it on disk; 0 on ranks that write nothing."""
        if self._stream is None:
            return 0
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()


@dataclass
class SteadyState:
    """Throughput of the windows after warm-up, which the first steps (compilation, autotuning, caches) would spoil."""

    warm_up_steps: int
    first_step: int | None = None
    last_step: int = 0
    images: int = 0
    seconds: float = 0.0
    data_wait: float = 0.0

    def add(self, *, first_step: int, last_step: int, images: int, seconds: float, data_wait: float) -> None:
        """Add a window of steps ``first_step`` to ``last_step``, counted from 1."""
        if self.first_step is None:
            self.first_step = first_step
        self.last_step = last_step
        self.images += images
        self.seconds += seconds
        self.data_wait += data_wait

    def summary(self) -> dict[str, Any] | None:
        """Return the fields of a ``steady_state`` line; None when no window came after warm-up."""
        if self.first_step is None or self.seconds <= 0:
            return None
        return {'first_step': self.first_step, 'last_step': self.last_step, 'warm_up_steps': self.warm_up_steps,
                'images_per_second': self.images / self.seconds, 'data_wait_share': self.data_wait / self.seconds}
