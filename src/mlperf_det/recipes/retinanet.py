"""Recipes of RetinaNet on OpenImages: hyperparameters, published configurations, closed-division rules.

Sources: the MLPerf Training rules of rounds v2.0 to v5.1, the training reference, and the configurations and logs of
the submissions of these rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

from mlperf_det.recipes.recipe import Division, Recipe, RuleCheck, Tier

#: Training images of the MLPerf subset: what one epoch means. Images without a valid box are trained on, too.
TRAIN_SAMPLES = 1_170_301
#: All validation images of the subset.
EVAL_SAMPLES = 24_781
#: Box AP at IoU .50:.95, all areas, at most 100 detections an image.
QUALITY_TARGET: Mapping[str, float] = MappingProxyType({'bbox': 0.34})
#: Rounds that had the benchmark -> its name in their logs.
LOG_NAMES: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(('2.0.0', '2.1.0', '3.0.0', '3.1.0', '4.0.0', '4.1.0'), 'ssd'),
    **dict.fromkeys(('5.0.0', '5.1.0'), 'retinanet')})


@dataclass(frozen=True, kw_only=True)
class RetinaNetRecipe(Recipe):
    """Hyperparameters of RetinaNet. The learning rate is stated for the recipe's own global batch, as logged."""

    decoders: ClassVar[tuple[str, ...]] = ('cpu', 'gpu', 'dali')
    static_shapes: ClassVar[bool] = True

    benchmark: str = 'retinanet'
    ruleset: str = '5.1.0'
    dataset: str = 'openimages-mlperf'
    pretrained_backbone: bool = True
    quality_target: Mapping[str, float] = field(default_factory=lambda: dict(QUALITY_TARGET))
    #: 'retinanet_resnext50' is the benchmark; 'retinanet_smoke' a small network of the same build for CPU minutes
    architecture: Literal['retinanet_resnext50', 'retinanet_smoke'] = 'retinanet_resnext50'
    #: rate after warm-up; it never decays
    base_learning_rate: float = 1e-4
    #: whole epochs over which the rate rises linearly
    warmup_epochs: int = 1
    #: share of the base rate that the first step of a warm-up has
    warmup_factor: float = 0.001
    #: most boxes of an image; a batch is padded to this number where shapes must not change (compiled code)
    max_boxes: int = 1000

    @property
    def submission_benchmark(self) -> str:
        """Name of the benchmark in the MLPerf log of this round: 'ssd' up to v4.1, 'retinanet' from v5.0."""
        return LOG_NAMES.get(self.ruleset, self.benchmark)

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the rate of optimiser step ``step`` (from 0): base * (factor * (1 - i/W) + i/W), then constant."""
        warmup = self.warmup_epochs * steps_per_epoch
        if step >= warmup:
            return self.base_learning_rate
        share = step / warmup
        return self.base_learning_rate * (self.warmup_factor * (1 - share) + share)

    def problems(self) -> list[str]:
        """Return what makes the recipe impossible to run, each as ``field: what is wrong``."""
        found = super().problems()
        if self.base_learning_rate <= 0:
            found.append(f'base_learning_rate: {self.base_learning_rate} is not a positive number')
        if self.warmup_epochs < 0:
            found.append(f'warmup_epochs: {self.warmup_epochs} is negative')
        if not 0 <= self.warmup_factor <= 1:
            found.append(f'warmup_factor: {self.warmup_factor} is not a share of the base rate between 0 and 1')
        if self.max_boxes < 1:
            found.append(f'max_boxes: {self.max_boxes} is not a positive number')
        if self.ruleset not in LOG_NAMES:
            found.append(f'ruleset: {self.ruleset} does not have this benchmark; choose one of {", ".join(LOG_NAMES)}')
        return found

    def closed_rules(self) -> list[RuleCheck]:
        """Return the closed-division rules held against this recipe; optimiser, losses and image size are fixed."""
        return [
            *super().closed_rules(),
            *self._benchmark_rules(
                architecture=self.architecture, model='retinanet_resnext50', dataset='openimages-mlperf',
                target=QUALITY_TARGET, weights='the given ImageNet weights (ResNeXt50-32x4d, IMAGENET1K_V1)'),
            RuleCheck(key='opt_learning_rate_warmup_epochs', value=self.warmup_epochs, kept=self.warmup_epochs >= 0,
                      rule='it is an integer of at least 0 (field warmup_epochs)'),
            RuleCheck(key='opt_learning_rate_warmup_factor', value=self.warmup_factor, kept=self.warmup_factor >= 0,
                      rule='it is at least 0 (field warmup_factor)'),
            RuleCheck(key='opt_base_learning_rate', value=self.base_learning_rate, kept=self.base_learning_rate > 0,
                      rule='it is above 0 (field base_learning_rate)'),
        ]


class _Published(NamedTuple):
    """A submitted configuration: geometry, rate, limits. Minutes are of one run, or our bound where none is known."""

    nodes: int
    accelerators: int
    batch: int
    learning_rate: float
    warmup_epochs: int
    epochs: int
    minutes: int
    eval_batch: int | None = None
    warmup_factor: float = 0.001


_PUBLISHED: Mapping[str, _Published] = MappingProxyType({
    'reference-1x8x32': _Published(1, 8, 32, 1e-4, 1, 8, 480),
    'reference-2x8x16': _Published(2, 8, 16, 1e-4, 1, 8, 240),
    'reference-8x8x8': _Published(8, 8, 8, 1e-4, 1, 8, 240),
    'reference-32x8x32': _Published(32, 8, 32, 1e-4, 1, 35, 240),
    'nvidia-a100-1x8x32': _Published(1, 8, 32, 8.5e-5, 0, 8, 160),
    'nvidia-a100-8x8x4': _Published(8, 8, 4, 1e-4, 1, 8, 45),
    'nvidia-a100-160x8x1': _Published(160, 8, 1, 1.2e-4, 1, 35, 45),
    'nvidia-h100-1x8x32': _Published(1, 8, 32, 8.5e-5, 0, 8, 50, 32),
    'nvidia-h100-8x8x4': _Published(8, 8, 4, 1e-4, 1, 6, 20, 32),
    'nvidia-h100-256x8x1': _Published(256, 8, 1, 1.35e-4, 1, 12, 20, 8),
    'nvidia-h100-316x8x1': _Published(316, 8, 1, 1.35e-4, 1, 12, 30, 8),
    'nvidia-l40s-2x4x32': _Published(2, 4, 32, 8.5e-5, 0, 8, 240, 32),
    'nvidia-l40s-16x4x4': _Published(16, 4, 4, 1e-4, 1, 6, 240, 32),
    'nvidia-b200-1x8x32': _Published(1, 8, 32, 8.5e-5, 0, 8, 33, 32),
    'nvidia-gb200-2x4x32': _Published(2, 4, 32, 8.5e-5, 0, 8, 30, 32),
    'nvidia-gb200-18x4x4': _Published(18, 4, 4, 1e-4, 1, 6, 7, 32),
    'nvidia-gb200-128x4x2': _Published(128, 4, 2, 1e-4, 1, 10, 7, 32),
    'fujitsu-a100-1x8x16': _Published(1, 8, 16, 1e-4, 1, 8, 240),
    'fujitsu-a100-1x8x40': _Published(1, 8, 40, 8.5e-5, 0, 8, 240),
    'fujitsu-a100-1x10x32': _Published(1, 10, 32, 8.5e-5, 0, 8, 240),
    'fujitsu-h100-1x4x64': _Published(1, 4, 64, 8.5e-5, 0, 8, 240),
    'fujitsu-l40s-1x16x16': _Published(1, 16, 16, 8.5e-5, 0, 8, 240),
    'fujitsu-h100nvl-1x16x16': _Published(1, 16, 16, 9.5e-5, 0, 8, 240),
    'hpe-1x8x40': _Published(1, 8, 40, 8.5e-5, 0, 8, 240),
    'hpe-2x8x20': _Published(2, 8, 20, 8.5e-5, 0, 8, 240),
    'dell-h200-2x8x20': _Published(2, 8, 20, 1e-4, 0, 8, 240),
    'hpe-4x8x10': _Published(4, 8, 10, 1e-4, 1, 8, 240),
    'dell-h100nvl-1x2x64': _Published(1, 2, 64, 4.25e-5, 0, 8, 480),
    'dell-h200nvl-1x3x64': _Published(1, 3, 64, 4.25e-5, 0, 8, 480),
    'dell-l40s-1x4x16': _Published(1, 4, 16, 6e-5, 0, 5, 480),
    'supermicro-h100-1x4x32': _Published(1, 4, 32, 7.5e-5, 0, 8, 480),
    'tinycorp-1x6x16': _Published(1, 6, 16, 9.5e-5, 0, 4, 1440, None, 0.0),
})


def builtin_recipes() -> dict[str, RetinaNetRecipe]:
    """Return the smoke recipe and the published configurations (``source-nodes x accelerators x batch``) by name.

    ``reference-long-8x8x4`` is the reference's run for inference weights: open, because no target ends it early.
    """
    published = {
        name: RetinaNetRecipe(
            name=name, tier=Tier.CONVERGENCE, division=Division.CLOSED,
            nodes=p.nodes, accelerators_per_node=p.accelerators, local_batch_size=p.batch,
            eval_batch_size=p.eval_batch or p.batch, epochs=p.epochs, walltime_minutes=p.minutes, experiments=5,
            base_learning_rate=p.learning_rate, warmup_epochs=p.warmup_epochs, warmup_factor=p.warmup_factor)
        for name, p in _PUBLISHED.items()}
    long = replace(published['reference-8x8x8'], name='reference-long-8x8x4', division=Division.OPEN,
                   local_batch_size=4, eval_batch_size=4, epochs=15, experiments=1, quality_target={'bbox': 0.99})
    return {'smoke': smoke_recipe(), **published, long.name: long}


def smoke_recipe() -> RetinaNetRecipe:
    """Return the recipe that trains a reduced RetinaNet on generated scenes in minutes on two CPU cores."""
    return RetinaNetRecipe(
        name='smoke', tier=Tier.SMOKE, division=Division.OPEN, architecture='retinanet_smoke',
        dataset='generated-openimages', pretrained_backbone=False, local_batch_size=8, eval_batch_size=32, epochs=30,
        walltime_minutes=15, base_learning_rate=1e-3, warmup_epochs=1, max_boxes=64, quality_target={'bbox': 0.15})
