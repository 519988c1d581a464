"""The recipe: what one training run does, independent of where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal


class Tier(str, Enum):
    """The three rungs of a check (see the README): the same code path at growing cost."""

    SMOKE = 'smoke'
    THROUGHPUT = 'throughput'
    CONVERGENCE = 'convergence'


class Division(str, Enum):
    """MLPerf division: a closed run keeps the rules; an open run says that it does not."""

    CLOSED = 'closed'
    OPEN = 'open'


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How the device computes. ``auto`` is decided in one place, from the device found (`training.device`)."""

    precision: Literal['auto', 'fp32', 'tf32', 'bf16', 'fp16'] = 'auto'
    memory_format: Literal['auto', 'contiguous', 'channels_last'] = 'auto'
    compile: Literal['off', 'model'] = 'off'
    optimizer_implementation: Literal['auto', 'fused', 'foreach', 'for_loop'] = 'auto'
    #: processes that decode images, per rank; None: from the CPUs this rank may use
    loader_workers: int | None = None
    #: iterations between two looks at a pending score or a stop request
    poll_interval: int = 10
    #: iterations between two lines of loss and throughput
    log_interval: int = 20


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all benchmarks have in common; each benchmark derives its own recipe with its hyperparameters.

    Units: batch sizes in images, `epochs` in passes over the training images, `walltime_minutes` of one run.
    """

    benchmark: str
    name: str
    tier: Tier
    division: Division
    #: MLPerf round whose rules and log form the run follows, e.g. ``1.1.0``
    ruleset: str
    nodes: int = 1
    accelerators_per_node: int = 1
    local_batch_size: int
    eval_batch_size: int
    #: most epochs before the run gives up
    epochs: int
    #: stop after so many optimiser steps, without evaluation (throughput tier)
    max_steps: int | None = None
    walltime_minutes: int
    #: runs of one acceptance (MLPerf: five)
    experiments: int = 1
    #: name of the dataset card
    dataset: str
    #: True: the backbone's published weights; False: random (smoke only; marked in log and verdict)
    pretrained_backbone: bool
    #: metric ('bbox', 'segm') -> least AP, as a fraction
    quality_target: Mapping[str, float]
    runtime: Runtime = field(default_factory=Runtime)

    @property
    def world_size(self) -> int:
        """Ranks, one an accelerator."""
        return self.nodes * self.accelerators_per_node

    @property
    def global_batch_size(self) -> int:
        """Images in one optimiser step over all ranks."""
        return self.world_size * self.local_batch_size
