"""ResNeXt body with frozen batch normalisation, and the feature pyramid on top of it.

Sources: Xie et al., Aggregated Residual Transformations (ResNeXt); Lin et al., Feature Pyramid Networks and Focal Loss
for Dense Object Detection. Parameters are named as in torchvision's and the MLPerf reference's checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.errors import UserError
from mlperf_det.models.frozen_batch_norm import FrozenBatchNorm2d, conv_frozen_norm

#: Output channels of a bottleneck over its planes.
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 (which carries the stride) and 1x1 convolution beside a shortcut."""

    def __init__(self, channels: int, planes: int, *, stride: int, groups: int, group_width: int) -> None:
        super().__init__()
        inner, out = groups * group_width, planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = FrozenBatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False),
                                            FrozenBatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else conv_frozen_norm(x, *self.downsample)
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.relu(conv_frozen_norm(x, self.conv2, self.bn2), inplace=True)
        return F.relu(conv_frozen_norm(x, self.conv3, self.bn3).add_(shortcut), inplace=True)


class ResNeXtBody(nn.Module):
    """The four stages of a ResNeXt without its classifier; returns the outputs of stages 2, 3 and 4."""

    def __init__(self, *, stem_channels: int, blocks: Sequence[int], groups: int, group_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem_channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(stem_channels)
        channels = stem_channels
        for stage, count in enumerate(blocks):
            layers = []
            planes = stem_channels * 2**stage
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(Bottleneck(channels, planes, stride=stride, groups=groups,
                                         group_width=group_width * 2**stage))
                channels = planes * EXPANSION
            self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
        self.out_channels = tuple(stem_channels * EXPANSION * 2**stage for stage in (1, 2, 3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to features of strides 8, 16 and 32."""
        x = F.relu(conv_frozen_norm(x, self.conv1, self.bn1), inplace=True)
        x = self.get_submodule('layer1')(F.max_pool2d(x, 3, stride=2, padding=1))
        features = []
        for stage in (2, 3, 4):
            x = self.get_submodule(f'layer{stage}')(x)
            features.append(x)
        return features


def load_body(body: ResNeXtBody, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load the weights of a torchvision ResNeXt classifier, all but the classifier itself.

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


class ExtraLevels(nn.Module):
    """P6 from P5, and P7 from the rectified P6, each by a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, p5: Tensor) -> list[Tensor]:
        """Return P6, not rectified, and P7."""
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


class FeaturePyramid(nn.Module):
    """Levels P3 to P7 of equal width from the outputs of stages 2 to 4."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.layer_blocks = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels)
        self.extra_blocks = ExtraLevels(out_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return P3 to P7, each (N, out_channels, H, W)."""
        merged = self.inner_blocks[-1](features[-1])
        outputs = [self.layer_blocks[-1](merged)]
        for index in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[index](features[index])
            merged = lateral + F.interpolate(merged, size=lateral.shape[-2:], mode='nearest')
            outputs.insert(0, self.layer_blocks[index](merged))
        return outputs + list(self.extra_blocks(outputs[-1]))


class ResNeXtFpn(nn.Module):
    """Body and feature pyramid."""

    def __init__(self, body: ResNeXtBody, channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(body.out_channels, channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (N, 3, H, W) to P3 to P7, each (N, channels, H, W)."""
        pyramid: list[Tensor] = self.fpn(self.body(images))
        return pyramid
