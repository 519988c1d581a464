"""Recipes of SSD300-ResNet34 on COCO 2017: hyperparameters, published configurations, closed-division rules.

Sources: the MLPerf Training rules of round v1.1, the training reference, and the configurations and logs of the
v0.7 to v1.1 submissions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from mlperf_det.recipes.recipe import Division, Recipe, RuleCheck, Tier

#: Images of train2017 that have at least one annotation: what one epoch means.
TRAIN_SAMPLES = 117_266
#: All images of val2017.
EVAL_SAMPLES = 5_000
#: Box AP at IoU .50:.95, all areas, at most 100 detections an image.
QUALITY_TARGET: Mapping[str, float] = MappingProxyType({'bbox': 0.23})
#: The reference's learning-rate decay, which a submission may stretch by a factor 1 + K/10.
REFERENCE_DECAY_EPOCHS = (40, 50)


@dataclass(frozen=True, kw_only=True)
class SsdRecipe(Recipe):
    """Hyperparameters of SSD. The learning rate is stated as in the rules: for a batch of 32, scaled linearly."""

    benchmark: str = 'ssd'
    ruleset: str = '1.1.0'
    dataset: str = 'coco2017'
    pretrained_backbone: bool = True
    quality_target: Mapping[str, float] = field(default_factory=lambda: dict(QUALITY_TARGET))
    #: 'ssd300_resnet34' is the benchmark; 'ssd_smoke' a small network of the same build for CPU minutes
    architecture: Literal['ssd300_resnet34', 'ssd_smoke'] = 'ssd300_resnet34'
    #: peak rate at batch 32; the peak of a run is this times global batch / 32
    learning_rate_per_32: float = 2.5e-3
    warmup_epochs: float = 0.0
    #: rate at step i of W: peak - (W - i) * peak / (W * 2**factor)
    warmup_factor: int = 0
    weight_decay: float = 5e-4
    #: completed epochs after which the rate falls to a tenth
    decay_epochs: tuple[int, int] = REFERENCE_DECAY_EPOCHS
    #: consecutive ranks whose batches are normalised as one; MLPerf logs the span in images as ``model_bn_span``
    batch_norm_group: int = 1
    #: attempts of the random crop before a new mode is drawn: 1 or 50
    crop_attempts: Literal[1, 50] = 1
    #: evaluate after every so many epochs
    evaluation_interval: int = 5
    #: evaluate after these epochs as well
    evaluation_epochs: tuple[int, ...] = ()

    @property
    def base_learning_rate(self) -> float:
        """Peak learning rate of this run, as logged under ``opt_base_learning_rate``."""
        return self.learning_rate_per_32 * self.global_batch_size / 32

    def warmup_steps(self, train_samples: int) -> int:
        """Return the optimiser steps of the warm-up: a truncated share of the (fractional) steps of an epoch."""
        return int(self.warmup_epochs * train_samples / self.global_batch_size)

    def evaluates_after(self, epoch: int) -> bool:
        """Say whether the model is evaluated after ``epoch`` completed epochs."""
        return epoch % self.evaluation_interval == 0 or epoch in self.evaluation_epochs

    def problems(self) -> list[str]:
        """Return what makes the recipe impossible to run, each as ``field: what is wrong``."""
        found = super().problems()
        if self.learning_rate_per_32 < 0 or self.weight_decay < 0 or self.warmup_epochs < 0:
            found.append('learning_rate_per_32, weight_decay, warmup_epochs: must not be negative')
        if self.batch_norm_group < 1 or self.world_size % self.batch_norm_group:
            found.append(f'batch_norm_group: {self.batch_norm_group} does not divide the {self.world_size} ranks '
                         '(nodes x accelerators_per_node)')
        if not 0 < self.decay_epochs[0] < self.decay_epochs[1]:
            found.append(f'decay_epochs: {list(self.decay_epochs)} must rise')
        if self.evaluation_interval < 1:
            found.append(f'evaluation_interval: {self.evaluation_interval} is not a positive number')
        elif self.max_steps is None and not any(self.evaluates_after(e) for e in range(1, self.epochs + 1)):
            found.append(f'evaluation_interval: {self.evaluation_interval} exceeds epochs ({self.epochs}); '
                         'the run would never be evaluated')
        return found

    def closed_rules(self) -> list[RuleCheck]:
        """Return the closed-division rules of round v1.1 held against this recipe."""
        evaluated = all(self.evaluates_after(epoch) for epoch in (40, 50, 55, 60, 65, 70, 75, 80))
        return [
            *super().closed_rules(),
            *self._benchmark_rules(
                architecture=self.architecture, model='ssd300_resnet34', dataset='coco2017', target=QUALITY_TARGET,
                weights='the given ImageNet weights'),
            RuleCheck(key='opt_learning_rate_decay_boundary_epochs', value=list(self.decay_epochs),
                      kept=_is_stretched_reference_decay(self.decay_epochs),
                      rule='it is [40, 50] times 1 + K/10 with an integer K (field decay_epochs)'),
            RuleCheck(key='opt_learning_rate_warmup_factor', value=self.warmup_factor, kept=self.warmup_factor >= 0,
                      rule='it is an integer of at least 0 (field warmup_factor)'),
            RuleCheck(key='evaluation_interval', value=self.evaluation_interval, kept=evaluated,
                      rule='epochs 40, 50, 55 and every fifth after it are evaluated'),
        ]


def _is_stretched_reference_decay(epochs: tuple[int, int]) -> bool:
    stretches = ([round(epoch * (1 + k / 10), 6) for epoch in REFERENCE_DECAY_EPOCHS] for k in range(-9, 100))
    return list(map(float, epochs)) in stretches


class _Published(NamedTuple):
    """A submitted configuration: geometry, rates as in its file or log, walltime of one run in minutes."""

    nodes: int
    accelerators: int
    batch: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    decay: tuple[int, int]
    epochs: int
    minutes: int
    ruleset: str = '1.1.0'
    eval_batch: int | None = None
    batch_norm_group: int = 1


_PUBLISHED: Mapping[str, _Published] = MappingProxyType({
    'reference-1x1x32': _Published(1, 1, 32, 2.5e-3, 0, 5e-4, (40, 50), 70, 1440),
    'reference-1x8x128': _Published(1, 8, 128, 2.5e-3, 2.619685, 5e-4, (40, 50), 70, 720),
    'reference-2x8x64': _Published(2, 8, 64, 2.5e-3, 2.619685, 5e-4, (40, 50), 70, 720),
    'fujitsu-1x4x114': _Published(1, 4, 114, 3.157e-3, 3, 1.3e-4, (44, 55), 65, 30),
    'nvidia-1x8x114': _Published(1, 8, 114, 3.157e-3, 5, 1.3e-4, (44, 55), 65, 20),
    'nvidia-1x4x228': _Published(1, 4, 228, 3.157e-3, 5, 1.3e-4, (44, 55), 65, 30),
    'dell-1x4x114-40gb': _Published(1, 4, 114, 2.85e-3, 5.25, 1.6e-4, (44, 55), 65, 30),
    'dell-1x4x114': _Published(1, 4, 114, 3.157e-3, 5, 1.3e-4, (44, 55), 65, 30),
    'dell-2x4x114': _Published(2, 4, 114, 3.157e-3, 5, 1.3e-4, (44, 55), 65, 20),
    'dell-1x10x114': _Published(1, 10, 114, 4e-3, 5, 1.3e-4, (44, 55), 65, 20),
    'nvidia-8x8x24': _Published(8, 8, 24, 4e-3, 15, 1.7e-4, (48, 60), 70, 20, batch_norm_group=2),
    'nvidia-128x8x3': _Published(128, 8, 3, 4e-3, 35, 4e-5, (68, 85), 90, 15, eval_batch=5, batch_norm_group=8),
    'dell-8x4x48': _Published(8, 4, 48, 3.5e-3, 15, 1.7e-4, (52, 65), 80, 20),
})


def builtin_recipes() -> dict[str, SsdRecipe]:
    """Return the smoke recipe and the published configurations by name (``source-nodes x accelerators x batch``)."""
    published = {
        name: SsdRecipe(
            name=name, tier=Tier.CONVERGENCE, division=Division.CLOSED, ruleset=p.ruleset,
            nodes=p.nodes, accelerators_per_node=p.accelerators, local_batch_size=p.batch,
            eval_batch_size=p.eval_batch or p.batch, batch_norm_group=p.batch_norm_group,
            epochs=p.epochs, walltime_minutes=p.minutes, experiments=5, learning_rate_per_32=p.learning_rate,
            warmup_epochs=p.warmup_epochs, weight_decay=p.weight_decay, decay_epochs=p.decay)
        for name, p in _PUBLISHED.items()}
    return {'smoke': smoke_recipe(), **published}


def smoke_recipe() -> SsdRecipe:
    """Return the recipe that trains a reduced SSD on generated scenes in minutes on two CPU cores."""
    return SsdRecipe(
        name='smoke', tier=Tier.SMOKE, division=Division.OPEN, architecture='ssd_smoke', dataset='generated-coco',
        pretrained_backbone=False, local_batch_size=16, eval_batch_size=32, epochs=32, walltime_minutes=15,
        learning_rate_per_32=0.02, warmup_epochs=1.0, decay_epochs=(16, 24), evaluation_interval=2,
        quality_target={'bbox': 0.28})
