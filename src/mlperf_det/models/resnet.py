"""ResNet with basic blocks ("Deep Residual Learning", He et al. 2015), as SSD's backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. Modules are named as torchvision's, so that its weights fit."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        x += shortcut
        return F.relu(x, inplace=True)


class ResNetBackbone(nn.Module):
    """Stem and the first stages of a ResNet; the last stage keeps the resolution of the one before it.

    SSD300 takes ResNet-34 up to ``layer3``, whose first block has stride 1 in its first convolution and its shortcut
    (MLPerf reference). All batch norms are ordinary and trainable.

    Args:
        stem_width: output channels of the stem.
        blocks: residual blocks of each stage.
        widths: output channels of each stage.
    """

    def __init__(self, stem_width: int, blocks: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages: list[str] = []
        inputs = stem_width
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stride = 1 if index in (0, len(blocks) - 1) else 2
            first = BasicBlock(inputs, width, stride)
            name = f'layer{index + 1}'
            self.add_module(name, nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(count - 1))))
            self.stages.append(name)
            inputs = width
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions anew (He initialisation by fan-out, as torchvision); batch norms become identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to the last stage's features."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for name in self.stages:
            x = getattr(self, name)(x)
        return x
