"""What the RetinaNet benchmark is: RetinaNet-ResNeXt50 on OpenImages (MLPerf Training v2.0 to v5.1), for the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mlperf_det.benchmarks.dataset_task import DatasetTask, verified_backbone
from mlperf_det.data.annotation_cache import read_cached
from mlperf_det.data.backbone import VerifiedBackbone, read_arrays
from mlperf_det.data.batch import Batch
from mlperf_det.data.device_decode import BatchDecoder, EncodedSource, batch_decoder, decoded
from mlperf_det.data.layout import Dataset, check_unchanged, open_dataset
from mlperf_det.data.loader import ImageSource, evaluation_batches, steps_per_epoch, train_batches
from mlperf_det.data.retinanet_input import RetinaNetTransform, check_box_count, pad_boxes
from mlperf_det.errors import UserError
from mlperf_det.models.frozen_batch_norm import calibrate_frozen_norms
from mlperf_det.models.resnet_fpn import load_body
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RETINANET_SMOKE, RetinaNet, RetinaNetArchitecture
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.recipes.retinanet import RetinaNetRecipe
from mlperf_det.training.device import current_device

_ARCHITECTURES: Mapping[str, RetinaNetArchitecture] = MappingProxyType({
    'retinanet_resnext50': RETINANET_RESNEXT50,
    'retinanet_smoke': RETINANET_SMOKE,
})
#: Fixed by the rules (PyTorch's defaults).
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
#: Beginnings of parameter names in the order in which published logs list their tensors.
_LOGGED_ORDER = ('backbone.fpn.extra_blocks.', 'backbone.body.', 'backbone.fpn.', 'head.classification_head.',
                 'head.regression_head.bbox_reg.', 'head.regression_head.')


def build_task(recipe: Recipe, data_root: Path, backbone: Path | None) -> RetinaNetTask:
    """Return the task of a RetinaNet recipe on the dataset below ``data_root``.

    Raises:
        UserError: dataset, backbone file or number of classes does not fit the recipe.
    """
    if not isinstance(recipe, RetinaNetRecipe):
        raise UserError(f'recipe {recipe.name}: is a {type(recipe).__name__}; benchmark retinanet needs a '
                        'RetinaNetRecipe')
    verified = verified_backbone(recipe, backbone, 'resnext50')
    return RetinaNetTask(recipe, open_dataset(recipe.dataset, data_root), verified)


class RetinaNetTask(DatasetTask):
    """RetinaNet bound to a recipe, a verified dataset and a backbone file."""

    static_graph = True
    #: published logs count epochs from 0, and evaluations by the completed epochs
    first_epoch_num = 0

    def __init__(self, recipe: RetinaNetRecipe, dataset: Dataset, backbone: VerifiedBackbone | None) -> None:
        super().__init__(dataset, backbone)
        self.recipe: RetinaNetRecipe = recipe
        self.train_samples = dataset.split('train').images
        self.eval_samples = dataset.split('val').images
        self.architecture = _architecture(recipe.architecture, self.category_ids, self.annotations)
        size = self.architecture.image_size
        self._train_transform = RetinaNetTransform(size)
        self._evaluation_transform = RetinaNetTransform(size, mirror_probability=0.0)

    @cached_property
    def _train_source(self) -> ImageSource:
        source = self._source('train', self.train_samples)
        check_box_count(source.annotations, self.recipe.max_boxes)
        return source

    @cached_property
    def _evaluation_source(self) -> ImageSource:
        split = self._dataset.split('val')
        # Scores are computed from the file itself, whatever the columns beside it hold.
        check_unchanged(split.annotations, split.annotations_sha256)
        source, train = self._source('val', self.eval_samples), self._train_source
        if source.annotations.category_names != train.annotations.category_names:
            raise UserError(f'{train.annotations.path}: its categories differ from those of {source.annotations.path}; '
                            'prepare both splits from one source')
        return source

    def _source(self, name: str, images: int) -> ImageSource:
        """Return a split; its images come decoded, or as files for the decoder of the recipe.

        Where there are columns of the file that was verified, the file itself, 2.4 GB for training, is not read.
        """
        split = self._dataset.split(name)
        annotations = read_cached(split.annotations, split.annotations_sha256)
        kind = ImageSource if self.recipe.runtime.decoder == 'cpu' else EncodedSource
        # Images without boxes are trained on as well: all background.
        return self.counted(kind(annotations, split.image_root, drop_empty=False), images)

    @cached_property
    def _decoder(self) -> BatchDecoder:
        runtime, size = self.recipe.runtime, self.architecture.image_size
        assert runtime.decoder != 'cpu'
        most = max(self.recipe.local_batch_size, self.recipe.eval_batch_size)
        return batch_decoder(runtime.decoder, size, current_device(), batch_size=most)

    def _decoded(self, batches: Iterable[Batch], source: ImageSource) -> Iterable[Batch]:
        return decoded(batches, source, self._decoder) if isinstance(source, EncodedSource) else batches

    def build_model(self) -> RetinaNet:
        """Return the network with its backbone weights loaded, or drawn at random if the recipe says so."""
        model = RetinaNet(self.architecture)
        if self._backbone is not None:
            arrays = {name: torch.from_numpy(array) for name, array in read_arrays(self._backbone).items()}
            load_body(model.backbone.body, arrays, source=str(self._backbone.path))
        else:
            calibrate_frozen_norms(model, lambda images: model.backbone.body(model.normalised(images)),
                                   image_size=self.architecture.image_size)
        return model

    def build_optimizer(self, model: nn.Module, implementation: Mapping[str, bool]) -> torch.optim.Optimizer:
        """Return Adam with one group of the parameters that are trained, without weight decay."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.recipe.base_learning_rate, betas=ADAM_BETAS, eps=ADAM_EPSILON,
                                weight_decay=0, **implementation)

    def learning_rates(self, step: int) -> tuple[float]:
        """Return the rate of step ``step`` (from 0): linear warm-up, then constant."""
        return (self.recipe.learning_rate(step, self.steps_per_epoch()),)

    def steps_per_epoch(self) -> int:
        """Return the optimiser steps of one epoch."""
        return steps_per_epoch(self.train_samples, self.recipe.local_batch_size, self.recipe.world_size)

    def train_batches(self, *, epoch: int, skip: int, rank: int, world_size: int, seed: int) -> Iterable[Batch]:
        """Yield this rank's batches of one epoch; compiled and recorded steps get them in one shape."""
        source, runtime = self._train_source, self.recipe.runtime
        batches = self._decoded(train_batches(
            source, self._train_transform, epoch=epoch, skip=skip, rank=rank, world_size=world_size, seed=seed,
            batch_size=self.recipe.local_batch_size, workers=runtime.loader_workers), source)
        if runtime.compile == 'off' and not runtime.cuda_graph:
            return batches
        return (pad_boxes(batch, self.recipe.max_boxes) for batch in batches)

    def evaluation_batches(self, *, rank: int, world_size: int) -> Iterable[Batch]:
        """Yield this rank's share of the validation images."""
        source = self._evaluation_source
        return self._decoded(evaluation_batches(
            source, self._evaluation_transform, rank=rank, world_size=world_size,
            batch_size=self.recipe.eval_batch_size, workers=self.recipe.runtime.loader_workers), source)

    def mllog_hyperparameters(self) -> list[tuple[str, Any]]:
        """Return the hyperparameter events in the order of the published v5.0 logs; samples are counted in images."""
        recipe = self.recipe
        return [
            ('local_batch_size', recipe.local_batch_size),
            ('global_batch_size', recipe.global_batch_size),
            ('epoch_count', recipe.epochs),
            ('first_epoch_num', self.first_epoch_num),
            ('weights_initialization', None),  # takes the tensors' place in the order of these logs
            ('opt_name', 'adam'),
            ('opt_base_learning_rate', recipe.base_learning_rate),
            ('opt_weight_decay', 0),
            ('opt_learning_rate_warmup_epochs', recipe.warmup_epochs),
            ('opt_learning_rate_warmup_factor', recipe.warmup_factor),
            ('gradient_accumulation_steps', 1),
            ('train_samples', self.train_samples),
            ('eval_samples', self.eval_samples),
        ]

    def initialized_tensors(self, model: nn.Module) -> list[str]:
        """Return the parameters' names as the rules of rounds v2.0 and v2.1 list them, in the order of the logs."""
        return mlperf_tensor_names(model)


def mlperf_tensor_names(model: nn.Module) -> list[str]:
    """Return all parameters' names, prefixed ``module.`` as in the rules, in the order of the published logs."""
    def rank(name: str) -> int:
        return next(index for index, beginning in enumerate(_LOGGED_ORDER) if name.startswith(beginning))

    return [f'module.{name}' for name in sorted((name for name, _ in model.named_parameters()), key=rank)]


def _architecture(name: str, ids: Sequence[int], annotations: Path) -> RetinaNetArchitecture:
    """Return the named architecture; the reduced one takes as many classes as the data have."""
    architecture = _ARCHITECTURES[name]
    if name == 'retinanet_smoke':
        return dataclasses.replace(architecture, num_classes=len(ids))
    if len(ids) != architecture.num_classes:
        raise UserError(f'{annotations}: has {len(ids)} categories, {name} has {architecture.num_classes}; '
                        'give the annotations of the MLPerf subset')
    if list(ids) != list(range(len(ids))):
        raise UserError(f'{annotations}: category ids run from {min(ids)} to {max(ids)}, not from 0 to '
                        f'{len(ids) - 1} in order; run `mlperf-det data prepare openimages-mlperf`, which renumbers')
    return architecture
