"""Recipes of Mask R-CNN R50-FPN on COCO 2017: hyperparameters, published configurations, closed-division rules.

Sources: the MLPerf Training rules of round v0.7, the training reference, and the configurations and logs of the
v0.7 to v3.1 submissions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from mlperf_det.recipes.recipe import Division, Recipe, RuleCheck, Tier

#: Images of train2017 left after dropping those without annotations and those whose boxes all have a side <= 1.
TRAIN_SAMPLES = 117_266
#: All images of val2017.
EVAL_SAMPLES = 5_000
#: Box and mask AP at IoU .50:.95, reached in the same evaluation.
QUALITY_TARGET: Mapping[str, float] = MappingProxyType({'bbox': 0.377, 'segm': 0.339})
#: The reference's learning-rate milestones at batch 16; a submission scales them by (1 + K/10) * 16 / batch.
REFERENCE_DECAY_STEPS = (60_000, 80_000)
#: Values of K that the reference and the published runs used: 0, then 2 up to batch 128, 5 at 256.
PUBLISHED_STRETCHES = range(6)
#: Rounds that had the benchmark with these rules and this log form.
RULESETS = ('0.7.0', '1.0.0', '1.1.0', '2.0.0', '2.1.0', '3.0.0', '3.1.0')
#: From this round on batches below 16 may take a whole part of 0.02 as their rate.
_SMALL_RATES_SINCE = '2.0.0'
#: Proposals an image that the published configurations keep in training, over the batch of an accelerator.
CANDIDATES_PER_IMAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class MaskRcnnRecipe(Recipe):
    """Hyperparameters of Mask R-CNN. Rates and milestones are stated for the recipe's own global batch, as logged."""

    benchmark: str = 'maskrcnn'
    ruleset: str = '0.7.0'
    dataset: str = 'coco2017'
    pretrained_backbone: bool = True
    quality_target: Mapping[str, float] = field(default_factory=lambda: dict(QUALITY_TARGET))
    #: 'maskrcnn_r50_fpn' is the benchmark; 'maskrcnn_smoke' a small network of the same build for CPU minutes
    architecture: Literal['maskrcnn_r50_fpn', 'maskrcnn_smoke'] = 'maskrcnn_r50_fpn'
    #: rate of the weights after warm-up; biases train at twice this rate
    base_learning_rate: float
    warmup_steps: int
    #: absolute step of the rate: at step i of W it is base - (W - i) * factor, for weights and biases alike
    warmup_factor: float
    #: steps after which the rate falls to a tenth
    decay_steps: tuple[int, int]
    #: training proposals kept over all images of an accelerator
    num_image_candidates: int
    #: pixels of the short side, and most pixels of the long side
    min_image_size: int = 800
    max_image_size: int = 1333
    #: pad every batch to 800x1344 or 1344x800, so that backbone and RPN see two shapes only (graph capture)
    fixed_shapes: bool = False
    #: give up a run whose box AP is under half of what published runs have at its epoch
    early_abort: bool = False

    def problems(self) -> list[str]:
        """Return what makes the recipe impossible to run, or certain to miss its target, as ``field: what``."""
        found = super().problems()
        if self.ruleset not in RULESETS:
            found.append(f'ruleset: {self.ruleset} does not have this benchmark; choose one of {", ".join(RULESETS)}')
        if not 0 < self.decay_steps[0] < self.decay_steps[1]:
            found.append(f'decay_steps: {list(self.decay_steps)} must rise')
        if self.base_learning_rate <= 0 or self.warmup_steps < 0:
            found.append('base_learning_rate, warmup_steps: must not be negative (the rate not 0)')
        if self.warmup_steps * self.warmup_factor > self.base_learning_rate * (1 + 1e-6):
            found.append(f'warmup_factor: {self.warmup_steps} steps of {self.warmup_factor} exceed the base rate '
                         f'{self.base_learning_rate}; the warm-up would start below zero')
        if self.architecture != 'maskrcnn_r50_fpn':
            if self.early_abort:
                found.append('early_abort: what published runs have by an epoch says nothing about the reduced network')
            return found
        expected = CANDIDATES_PER_IMAGE * self.local_batch_size
        if self.num_image_candidates != expected:
            found.append(f'num_image_candidates: {self.num_image_candidates} leaves '
                         f'{self.num_image_candidates // self.local_batch_size} proposals an image; with '
                         f'{self.local_batch_size} images an accelerator it must be {expected}')
        stretch = _stretch(self.decay_steps, self.global_batch_size)
        if self.tier is Tier.CONVERGENCE and (stretch is None or stretch not in PUBLISHED_STRETCHES):
            found.append(f'decay_steps: {list(self.decay_steps)} do not follow the batch of {self.global_batch_size}: '
                         'they are [60000, 80000] * (1 + K/10) * 16 / batch, with K from 0 to 5 in all that converged '
                         f'(here {"no integer" if stretch is None else stretch})')
        return found

    def closed_rules(self) -> list[RuleCheck]:
        """Return the closed-division rules of the recipe's round held against it."""
        small = self.ruleset >= _SMALL_RATES_SINCE and self.global_batch_size < 16
        candidates = {1000, 2000, CANDIDATES_PER_IMAGE * self.local_batch_size}
        return [
            *super().closed_rules(),
            *self._benchmark_rules(
                architecture=self.architecture, model='maskrcnn_r50_fpn', dataset='coco2017', target=QUALITY_TARGET,
                weights='the given ImageNet weights (MSRA R-50)'),
            RuleCheck(key='opt_base_learning_rate', value=self.base_learning_rate,
                      kept=_is_multiple(self.base_learning_rate, 0.02)
                      or (small and _is_multiple(0.02, self.base_learning_rate)),
                      rule='it is a multiple of 0.02' + ', or 0.02 is a multiple of it' * small),
            RuleCheck(key='opt_learning_rate_warmup_steps', value=self.warmup_steps, rule='it is at least 0',
                      kept=self.warmup_steps >= 0),
            RuleCheck(key='opt_learning_rate_warmup_factor', value=self.warmup_factor, rule='it is above 0',
                      kept=self.warmup_factor > 0),
            RuleCheck(key='opt_learning_rate_decay_steps', value=list(self.decay_steps),
                      kept=_stretch(self.decay_steps, self.global_batch_size) is not None,
                      rule='they are [60000, 80000] * (1 + K/10) * 16 / global batch with an integer K'),
            RuleCheck(key='num_image_candidates', value=self.num_image_candidates,
                      kept=self.num_image_candidates in candidates,
                      rule='it is 1000, 2000, or 1000 times the images of an accelerator'),
            RuleCheck(key='min_image_size', value=self.min_image_size, kept=self.min_image_size == 800,
                      rule='it is 800'),
            RuleCheck(key='max_image_size', value=self.max_image_size, kept=self.max_image_size == 1333,
                      rule='it is 1333'),
        ]


def _is_multiple(value: float, unit: float) -> bool:
    """Say so up to the tolerance of MLPerf's checker, because 0.14 is not seven times 0.02 in floating point."""
    quotient = value / unit if unit > 0 else 0.0
    return quotient > 0.5 and abs(quotient - round(quotient)) < 1e-5


def _stretch(steps: tuple[int, int], batch: int) -> int | None:
    """Return the K of the 16/batch rule that gives these milestones, rounded either way; None if no integer does."""
    for k in range(-9, 100):
        exact = [step * (1 + k / 10) * 16 / batch for step in REFERENCE_DECAY_STEPS]
        if all(abs(step - value) < 1 for step, value in zip(steps, exact, strict=True)):
            return k
    return None


class _Published(NamedTuple):
    """A configuration as submitted: geometry, learning-rate block, limits. Minutes are of one run."""

    nodes: int
    accelerators: int
    batch: int
    learning_rate: float
    warmup_steps: int
    warmup_factor: float
    decay: tuple[int, int]
    epochs: int
    eval_batch: int
    minutes: int
    ruleset: str = RULESETS[0]


_PUBLISHED: Mapping[str, _Published] = MappingProxyType({
    'nvidia-1x8x6': _Published(1, 8, 6, 0.06, 625, 0.000096, (24_000, 32_000), 32, 1, 240),
    'nvidia-1x8x8': _Published(1, 8, 8, 0.08, 800, 0.0001, (18_000, 24_000), 21, 1, 120),
    'nvidia-1x16x6': _Published(1, 16, 6, 0.12, 625, 0.000192, (12_000, 16_000), 34, 1, 120),
    'nvidia-2x8x6': _Published(2, 8, 6, 0.12, 625, 0.000192, (12_000, 16_000), 34, 1, 120),
    'nvidia-4x16x2': _Published(4, 16, 2, 0.16, 625, 0.000256, (9_000, 12_000), 43, 1, 240),
    'nvidia-4x8x4': _Published(4, 8, 4, 0.16, 625, 0.000256, (9_000, 12_000), 43, 2, 240),
    'nvidia-16x16x1': _Published(16, 16, 1, 0.24, 1800, 0.000133, (5_625, 7_500), 87, 1, 120),
    'nvidia-32x8x1': _Published(32, 8, 1, 0.24, 1800, 0.000133, (5_625, 7_500), 87, 1, 120),
    'nvidia-1x8x12': _Published(1, 8, 12, 0.12, 625, 0.000192, (12_000, 16_000), 34, 1, 120),
    'dell-1x4x12': _Published(1, 4, 12, 0.06, 625, 0.000096, (24_000, 32_000), 32, 2, 240),
    'dell-1x4x24': _Published(1, 4, 24, 0.12, 625, 0.000192, (12_000, 16_000), 34, 4, 240),
    'azure-34x8x1': _Published(34, 8, 1, 0.24, 1800, 0.000133, (5_294, 7_058), 92, 1, 60),
    'nvidia-1x2x4': _Published(1, 2, 4, 0.01, 500, 0.00002, (144_000, 192_000), 20, 4, 720, ruleset='2.0.0'),
    # 4 nodes of 4 accelerators at batch 128: the learning-rate block of 4x8x4 with twice the images an accelerator.
    'lanta-4x4x8': _Published(4, 4, 8, 0.16, 625, 0.000256, (9_000, 12_000), 43, 4, 120),
    'lanta-4x4x6': _Published(4, 4, 6, 0.12, 625, 0.000192, (12_000, 16_000), 34, 4, 120),
})


def builtin_recipes() -> dict[str, MaskRcnnRecipe]:
    """Return the smoke recipe and the published ones by name (``source-nodes x accelerators x images of each``)."""
    published = {
        name: MaskRcnnRecipe(
            name=name, tier=Tier.CONVERGENCE, division=Division.CLOSED,
            ruleset=p.ruleset, nodes=p.nodes, accelerators_per_node=p.accelerators, local_batch_size=p.batch,
            eval_batch_size=p.eval_batch, epochs=p.epochs, walltime_minutes=p.minutes, experiments=5,
            base_learning_rate=p.learning_rate, warmup_steps=p.warmup_steps, warmup_factor=p.warmup_factor,
            decay_steps=p.decay, num_image_candidates=CANDIDATES_PER_IMAGE * p.batch)
        for name, p in _PUBLISHED.items()}
    return {'smoke': smoke_recipe(), **published}


def smoke_recipe() -> MaskRcnnRecipe:
    """Return the recipe that trains a reduced Mask R-CNN on generated scenes in minutes on two CPU cores."""
    return MaskRcnnRecipe(
        name='smoke', tier=Tier.SMOKE, division=Division.OPEN, architecture='maskrcnn_smoke', dataset='generated-coco',
        pretrained_backbone=False, local_batch_size=8, eval_batch_size=20, epochs=14, walltime_minutes=15,
        base_learning_rate=0.02, warmup_steps=200, warmup_factor=0.0001, decay_steps=(1_500, 2_100),
        num_image_candidates=800, min_image_size=112, max_image_size=192, quality_target={'bbox': 0.25, 'segm': 0.25})
