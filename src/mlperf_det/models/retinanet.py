"""RetinaNet with a ResNeXt-FPN backbone: the network of MLPerf's OpenImages benchmark, and a small one of its build.

Source: the MLPerf reference; the numerics are those of torchvision's RetinaNet with this backbone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.models.anchors import cell_anchors, octave_sizes, pyramid_anchors, pyramid_grids
from mlperf_det.models.backbone_weights import IMAGE_MEAN, IMAGE_STD
from mlperf_det.models.detections import Detections
from mlperf_det.models.resnet_fpn import ResNetFpn, StridedLevels, resnext_body
from mlperf_det.models.retinanet_loss import retinanet_losses
from mlperf_det.models.retinanet_postprocess import postprocess

ASPECT_RATIOS = (0.5, 1.0, 2.0)
ANCHORS_PER_CELL = 9
#: Levels of the pyramid: strides 8 to 128.
FIRST_LEVEL, LAST_LEVEL = 3, 7
#: Standard deviation of the heads' initial filters at the benchmark's 256 channels (Lin et al., section 4.1).
HEAD_STD, HEAD_CHANNELS = 0.01, 256
#: Probability that the untrained network gives every class (Lin et al., section 4.1).
PRIOR_PROBABILITY = 0.01


@dataclass(frozen=True, kw_only=True)
class RetinaNetArchitecture:
    """Sizes of the network; channels except where said otherwise."""

    #: side of the square input, pixels
    image_size: int
    num_classes: int
    stem_channels: int
    #: bottlenecks of the four stages
    blocks: tuple[int, int, int, int]
    groups: int
    #: width of a group in the first stage; doubles every stage
    group_width: int
    pyramid_channels: int
    #: smallest anchor size of each level, pixels
    anchor_bases: tuple[int, int, int, int, int]
    #: parts of the body that are not trained
    frozen: tuple[str, ...]


#: The benchmark: ResNeXt50-32x4d, 800x800, the 264 classes of the MLPerf subset of OpenImages.
RETINANET_RESNEXT50 = RetinaNetArchitecture(
    image_size=800, num_classes=264, stem_channels=64, blocks=(3, 4, 6, 3), groups=32, group_width=4,
    pyramid_channels=256, anchor_bases=(32, 64, 128, 256, 512), frozen=('conv1', 'layer1'))

#: The same build for CPU minutes. All of it is trained, because its backbone starts from random values.
RETINANET_SMOKE = RetinaNetArchitecture(
    image_size=96, num_classes=5, stem_channels=16, blocks=(1, 1, 1, 1), groups=8, group_width=4,
    pyramid_channels=64, anchor_bases=(12, 24, 40, 56, 80), frozen=())


class OutputConv2d(nn.Conv2d):
    """A 3x3 convolution whose bias is added in float32: autocast would round a bias of -4.6 and with it the loss."""

    def __init__(self, channels: int, out_channels: int, *, bias: float) -> None:
        super().__init__(channels, out_channels, 3, padding=1)
        assert self.bias is not None
        nn.init.normal_(self.weight, std=_head_std(channels))
        nn.init.constant_(self.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 whatever the compute dtype."""
        assert self.bias is not None
        return F.conv2d(x, self.weight, padding=1).float().add_(self.bias[:, None, None])


def _head_std(channels: int) -> float:
    """Return 0.01 at 256 channels, and for narrower heads what passes the same variance on."""
    return HEAD_STD * math.sqrt(HEAD_CHANNELS / channels)


def _tower(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(4):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        assert conv.bias is not None
        nn.init.normal_(conv.weight, std=_head_std(channels))
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class ClassificationHead(nn.Module):
    """Four convolutions and one logit per anchor and class, shared by all levels."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv = _tower(channels)
        self.cls_logits = OutputConv2d(channels, ANCHORS_PER_CELL * num_classes,
                                       bias=-math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Return per level (N, H * W * anchors, classes) float32."""
        return [_by_anchor(self.cls_logits(self.conv(level)), self.num_classes) for level in pyramid]


class RegressionHead(nn.Module):
    """Four convolutions and four offsets per anchor, shared by all levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _tower(channels)
        self.bbox_reg = OutputConv2d(channels, ANCHORS_PER_CELL * 4, bias=0.0)

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """Return per level (N, H * W * anchors, 4) float32."""
        return [_by_anchor(self.bbox_reg(self.conv(level)), 4) for level in pyramid]


def _by_anchor(output: Tensor, values: int) -> Tensor:
    """Turn (N, anchors * values, H, W) into (N, H * W * anchors, values); free of cost where channels come last."""
    return output.permute(0, 2, 3, 1).reshape(len(output), -1, values)


class RetinaNetHead(nn.Module):
    """The two heads, under the names of the reference's checkpoints."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classification_head = ClassificationHead(channels, num_classes)
        self.regression_head = RegressionHead(channels)

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits and offsets, per level."""
        return self.classification_head(pyramid), self.regression_head(pyramid)


class RetinaNet(nn.Module):
    """The detector: losses when called, detections from `detect` (see `mlperf_det.training.task.Detector`).

    Label and logit indices are the same: there is no background class. Images without boxes are welcome.
    """

    anchors: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, architecture: RetinaNetArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        body = resnext_body(stem_channels=architecture.stem_channels, blocks=architecture.blocks,
                            groups=architecture.groups, group_width=architecture.group_width)
        for part in architecture.frozen:
            body.get_submodule(part).requires_grad_(False)
        self.backbone = ResNetFpn(body, architecture.pyramid_channels, StridedLevels(architecture.pyramid_channels))
        self.head = RetinaNetHead(architecture.pyramid_channels, architecture.num_classes)
        grids = pyramid_grids(architecture.image_size, FIRST_LEVEL, LAST_LEVEL)
        cells = [cell_anchors(octave_sizes(base), ASPECT_RATIOS) for base in architecture.anchor_bases]
        self.level_sizes = [grid * grid * ANCHORS_PER_CELL for grid in grids]
        self.register_buffer('anchors', pyramid_anchors(architecture.image_size, grids, cells), persistent=False)
        for name, values in (('image_mean', IMAGE_MEAN), ('image_std', IMAGE_STD)):
            self.register_buffer(name, 255 * torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the losses ``classification`` and ``bbox_regression``, scalar float32."""
        logits, offsets = self.outputs(batch.images)
        return retinanet_losses(logits, offsets, self.anchors, batch.boxes, batch.labels)

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """Return at most 300 detections an image, boxes in pixels of the original image."""
        logits, offsets = self.outputs(batch.images)
        return postprocess(logits, offsets, torch.split(self.anchors, self.level_sizes),
                           image_size=self.architecture.image_size, sizes=batch.sizes)

    def outputs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level the logits (N, A_l, K) and offsets (N, A_l, 4), float32, of uint8 images (N, 3, S, S)."""
        logits, offsets = self.head(self.backbone(self.normalised(images)))
        return logits, offsets

    def normalised(self, images: Tensor) -> Tensor:
        """Return uint8 images (N, 3, H, W) as float32, of the mean and deviation that the backbone's weights expect."""
        return (images - self.image_mean) / self.image_std
