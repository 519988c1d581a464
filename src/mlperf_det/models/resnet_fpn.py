"""ResNets with bottlenecks and frozen batch normalisation, and the feature pyramid on top of them.

Sources: He et al., Deep Residual Learning; Xie et al., Aggregated Residual Transformations (ResNeXt); Lin et al.,
Feature Pyramid Networks and Focal Loss for Dense Object Detection; the MLPerf Mask R-CNN reference for where strides
lie in the MSRA layout and how layers start. Parameters are named as in torchvision's and the references' checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.errors import UserError
from mlperf_det.models.frozen_batch_norm import FrozenBatchNorm2d, conv_frozen_norm

#: Output channels of a bottleneck over its planes.
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (grouped in a ResNeXt) and 1x1 convolution beside a shortcut; one of the first two has the stride."""

    def __init__(self, channels: int, planes: int, *, stride: int, groups: int, group_width: int,
                 strided: Literal[1, 2], eps: float) -> None:
        super().__init__()
        inner, out = groups * group_width, planes * EXPANSION
        strides = (stride, 1) if strided == 1 else (1, stride)
        self.conv1 = nn.Conv2d(channels, inner, 1, stride=strides[0], bias=False)
        self.bn1 = FrozenBatchNorm2d(inner, eps=eps)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=strides[1], padding=1, groups=groups, bias=False)
        self.bn2 = FrozenBatchNorm2d(inner, eps=eps)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out, eps=eps)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False),
                                            FrozenBatchNorm2d(out, eps=eps))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else conv_frozen_norm(x, *self.downsample)
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.relu(conv_frozen_norm(x, self.conv2, self.bn2), inplace=True)
        return F.relu(conv_frozen_norm(x, self.conv3, self.bn3).add_(shortcut), inplace=True)


class BottleneckResNet(nn.Module):
    """Stem and four stages of a ResNet without its classifier; returns the outputs of the last stages.

    Args:
        stem_channels: output channels of the stem; stage n has ``stem_channels * 2**n`` planes.
        blocks: bottlenecks of each stage.
        first_stage: first stage (from 1) whose output is returned.
        groups: groups of the 3x3 convolutions.
        group_width: channels of a group in the first stage.
        strided: which convolution of a bottleneck carries the stride.
        eps: what the norms add to the variance.
    """

    def __init__(self, *, stem_channels: int, blocks: Sequence[int], first_stage: int, groups: int, group_width: int,
                 strided: Literal[1, 2], eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(stem_channels, eps=eps)
        channels = stem_channels
        for stage, count in enumerate(blocks):
            layers = []
            planes = stem_channels * 2**stage
            for index in range(count):
                layers.append(Bottleneck(
                    channels, planes, stride=2 if stage > 0 and index == 0 else 1, groups=groups,
                    group_width=group_width * 2**stage, strided=strided, eps=eps))
                channels = planes * EXPANSION
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
        self.first_stage = first_stage
        self.out_channels = tuple(
            stem_channels * EXPANSION * 2**stage for stage in range(first_stage - 1, len(blocks)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to features; stage n has stride ``2**(n + 1)``."""
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        features = []
        for stage in range(1, self.first_stage + len(self.out_channels)):
            x = self.get_submodule(f'layer{stage}')(x)
            if stage >= self.first_stage:
                features.append(x)
        return features


def resnext_body(*, stem_channels: int, blocks: Sequence[int], groups: int, group_width: int) -> BottleneckResNet:
    """Return a ResNeXt in torchvision's layout, which gives the outputs of stages 2 to 4 (strides 8, 16 and 32)."""
    return BottleneckResNet(stem_channels=stem_channels, blocks=blocks, first_stage=2, groups=groups,
                            group_width=group_width, strided=2, eps=1e-5)


def msra_body(*, stem_channels: int, blocks: Sequence[int]) -> BottleneckResNet:
    """Return a ResNet in the layout of the MSRA weights, which gives the outputs of all stages (strides 4 to 32).

    The first convolution of a bottleneck carries the stride, and the norms add nothing to the variance.
    """
    return BottleneckResNet(stem_channels=stem_channels, blocks=blocks, first_stage=1, groups=1,
                            group_width=stem_channels, strided=1, eps=0.0)


def load_body(body: BottleneckResNet, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load the weights of a torchvision classifier of the same layout, all but the classifier itself.

    Args:
        body: the network; changed only if everything fits.
        tensors: by torchvision's names; ``num_batches_tracked`` may be there or not.
        source: what to call the weights in an error.

    Raises:
        UserError: the weights are of another architecture.
    """
    given = {name: tensor for name, tensor in tensors.items()
             if not name.startswith('fc.') and not name.endswith('num_batches_tracked')}
    wanted = body.state_dict()
    for name in sorted(wanted.keys() ^ given.keys()):
        raise UserError(f'{source}: {"has no" if name in wanted else "has an unknown"} tensor {name}; '
                        'the weights are of another architecture')
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(f'{source}: {name} is {tuple(tensor.shape)}, the backbone has '
                            f'{tuple(wanted[name].shape)}; the weights are of another architecture')
    body.load_state_dict(given)


class StridedLevels(nn.Module):
    """P6 from P5, and P7 from the rectified P6, each by a 3x3 convolution of stride 2 (RetinaNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, p5: Tensor) -> list[Tensor]:
        """Return P6, not rectified, and P7."""
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


class SubsampledLevel(nn.Module):
    """P6 as every other cell of P5 (Mask R-CNN)."""

    def forward(self, p5: Tensor) -> list[Tensor]:
        """Return P6."""
        return [F.max_pool2d(p5, 1, stride=2)]


class FeaturePyramid(nn.Module):
    """Levels of equal width from the outputs of a body's stages, and coarser ones made from the last of them."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, extra_blocks: nn.Module) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.extra_blocks = extra_blocks
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_xavier_like(module)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the levels from fine to coarse, each (N, out_channels, H, W)."""
        merged = self.inner_blocks[-1](features[-1])
        outputs = [self.layer_blocks[-1](merged)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[index](features[index])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode='nearest')
            outputs.insert(0, self.layer_blocks[index](merged))
        return [*outputs, *self.extra_blocks(outputs[-1])]


class ResNetFpn(nn.Module):
    """Body and feature pyramid."""

    def __init__(self, body: BottleneckResNet, channels: int, extra_blocks: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(body.out_channels, channels, extra_blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to the levels from fine to coarse, each (N, channels, H, W)."""
        pyramid: list[Tensor] = self.fpn(self.body(images))
        return pyramid


def init_xavier_like(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights from the uniform distribution of bound sqrt(3 / fan_in), as Caffe2's XavierFill; biases are 0."""
    assert layer.bias is not None
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)
