"""What the Mask R-CNN benchmark is: R50-FPN on COCO 2017 (MLPerf Training v0.5 to v3.1), composed for the loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mlperf_det.benchmarks.dataset_task import DatasetTask, verified_backbone
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.aspect_sampler import steps_per_epoch
from mlperf_det.data.backbone import VerifiedBackbone, read_arrays
from mlperf_det.data.batch import Batch
from mlperf_det.data.coco_masks import read_outlines
from mlperf_det.data.layout import Dataset, check_unchanged, open_dataset
from mlperf_det.data.loader import default_workers
from mlperf_det.data.maskrcnn_input import (
    MIRROR_PROBABILITY,
    MaskImageSource,
    ResizeTransform,
    evaluation_batches,
    train_batches,
    training_targets,
)
from mlperf_det.errors import UserError
from mlperf_det.evaluation.mask_rle import mask_encoder
from mlperf_det.evaluation.rows import DetectionRows, rows_from_detections
from mlperf_det.models.detections import Detections
from mlperf_det.models.frozen_batch_norm import calibrate_frozen_norms
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MASKRCNN_SMOKE, MaskRcnn, MaskRcnnArchitecture
from mlperf_det.models.msra_backbone import CHANNEL_ORDER, load_msra_weights
from mlperf_det.recipes.maskrcnn import MaskRcnnRecipe
from mlperf_det.recipes.maskrcnn_yardstick import hopeless
from mlperf_det.recipes.recipe import Recipe

_ARCHITECTURES: Mapping[str, MaskRcnnArchitecture] = MappingProxyType({
    'maskrcnn_r50_fpn': MASKRCNN_R50_FPN,
    'maskrcnn_smoke': MASKRCNN_SMOKE,
})
#: Fixed by the rules; weights decay, biases do not and learn at twice the rate.
MOMENTUM, WEIGHT_DECAY, DECAY_FACTOR, BIAS_RATE = 0.9, 1e-4, 0.1, 2.0
#: Pixels of the square noise that random weights are calibrated on.
CALIBRATION_SIZE = 128
#: First rounds whose logs state the steps that gradients are gathered over; the batch of an accelerator and the names
#: of the initialised tensors.
_ACCUMULATION_SINCE, _NAMES_SINCE = '1.0.0', '1.1.0'
#: Name in the rules -> the layer here, in the order of the published logs.
_LOGGED_LAYERS: Mapping[str, str] = MappingProxyType({
    **{f'FPN_{kind}_block{level + 1}': f'backbone.fpn.{kind}_blocks.{level}'
       for level in range(4) for kind in ('inner', 'layer')},
    'RPNHead_conv': 'rpn.conv', 'RPNHead_cls': 'rpn.cls_logits', 'RPNHead_bbox': 'rpn.bbox_pred',
    'ROI_BOX_FEATURE_EXTRACTOR_fc6': 'roi_heads.box_head.fc6',
    'ROI_BOX_FEATURE_EXTRACTOR_fc7': 'roi_heads.box_head.fc7',
    'ROI_BOX_PREDICTOR_cls': 'roi_heads.box_predictor.cls_score',
    'ROI_BOX_PREDICTOR_bbox': 'roi_heads.box_predictor.bbox_pred',
    **{f'ROI_MASK_FEATURE_EXTRACTOR_fcn{index + 1}': f'roi_heads.mask_head.{2 * index}' for index in range(4)},
    'ROI_MASK_PREDICTOR_fcn5': 'roi_heads.mask_predictor.conv5_mask',
    'ROI_MASK_PREDICTOR_fcn_logits': 'roi_heads.mask_predictor.mask_fcn_logits',
})


def build_task(recipe: Recipe, data_root: Path, backbone: Path | None) -> MaskRcnnTask:
    """Return the task of a Mask R-CNN recipe on the dataset below ``data_root``.

    Raises:
        UserError: dataset, backbone file or number of classes does not fit the recipe.
    """
    if not isinstance(recipe, MaskRcnnRecipe):
        raise UserError(f'recipe {recipe.name}: is a {type(recipe).__name__}; benchmark maskrcnn needs a '
                        'MaskRcnnRecipe')
    verified = verified_backbone(recipe, backbone, 'r50-msra')
    return MaskRcnnTask(recipe, open_dataset(recipe.dataset, data_root), verified)


class MaskRcnnTask(DatasetTask):
    """Mask R-CNN bound to a recipe, a verified dataset and a backbone file."""

    static_graph = True
    logs_blocks = True

    def __init__(self, recipe: MaskRcnnRecipe, dataset: Dataset, backbone: VerifiedBackbone | None) -> None:
        super().__init__(dataset, backbone)
        self.recipe: MaskRcnnRecipe = recipe
        self.train_samples = dataset.split('train').substantial_images
        self.eval_samples = dataset.split('val').images
        self.architecture = _architecture(recipe.architecture, len(self.category_ids), self.annotations)

    @cached_property
    def _train_source(self) -> MaskImageSource:
        split = self._dataset.split('train')
        # Trimmed annotation files have no outlines.
        path = check_unchanged(split.source, split.source_sha256)
        targets = training_targets(read_annotations(path))
        source = MaskImageSource(targets, split.image_root, read_outlines(path, targets.annotation_ids),
                                 fixed_shapes=self.recipe.fixed_shapes)
        return self.counted(source, self.train_samples)

    @cached_property
    def _evaluation_source(self) -> MaskImageSource:
        split = self._dataset.split('val')
        annotations = read_annotations(check_unchanged(split.source, split.source_sha256))
        source = MaskImageSource(annotations, split.image_root, None, fixed_shapes=self.recipe.fixed_shapes)
        return self.counted(source, self.eval_samples)

    def build_model(self) -> MaskRcnn:
        """Return the network with its backbone weights loaded, or drawn at random if the recipe says so."""
        model = MaskRcnn(self.architecture, self.recipe.num_image_candidates)
        if self._backbone is not None:
            load_msra_weights(model.backbone.body, read_arrays(self._backbone), source=str(self._backbone.path))
        else:
            calibrate_frozen_norms(model, lambda images: model.backbone(model.less_mean(images)),
                                   image_size=CALIBRATION_SIZE)
        return model

    def build_optimizer(self, model: nn.Module, implementation: Mapping[str, bool]) -> torch.optim.Optimizer:
        """Return SGD with a group of weights and a group of biases."""
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        weights = [parameter for name, parameter in trained if 'bias' not in name]
        biases = [parameter for name, parameter in trained if 'bias' in name]
        rate = self.recipe.base_learning_rate
        return torch.optim.SGD([{'params': weights, 'lr': rate, 'weight_decay': WEIGHT_DECAY},
                                {'params': biases, 'lr': BIAS_RATE * rate, 'weight_decay': 0.0}],
                               lr=rate, momentum=MOMENTUM, **implementation)

    def learning_rates(self, step: int) -> tuple[float, float]:
        """Return the rates of weights and biases for step ``step`` (from 0).

        Both lose (W - step) * factor during the W steps of warm-up. The factor is absolute and made for the weights,
        which start at 0; so the biases start at half of their own rate (MLPerf reference).
        """
        recipe = self.recipe
        missing = max(0, recipe.warmup_steps - step) * recipe.warmup_factor
        decay: float = DECAY_FACTOR ** sum(step >= milestone for milestone in recipe.decay_steps)
        rates = (recipe.base_learning_rate, BIAS_RATE * recipe.base_learning_rate)
        weights, biases = (rate - missing if step < recipe.warmup_steps else rate * decay for rate in rates)
        return weights, biases

    def steps_per_epoch(self) -> int:
        """Return the optimiser steps of one epoch."""
        return steps_per_epoch(self.train_samples, self.recipe.local_batch_size, self.recipe.world_size)

    def train_batches(self, *, epoch: int, skip: int, rank: int, world_size: int, seed: int) -> Iterable[Batch]:
        """Yield this rank's batches of one epoch."""
        return train_batches(
            self._train_source, self._transform(MIRROR_PROBABILITY), epoch=epoch, skip=skip, rank=rank,
            world_size=world_size, seed=seed, batch_size=self.recipe.local_batch_size,
            workers=self.recipe.runtime.loader_workers)

    def evaluation_batches(self, *, rank: int, world_size: int) -> Iterable[Batch]:
        """Yield this rank's share of the validation images, those without annotations included."""
        return evaluation_batches(
            self._evaluation_source, self._transform(0.0), rank=rank, world_size=world_size,
            batch_size=self.recipe.eval_batch_size, workers=self.recipe.runtime.loader_workers)

    def detection_rows(self, detections: Detections, batch: Batch) -> DetectionRows:
        """Turn the detections into rows, their masks into run lengths on the CPUs that the loader leaves."""
        encoder = mask_encoder(batch.sizes.cpu().numpy(), threads=default_workers())
        return rows_from_detections(detections, batch.image_ids.cpu().numpy(), self.category_ids, encoder)

    def gives_up(self, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Return why the run should end after ``epoch`` epochs without convergence, if the recipe allows that."""
        if not self.recipe.early_abort:
            return None
        return hopeless(epoch, self.recipe.global_batch_size, metrics['bbox'])

    @property
    def annotations(self) -> Path:
        """Annotation file of the validation split, the one with masks."""
        return self._dataset.split('val').source

    @property
    def iou_types(self) -> tuple[str, ...]:
        """Boxes and masks."""
        return ('bbox', 'segm')

    def mllog_hyperparameters(self) -> list[tuple[str, Any]]:
        """Return the hyperparameter events in the order of the round's published logs; samples are images."""
        recipe = self.recipe
        accumulation = [('gradient_accumulation_steps', 1)] if recipe.ruleset >= _ACCUMULATION_SINCE else []
        return [
            *([('d_batch_size', recipe.local_batch_size)] if recipe.ruleset >= _NAMES_SINCE else []),
            ('global_batch_size', recipe.global_batch_size),
            ('num_image_candidates', recipe.num_image_candidates),
            *accumulation,
            ('weights_initialization', None),
            ('opt_name', 'sgd_with_momentum'),
            ('opt_base_learning_rate', recipe.base_learning_rate),
            ('opt_learning_rate_warmup_steps', recipe.warmup_steps),
            ('opt_learning_rate_warmup_factor', recipe.warmup_factor),
            ('opt_learning_rate_decay_factor', DECAY_FACTOR),
            ('opt_learning_rate_decay_steps', list(recipe.decay_steps)),
            ('min_image_size', recipe.min_image_size),
            ('max_image_size', recipe.max_image_size),
            ('run_start', None),
            ('train_samples', self.train_samples),
            ('eval_samples', self.eval_samples),
        ]

    def initialized_tensors(self, model: nn.Module) -> list[str]:
        """Return the names that the rules give to the layers drawn at random; none before round v1.1."""
        return mlperf_layer_names(model) if self.recipe.ruleset >= _NAMES_SINCE else []

    def backbone_record(self) -> Mapping[str, Any] | None:
        """Return name, SHA-256 and colour order of the backbone's published file; None when drawn at random."""
        record = super().backbone_record()
        return None if record is None else {**record, 'channel_order': CHANNEL_ORDER}

    def _transform(self, mirror_probability: float) -> ResizeTransform:
        return ResizeTransform(self.recipe.min_image_size, self.recipe.max_image_size, mirror_probability)


def mlperf_layer_names(model: nn.Module) -> list[str]:
    """Return the rules' names of all layers with random initial values; every layer but the backbone's has one."""
    layers = {name.rsplit('.', 1)[0] for name, _ in model.named_parameters() if not name.startswith('backbone.body.')}
    assert layers == set(_LOGGED_LAYERS.values()), 'the network and the table of names differ'
    return list(_LOGGED_LAYERS)


def _architecture(name: str, categories: int, annotations: Path) -> MaskRcnnArchitecture:
    """Return the named architecture; the reduced one takes as many classes as the data have."""
    architecture = _ARCHITECTURES[name]
    if name == 'maskrcnn_smoke':
        return dataclasses.replace(architecture, num_classes=categories)
    if categories != architecture.num_classes:
        raise UserError(f'{annotations}: has {categories} categories, {name} has {architecture.num_classes}; '
                        'give the COCO 2017 annotations')
    return architecture
