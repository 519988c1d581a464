"""What the SSD benchmark is: SSD300-ResNet34 on COCO 2017 (MLPerf Training v0.5 to v1.1), composed for the loop."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mlperf_det.benchmarks.dataset_task import DatasetTask, verified_backbone
from mlperf_det.data.annotation_cache import read_cached
from mlperf_det.data.backbone import VerifiedBackbone
from mlperf_det.data.batch import Batch
from mlperf_det.data.layout import Dataset, check_unchanged, open_dataset
from mlperf_det.data.loader import ImageSource, evaluation_batches, steps_per_epoch, train_batches
from mlperf_det.data.transforms import SquashTransform, SsdTrainTransform
from mlperf_det.errors import UserError
from mlperf_det.models.backbone_weights import load_resnet_backbone
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34, SSD_SMOKE, SsdArchitecture
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.recipes.ssd import SsdRecipe
from mlperf_det.training.batch_norm import average_statistics, group_batch_norms

_ARCHITECTURES: Mapping[str, SsdArchitecture] = MappingProxyType({
    'ssd300_resnet34': SSD300_RESNET34,
    'ssd_smoke': SSD_SMOKE,
})
#: MLPerf fixes momentum and the factor of each decay.
MOMENTUM = 0.9
DECAY_FACTOR = 0.1


def build_task(recipe: Recipe, data_root: Path, backbone: Path | None) -> SsdTask:
    """Return the task of an SSD recipe on the dataset below ``data_root``.

    Raises:
        UserError: dataset, backbone file or number of classes does not fit the recipe.
    """
    if not isinstance(recipe, SsdRecipe):
        raise UserError(f'recipe {recipe.name}: is a {type(recipe).__name__}; benchmark ssd needs an SsdRecipe')
    verified = verified_backbone(recipe, backbone, 'resnet34')
    return SsdTask(recipe, open_dataset(recipe.dataset, data_root), verified)


class SsdTask(DatasetTask):
    """SSD bound to a recipe, a verified dataset and a backbone file."""

    static_graph = True

    def __init__(self, recipe: SsdRecipe, dataset: Dataset, backbone: VerifiedBackbone | None) -> None:
        super().__init__(dataset, backbone)
        self.recipe: SsdRecipe = recipe
        self.train_samples = dataset.split('train').annotated_images
        self.eval_samples = dataset.split('val').images
        self.architecture = _architecture(recipe.architecture, len(self.category_ids), self.annotations)
        size = self.architecture.image_size
        self._train_transform = SsdTrainTransform(size, recipe.crop_attempts)
        self._evaluation_transform = SquashTransform(size, antialias=True)

    @cached_property
    def _train_source(self) -> ImageSource:
        split = self._dataset.split('train')
        annotations = read_cached(split.annotations, split.annotations_sha256)
        return self.counted(ImageSource(annotations, split.image_root, drop_empty=True), self.train_samples)

    @cached_property
    def _evaluation_source(self) -> ImageSource:
        split = self._dataset.split('val')
        # Scores are computed from the file itself, whatever the columns beside it hold.
        path = check_unchanged(split.annotations, split.annotations_sha256)
        annotations = read_cached(path, split.annotations_sha256)
        return self.counted(ImageSource(annotations, split.image_root, drop_empty=False), self.eval_samples)

    def build_model(self) -> Ssd:
        """Return the network with its backbone weights loaded, or drawn at random if the recipe says so."""
        model = Ssd(self.architecture)
        if self._backbone is not None:
            load_resnet_backbone(model.backbone, self._backbone.path, sha256=self._backbone.sha256)
        group_batch_norms(model, self.recipe.batch_norm_group)
        return model

    def build_optimizer(self, model: nn.Module, implementation: Mapping[str, bool]) -> torch.optim.Optimizer:
        """Return SGD with one group: weight decay acts on biases and batch norms as well."""
        return torch.optim.SGD(
            model.parameters(), lr=self.recipe.base_learning_rate, momentum=MOMENTUM,
            weight_decay=self.recipe.weight_decay, **implementation)

    def learning_rates(self, step: int) -> tuple[float]:
        """Return the rate of step ``step`` (from 0): linear warm-up, then a tenth after each boundary epoch.

        Warm-up: peak - (W - step) * peak / (W * 2**factor) for the first W steps, so with factor 0 the first step
        has rate 0 (MLPerf reference).
        """
        peak = self.recipe.base_learning_rate
        warmup = self._warmup_steps
        if step < warmup:
            return (peak - (warmup - step) * peak / (warmup * 2**self.recipe.warmup_factor),)
        completed = step // self.steps_per_epoch()
        return (peak * DECAY_FACTOR ** sum(completed >= boundary for boundary in self.recipe.decay_epochs),)

    @property
    def _warmup_steps(self) -> int:
        return self.recipe.warmup_steps(self.train_samples)

    def steps_per_epoch(self) -> int:
        """Return the optimiser steps of one epoch."""
        return steps_per_epoch(self.train_samples, self.recipe.local_batch_size, self.recipe.world_size)

    def train_batches(self, *, epoch: int, skip: int, rank: int, world_size: int, seed: int) -> Iterable[Batch]:
        """Yield this rank's augmented batches of one epoch."""
        return train_batches(
            self._train_source, self._train_transform, epoch=epoch, skip=skip, rank=rank, world_size=world_size,
            seed=seed, batch_size=self.recipe.local_batch_size, workers=self.recipe.runtime.loader_workers)

    def evaluation_batches(self, *, rank: int, world_size: int) -> Iterable[Batch]:
        """Yield this rank's share of the validation images, those without annotations included."""
        return evaluation_batches(
            self._evaluation_source, self._evaluation_transform, rank=rank, world_size=world_size,
            batch_size=self.recipe.eval_batch_size, workers=self.recipe.runtime.loader_workers)

    def evaluates_after(self, epoch: int) -> bool:
        """Say whether the recipe evaluates after ``epoch`` completed epochs."""
        return self.recipe.evaluates_after(epoch)

    def before_evaluation(self, model: nn.Module) -> None:
        """Average the batch norms' running statistics over the ranks; the training goes on with the averages."""
        average_statistics(model)

    def mllog_hyperparameters(self) -> list[tuple[str, Any]]:
        """Return the hyperparameter events in the order of the published v1.1 logs."""
        recipe = self.recipe
        return [
            ('train_samples', self.train_samples),
            ('max_samples', recipe.crop_attempts),
            # The v1.1 rules ask for at least one step even of a run without warm-up.
            ('opt_learning_rate_warmup_steps', max(1, self._warmup_steps)),
            ('opt_learning_rate_warmup_factor', recipe.warmup_factor),
            ('opt_base_learning_rate', recipe.base_learning_rate),
            ('opt_learning_rate_decay_boundary_epochs', list(recipe.decay_epochs)),
            ('eval_samples', self.eval_samples),
            ('opt_weight_decay', recipe.weight_decay),
            ('weights_initialization', None),
            ('run_start', None),
            ('model_bn_span', recipe.local_batch_size * recipe.batch_norm_group),
            ('global_batch_size', recipe.global_batch_size),
            ('d_batch_size', recipe.local_batch_size),
            ('gradient_accumulation_steps', 1),
        ]

    def initialized_tensors(self, model: nn.Module) -> list[str]:
        """Return the 119 names of the v1.1 rules for SSD300, and the parameters' own names for another network."""
        assert isinstance(model, Ssd)
        if self.recipe.architecture == 'ssd300_resnet34':
            return mlperf_tensor_names(model)
        return [name for name, _ in model.named_parameters()]


def mlperf_tensor_names(model: Ssd) -> list[str]:
    """Return the names under which the rules of round v1.1 expect this network's parameters.

    They are those of the MXNet network of the submissions: convolutions and batch norms numbered within each stage in
    the order of computation, a block's shortcut last, and one fused convolution for both heads of a level.
    """
    names: dict[str, None] = {}  # an ordered set: both heads of a level have one name
    numbers: Counter[str] = Counter()
    for path, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        part, *inner = path.split('.')
        if part == 'backbone':
            stage = inner[0].replace('layer', 'stage') + '_' if inner[0] in model.backbone.stages else ''
            kind = f'ssd0_resnetmlperf0_{stage}' + ('conv' if isinstance(module, nn.Conv2d) else 'batchnorm')
            tensor = f'{kind}{numbers[kind]}'
            numbers[kind] += 1
        elif part == 'extras':
            tensor = f'ssd0_{"expand_trans" if inner[1] == "reduce" else "expand"}_conv{inner[0]}'
        else:
            tensor = f'ssd0_convpredictor{inner[0]}_conv0'
        suffixes = {} if isinstance(module, nn.Conv2d) else {'weight': 'gamma', 'bias': 'beta'}
        names |= {f'{tensor}_{suffixes.get(name, name)}': None for name, _ in module.named_parameters()}
    return list(names)


def _architecture(name: str, categories: int, annotations: Path) -> SsdArchitecture:
    """Return the named architecture; the reduced one takes as many classes as the data have."""
    architecture = _ARCHITECTURES[name]
    if name == 'ssd_smoke':
        return dataclasses.replace(architecture, num_classes=categories)
    if categories != architecture.num_classes:
        raise UserError(f'{annotations}: has {categories} categories, {name} has {architecture.num_classes}; '
                        'give the COCO 2017 annotations')
    return architecture
