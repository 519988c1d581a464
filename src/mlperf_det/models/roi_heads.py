"""The second stage's networks: what a region contains, where exactly, and its mask.

Source: He et al., Mask R-CNN, with the initial values of the MLPerf reference. Class index 0 is background; index k + 1
is the k-th category.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.models.resnet_fpn import init_xavier_like

#: Bins along a side of what RoIAlign gives to each head, and of the masks.
BOX_BINS, MASK_BINS, MASK_SIDE = 7, 14, 28


class BoxHead(nn.Module):
    """Two fully connected layers over the features of a region."""

    def __init__(self, channels: int, representation: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * BOX_BINS**2, representation)
        self.fc7 = nn.Linear(representation, representation)
        init_xavier_like(self.fc6)
        init_xavier_like(self.fc7)

    def forward(self, features: Tensor) -> Tensor:
        """Map (R, channels, 7, 7), flattened channel by channel, to (R, representation)."""
        return F.relu(self.fc7(F.relu(self.fc6(features.flatten(1)), inplace=True)), inplace=True)


class BoxPredictor(nn.Module):
    """Scores and offsets of every class."""

    def __init__(self, representation: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(representation, num_classes)
        self.bbox_pred = nn.Linear(representation, num_classes * 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, representation: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (R, classes) and offsets (R, classes, 4), float32 whatever the compute dtype."""
        with torch.autocast(representation.device.type, enabled=False):
            full = representation.float()
            return self.cls_score(full), self.bbox_pred(full).view(len(full), -1, 4)


class MaskHead(nn.Sequential):
    """Four convolutions of 3x3 over the features of a region, (R, channels, 14, 14)."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv2d(channels, channels, 3, padding=1)
            _init_he(conv)
            layers += [conv, nn.ReLU(inplace=True)]
        super().__init__(*layers)


class MaskPredictor(nn.Module):
    """The logits of a region's mask at 28x28 for one class, of the many that the last layer knows."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes, 1)
        _init_he(self.conv5_mask)
        _init_he(self.mask_fcn_logits)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the logits (R, 28, 28) float32 of each region's class.

        The other classes' masks enter neither a loss nor a detection, so they are not computed.

        Args:
            features: (R, channels, 14, 14).
            classes: (R,) int64.
        """
        hidden = F.relu(self.conv5_mask(features), inplace=True)
        assert self.mask_fcn_logits.bias is not None
        with torch.autocast(hidden.device.type, enabled=False):
            filters = self.mask_fcn_logits.weight.flatten(1)[classes]
            logits = torch.bmm(filters[:, None], hidden.float().flatten(2))
            return (logits + self.mask_fcn_logits.bias[classes][:, None, None]).view(-1, MASK_SIDE, MASK_SIDE)


class RoIHeads(nn.Module):
    """The heads and predictors of the second stage."""

    def __init__(self, channels: int, representation: int, num_classes: int) -> None:
        super().__init__()
        self.box_head = BoxHead(channels, representation)
        self.box_predictor = BoxPredictor(representation, num_classes)
        self.mask_head = MaskHead(channels)
        self.mask_predictor = MaskPredictor(channels, num_classes)


def _init_he(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    assert layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
    nn.init.zeros_(layer.bias)
