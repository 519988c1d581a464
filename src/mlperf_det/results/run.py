"""The run: what one training run did, read once from its folder or log. `reading.read_runs` makes runs.

Expected states are values: a run that died, diverged or left rubbish is a `Run` with a status and a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mlperf_det.mllog.summary import LogSummary
    from mlperf_det.run_folder import RunRecord


class RunStatus(str, Enum):
    """How a run ended, by its log (and by run.json where there is one; they must agree)."""

    CONVERGED = 'converged'      # run_stop of status success, and the last evaluation before it reaches the target
    DIVERGED = 'diverged'        # a loss that is not finite, or an accuracy that fell to nothing
    ABORTED = 'aborted'          # ended below the target, or ended otherwise than it says
    INCOMPLETE = 'incomplete'    # no run_stop: killed, or still running
    UNREADABLE = 'unreadable'    # no log, or nothing in it that tells


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a run ran. None: not known."""

    nodes: int | None = None
    accelerators_per_node: int | None = None
    accelerators: int | None = None
    #: one spelling a product, e.g. ``H100-SXM5-80GB``; ``cpu`` for a run without accelerators
    accelerator: str = ''
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation: completed epochs, seconds since run_start, metric (``bbox``, ``segm``) -> AP as a fraction."""

    epoch: float | None
    seconds: float
    metrics: Mapping[str, float]


class TrackPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the running training. None: not tracked. A run has hundreds: a struct is made ten times as fast.

    Attributes:
        seconds: since run_start.
        step: optimiser steps so far.
        loss: mean over the window.
        images_per_second: over all ranks; None where the log's unit is not certain.
        data_wait_share: fraction of the window in which training waited for data.
    """

    seconds: float
    step: float
    loss: float | None = None
    images_per_second: float | None = None
    data_wait_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class RankTime:
    """Where the seconds of one rank went: phase (data_wait, step, evaluation, score_wait, checkpoint) -> seconds."""

    rank: int
    host: str
    seconds: float
    phases: Mapping[str, float]

    @property
    def other(self) -> float:
        """Seconds in no phase."""
        return max(0.0, self.seconds - sum(self.phases.values()))


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images per second over the whole system. None: not known.

    Attributes:
        overall: images to the last evaluation / time to train, evaluation included.
        training: inside the closed epoch (or block) intervals only.
        steady: the windows after warm-up, without evaluations and checkpoints.
    """

    overall: float | None = None
    training: float | None = None
    steady: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one training run did.

    Attributes:
        source: run folder, or the log where there is nothing else.
        log: path of the MLPerf log; None without one.
        benchmark: ``ssd``, ``retinanet`` or ``maskrcnn``; ``ssd`` of rounds v2.0 to v4.1 is ``retinanet``.
        model: ``ssd300``, ``retinanet`` or ``maskrcnn``.
        round: MLPerf round whose form or rules the run follows, e.g. ``v3.1``.
        status, reason: how it ended, and why in one line.
        tier: rung of our own checks; empty for a published log.
        target: metric -> least AP.
        time_to_train_seconds: run_stop - run_start; None where the run did not end properly.
        epochs_to_target, samples: up to the evaluation that reached the target; None for a run that did not.
        ranks: time breakdown, one entry a rank; empty without metrics.jsonl.
        track: loss and rate over time.
        deviations: marks that travel into the verdict: smoke tier, open division, random backbone ...
        forgiven: what the reader had to forgive in the files.
        record: run.json; None for a published log.
        summary: the facts of the log as logged; None without a readable log.
    """

    source: PurePath
    log: PurePath | None = None
    benchmark: str = ''
    model: str = ''
    round: str = ''
    system: str = ''
    submitter: str = ''
    status: RunStatus
    reason: str
    tier: str = ''
    division: str = ''
    precision: str = ''
    seed: int | float | None = None
    geometry: Geometry = field(default_factory=Geometry)
    batch: int | float | None = None
    target: Mapping[str, float] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    time_to_train_seconds: float | None = None
    init_seconds: float | None = None
    started: float | None = None
    epochs_to_target: float | None = None
    samples: float | None = None
    throughput: Throughput = field(default_factory=Throughput)
    ranks: tuple[RankTime, ...] = ()
    track: tuple[TrackPoint, ...] = ()
    deviations: tuple[str, ...] = ()
    forgiven: tuple[str, ...] = ()
    record: RunRecord | None = None
    summary: LogSummary | None = None

    @property
    def converged(self) -> bool:
        """Say whether the quality target was reached."""
        return self.status is RunStatus.CONVERGED

    @property
    def finished_steps(self) -> bool:
        """Say whether the run did a fixed number of steps as it was asked to (throughput tier)."""
        return self.record is not None and self.record.outcome.value == 'finished' and self.status is RunStatus.ABORTED

    @property
    def final_metrics(self) -> Mapping[str, float]:
        """Metric -> AP of the last evaluation."""
        return self.evaluations[-1].metrics if self.evaluations else {}

    @property
    def figures(self) -> dict[str, float]:
        """Metric -> value of those metrics that references are made of; accuracies are held against the target."""
        found = {'time_to_train': self.time_to_train_seconds if self.converged else None,
                 'images_per_second': self.throughput.steady or self.throughput.training,
                 'epochs_to_target': self.epochs_to_target, 'evaluation_seconds': self.evaluation_seconds,
                 'data_wait_share': self.data_wait_share}
        return {metric: value for metric, value in found.items() if value is not None}

    def phase_share(self, phase: str) -> float | None:
        """Return the mean over ranks of the share of time in a phase; None without a time breakdown."""
        shares = [rank.phases.get(phase, 0.0) / rank.seconds for rank in self.ranks if rank.seconds > 0]
        return sum(shares) / len(shares) if shares else None

    @property
    def data_wait_share(self) -> float | None:
        """Mean share of time in which a rank waited for data."""
        return self.phase_share('data_wait')

    @property
    def evaluation_seconds(self) -> float | None:
        """Mean seconds over ranks spent in evaluation, waiting for its score included; None without a breakdown."""
        if not self.ranks:
            return None
        spent = [rank.phases.get('evaluation', 0.0) + rank.phases.get('score_wait', 0.0) for rank in self.ranks]
        return sum(spent) / len(spent)
