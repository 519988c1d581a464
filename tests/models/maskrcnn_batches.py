"""Batches and peers of Mask R-CNN that tests and measurements share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.data.polygon_raster import make_polygons
from mlperf_det.models.frozen_batch_norm import calibrate_frozen_norms
from mlperf_det.models.maskrcnn import MaskRcnn

LOSSES = ('classifier', 'box_reg', 'mask', 'objectness', 'rpn_box_reg')


def random_mask_batch(boxes_per_image: Sequence[int], *, height: int, width: int, classes: int, seed: int,
                      valid: tuple[int, int] | None = None) -> MaskBatch:
    """Noise images with ellipses of 24 corners as objects; the images end at ``valid``, the rest is padding."""
    rng = np.random.default_rng(seed)
    size = valid or (height, width)
    images, padded = len(boxes_per_image), max(8, *boxes_per_image)
    boxes, labels = torch.zeros(images, padded, 4), torch.full((images, padded), -1)
    corners = []
    for image, count in enumerate(boxes_per_image):
        for slot in range(count):
            side = (0.08 + 0.6 * rng.random(2)) * (size[1], size[0])
            corner = rng.random(2) * ((size[1], size[0]) - side)
            angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
            corners.append(corner + side * (0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)))
            boxes[image, slot] = torch.tensor([*corner, *(corner + side)])
            labels[image, slot] = int(rng.integers(classes))
    parts = (labels >= 0).flatten().numpy().astype(np.int64)
    return MaskBatch(
        images=torch.from_numpy(rng.integers(0, 256, (images, 3, height, width), dtype=np.uint8)),
        image_ids=torch.arange(1, images + 1), sizes=torch.tensor([[300, 400]]).repeat(images, 1), boxes=boxes,
        labels=labels, valid_sizes=torch.tensor([size]).repeat(images, 1),
        polygons=make_polygons(np.concatenate(corners) if corners else np.zeros((0, 2)),
                               np.arange(len(corners) + 1) * 24, np.concatenate([[0], np.cumsum(parts)])))


def smoke_batch(boxes_per_image: Sequence[int], seed: int = 1) -> MaskBatch:
    return random_mask_batch(boxes_per_image, height=128, width=160, classes=8, seed=seed, valid=(120, 150))


def calibrate(model: MaskRcnn) -> None:
    """Give the norms the statistics of white noise, and the pyramid the scale that trained weights have."""
    noise = torch.randint(0, 256, (2, 3, 128, 128))
    calibrate_frozen_norms(model, lambda _: model.backbone(model.less_mean(noise)), image_size=32)
    for layer in model.backbone.fpn.layer_blocks:
        layer.weight.data.mul_(0.1)


def torchvision_backbone(ours: MaskRcnn) -> nn.Module:
    """torchvision's backbone as the reference builds it: strides in the 1x1 convolution, no epsilon."""
    peer = resnet_fpn_backbone(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d,
                               trainable_layers=3)
    for stage in (2, 3, 4):
        block = peer.body[f'layer{stage}'][0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    for module in peer.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
    renamed = {}
    for name, value in ours.backbone.state_dict().items():
        if name.startswith('fpn.'):
            part, kind = name.rsplit('.', 1)
            renamed[f'{part}.0.{kind}'] = value
        else:
            renamed[name] = value
    peer.load_state_dict(renamed)
    return peer
