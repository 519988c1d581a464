"""ResNet in the layout of the MSRA weights, with frozen batch normalisation, and the feature pyramid on top of it.

Sources: He et al., Deep Residual Learning; Lin et al., Feature Pyramid Networks; the MLPerf Mask R-CNN reference for
where strides lie and how layers start. Parameters are named as in torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.models.frozen_batch_norm import FrozenBatchNorm2d, conv_frozen_norm

#: Output channels of a bottleneck over its planes.
EXPANSION = 4


def frozen_norm(channels: int) -> FrozenBatchNorm2d:
    """Return the norm as the reference applies it: nothing is added to the variance."""
    return FrozenBatchNorm2d(channels, eps=0.0)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut. The first one carries the stride, as in the MSRA weights."""

    def __init__(self, channels: int, planes: int, *, stride: int, shortcut: bool) -> None:
        super().__init__()
        out = planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, stride=stride, bias=False)
        self.bn1 = frozen_norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = frozen_norm(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = frozen_norm(out)
        self.downsample: nn.Sequential | None = None
        if shortcut:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), frozen_norm(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else conv_frozen_norm(x, *self.downsample)
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.relu(conv_frozen_norm(x, self.conv2, self.bn2), inplace=True)
        return F.relu(conv_frozen_norm(x, self.conv3, self.bn3).add_(shortcut), inplace=True)


class MsraResNet(nn.Module):
    """The stem and four stages; returns the outputs of all stages."""

    def __init__(self, *, stem_channels: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = frozen_norm(stem_channels)
        channels = stem_channels
        for stage, count in enumerate(blocks):
            layers = []
            planes = stem_channels * 2**stage
            for index in range(count):
                layers.append(Bottleneck(channels, planes, stride=2 if stage and not index else 1,
                                         shortcut=index == 0))
                channels = planes * EXPANSION
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
        self.out_channels = tuple(stem_channels * EXPANSION * 2**stage for stage in range(4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to features of strides 4, 8, 16 and 32."""
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f'layer{stage}')(x)
            features.append(x)
        return features


class FeaturePyramid(nn.Module):
    """Levels P2 to P6 of equal width from the outputs of the four stages; P6 is every other cell of P5."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_xavier_like(module)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P2 to P6, each (N, out_channels, H, W)."""
        merged = self.inner_blocks[-1](features[-1])
        outputs = [self.layer_blocks[-1](merged)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[index](features[index])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode='nearest')
            outputs.insert(0, self.layer_blocks[index](merged))
        return [*outputs, F.max_pool2d(outputs[-1], 1, stride=2)]


class MsraResNetFpn(nn.Module):
    """Body and feature pyramid."""

    def __init__(self, body: MsraResNet, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(body.out_channels, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W), sides multiples of 32, to P2 to P6."""
        pyramid: list[Tensor] = self.fpn(self.body(images))
        return pyramid


def init_xavier_like(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights from the uniform distribution of bound sqrt(3 / fan_in), as Caffe2's XavierFill; biases are 0."""
    assert layer.bias is not None
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
