"""The SSD detector: ResNet backbone, extra levels, heads, loss and detections in one module."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.models.backbone_weights import IMAGE_MEAN, IMAGE_STD
from mlperf_det.models.box_coding import centers_to_corners
from mlperf_det.models.default_boxes import default_boxes
from mlperf_det.models.detections import Detections
from mlperf_det.models.resnet import ResNetBackbone
from mlperf_det.models.sparse_gradient import SparseGradientConv2d, compute_dtype
from mlperf_det.models.ssd_architecture import ExtraLayer, SsdArchitecture
from mlperf_det.models.ssd_loss import build_targets, ssd_losses
from mlperf_det.models.ssd_postprocess import postprocess


class ExtraBlock(nn.Module):
    """One extra level: 1x1 convolution, ReLU, 3x3 convolution, ReLU; with biases, without normalisation."""

    def __init__(self, inputs: int, layer: ExtraLayer) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, layer.hidden, 1)
        self.expand = nn.Conv2d(
            layer.hidden, layer.channels, 3, stride=layer.stride, padding=1 if layer.stride == 2 else 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, S, S) to (N, channels, S', S') with S' of `ExtraLayer.output_size`."""
        return F.relu(self.expand(F.relu(self.reduce(x), inplace=True)), inplace=True)


class Ssd(nn.Module):
    """A single-shot detector (see `SsdArchitecture` for its numbers).

    Head channels are value-major, then shape (channel = value * shapes + shape), so that a plain reshape puts a level
    into the order of the default boxes: shape, row, column.
    """

    defaults: Tensor
    default_corners: Tensor
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, architecture: SsdArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = ResNetBackbone(architecture.stem_width, architecture.blocks, architecture.widths)
        inputs = itertools.pairwise(architecture.channels)
        self.extras = nn.ModuleList(
            ExtraBlock(before, layer) for (before, _), layer in zip(inputs, architecture.extras, strict=True))
        levels = list(zip(architecture.channels, architecture.boxes_per_cell, strict=True))
        # The loss learns from the positives and three times as many negatives; the other boxes have no gradient.
        self.localization_heads = nn.ModuleList(
            SparseGradientConv2d(width, 4 * shapes, 3) for width, shapes in levels)
        outputs = architecture.num_classes + 1
        self.confidence_heads = nn.ModuleList(
            SparseGradientConv2d(width, outputs * shapes, 3) for width, shapes in levels)
        defaults = default_boxes(architecture)
        std = torch.tensor(IMAGE_STD).view(1, 3, 1, 1)
        constants = {
            'defaults': defaults,
            'default_corners': centers_to_corners(defaults),
            'pixel_scale': 1 / (255 * std),
            'pixel_shift': -torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1) / std,
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self._initialize_detection_layers()

    def _initialize_detection_layers(self) -> None:
        """Draw weights from Xavier's uniform distribution; biases keep PyTorch's uniform default, as the reference."""
        for part in (self.extras, self.localization_heads, self.confidence_heads):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses ``localization`` and ``classification`` of a batch, float32 scalars."""
        localization, logits = self.outputs(batch.images)
        offsets, classes = build_targets(
            batch.boxes / self.architecture.image_size, batch.labels, self.defaults, self.default_corners)
        return ssd_losses(localization, logits, offsets, classes)

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """Return at most 200 detections an image, in pixels of the original images, not clipped."""
        localization, logits = self.outputs(batch.images)
        return postprocess(localization, logits, self.defaults, batch.sizes)

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets (N, 4, A) and class scores (N, C + 1, A) of (N, 3, S, S) uint8 images."""
        offsets, scores = [], []
        for features, localize, classify in zip(
                self.features(images), self.localization_heads, self.confidence_heads, strict=True):
            offsets.append(localize(features).reshape(len(images), 4, -1))
            scores.append(classify(features).reshape(len(images), self.architecture.num_classes + 1, -1))
        return torch.cat(offsets, dim=2), torch.cat(scores, dim=2)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of all levels, finest first."""
        levels = [self.backbone(self._normalize(images))]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return levels

    def _normalize(self, images: Tensor) -> Tensor:
        """Map uint8 to zero mean and unit deviation, in the dtype that the convolutions compute in."""
        dtype = compute_dtype(self.pixel_scale)
        return torch.addcmul(self.pixel_shift.to(dtype), images.to(dtype), self.pixel_scale.to(dtype))
