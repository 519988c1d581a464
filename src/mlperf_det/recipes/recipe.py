"""The recipe: what one training run does, independent of where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Literal


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
    #: 'model': forward and backward pass, losses included, by `torch.compile`
    compile: Literal['off', 'model'] = 'off'
    #: record the whole training step, optimiser included, once, and replay it (GPUs; CUDA and HIP graphs)
    cuda_graph: bool = False
    #: what decodes JPEG files: the loader's processes, the GPU's decoder, or NVIDIA DALI (an optional extra)
    decoder: Literal['cpu', 'gpu', 'dali'] = 'cpu'
    optimizer_implementation: Literal['auto', 'fused', 'foreach', 'for_loop'] = 'auto'
    #: processes that decode images, per rank; None: from the CPUs this rank may use
    loader_workers: int | None = None
    #: iterations between two looks at a pending score or a stop request
    poll_interval: int = 10
    #: iterations between two lines of loss and throughput
    log_interval: int = 20


@dataclass(frozen=True, kw_only=True)
class RuleCheck:
    """One closed-division rule held against a recipe: its key, the value here, the rule in words, and if it is kept."""

    key: str
    value: Any
    rule: str
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all benchmarks have in common; each benchmark derives its own recipe with its hyperparameters.

    Units: batch sizes in images, `epochs` in passes over the training images, `walltime_minutes` of one run.
    """

    #: what `Runtime.decoder` may be
    decoders: ClassVar[tuple[str, ...]] = ('cpu',)
    #: all full training batches have one shape, whatever is in them, so that a step can be recorded
    static_shapes: ClassVar[bool] = False

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

    @property
    def submission_benchmark(self) -> str:
        """Name of the benchmark in MLPerf logs of the recipe's round."""
        return self.benchmark

    def problems(self) -> list[str]:
        """Return what makes the recipe impossible to run, each as ``field: what is wrong``."""
        counts = ('nodes', 'accelerators_per_node', 'local_batch_size', 'eval_batch_size', 'epochs',
                  'walltime_minutes', 'experiments')
        found = [f'{name}: {getattr(self, name)} is not a positive number'
                 for name in counts if getattr(self, name) < 1]
        if self.max_steps is not None and self.max_steps < 1:
            found.append(f'max_steps: {self.max_steps} is not a positive number')
        if not self.quality_target:
            found.append('quality_target: empty; a run without a target can prove nothing')
        found += [f'quality_target.{metric}: {value} is not a fraction between 0 and 1 (0.23 means 23 %)'
                  for metric, value in self.quality_target.items() if not 0 < value < 1]
        if not self.pretrained_backbone and self.tier is Tier.CONVERGENCE:
            found.append('pretrained_backbone: false is allowed in the smoke and throughput tiers only')
        if self.runtime.decoder not in self.decoders:
            found.append(f'runtime.decoder: {self.runtime.decoder} is not a decoder of {self.benchmark}; choose one of '
                         f'{", ".join(self.decoders)}')
        if self.runtime.cuda_graph and not self.static_shapes:
            found.append(f'runtime.cuda_graph: batches of {self.benchmark} have changing shapes, which a recorded step '
                         'cannot take')
        return found

    def closed_rules(self) -> list[RuleCheck]:
        """Return every closed-division rule of the round with what the recipe makes of it; benchmarks add their own."""
        return [RuleCheck(key='max_steps', value=self.max_steps, kept=self.max_steps is None,
                          rule='a run ends at the quality target or at its last epoch')]

    def _benchmark_rules(self, *, architecture: str, model: str, weights: str, dataset: str,
                         target: Mapping[str, float]) -> list[RuleCheck]:
        """Return the rules that every closed benchmark has: its model, weights, data and target.

        Args:
            architecture: the recipe's network.
            model: the one that the rules train.
            weights: what the rules start from, in words.
            dataset: card that the rules train on.
            target: least AP by the rules.
        """
        return [
            RuleCheck(key='architecture', value=architecture, kept=architecture == model, rule=f'the model is {model}'),
            RuleCheck(key='pretrained_backbone', value=self.pretrained_backbone, kept=self.pretrained_backbone,
                      rule=f'training starts from {weights}'),
            RuleCheck(key='dataset', value=self.dataset, kept=self.dataset == dataset, rule=f'the data is {dataset}'),
            RuleCheck(key='quality_target', value=dict(self.quality_target),
                      kept=dict(self.quality_target) == dict(target), rule=f'it is {dict(target)}'),
        ]

    def closed_rule_breaches(self) -> list[str]:
        """Return what the closed division forbids, each as ``key: value, but the rule``."""
        return [f'{check.key}: {check.value}, but {check.rule}' for check in self.closed_rules() if not check.kept]
