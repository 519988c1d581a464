"""Recipes of SSD300-ResNet34 on COCO 2017: hyperparameters, published configurations, closed-division rules.

Sources: MLPerf Training rules v1.1 and the configurations of the v0.7 to v1.1 submissions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlperf_det.recipes.recipe import Division, Recipe, Tier

#: Images of train2017 that have at least one annotation: what one epoch means (rules v1.1).
TRAIN_SAMPLES = 117_266
#: All images of val2017.
EVAL_SAMPLES = 5_000
#: Box AP at IoU .50:.95, all areas, at most 100 detections an image (rules v1.1).
QUALITY_TARGET: Mapping[str, float] = MappingProxyType({'bbox': 0.23})


@dataclass(frozen=True, kw_only=True)
class SsdRecipe(Recipe):
    """Hyperparameters of SSD. Learning rates are stated as in the rules: for a batch of 32, scaled linearly."""

    benchmark: str = 'ssd'
    ruleset: str = '1.1.0'
    dataset: str = 'coco2017'
    quality_target: Mapping[str, float] = QUALITY_TARGET
    #: 'ssd300_resnet34' is the benchmark; 'ssd_smoke' a small network of the same build for CPU minutes
    architecture: Literal['ssd300_resnet34', 'ssd_smoke'] = 'ssd300_resnet34'
    #: peak rate at batch 32; the peak of a run is this times global batch / 32
    learning_rate_per_32: float = 2.5e-3
    warmup_epochs: float = 0.0
    #: rate at step i of W: peak - (W - i) * peak / (W * 2**factor)
    warmup_factor: int = 0
    weight_decay: float = 5e-4
    #: completed epochs after which the rate falls to a tenth
    decay_epochs: tuple[int, int] = (40, 50)
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

    def evaluates_after(self, epoch: int) -> bool:
        """Say whether the model is evaluated after ``epoch`` completed epochs."""
        return epoch % self.evaluation_interval == 0 or epoch in self.evaluation_epochs


def smoke_recipe() -> SsdRecipe:
    """Return the recipe that trains a reduced SSD on generated scenes in minutes on two CPU cores."""
    return SsdRecipe(
        name='smoke', tier=Tier.SMOKE, division=Division.OPEN, architecture='ssd_smoke', dataset='generated-coco',
        pretrained_backbone=False, local_batch_size=16, eval_batch_size=32, epochs=60, walltime_minutes=15,
        learning_rate_per_32=0.1, warmup_epochs=1.0, decay_epochs=(40, 50), evaluation_interval=1,
        quality_target={'bbox': 0.30})
