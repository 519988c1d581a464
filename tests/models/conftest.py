"""Peers that the parity tests and measurements share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from mlperf_det.data.batch import Batch
from mlperf_det.models.retinanet import ASPECT_RATIOS, RetinaNet, RetinaNetArchitecture

# Modules beside the tests, which measurements import as well.
sys.path.insert(0, str(Path(__file__).parent))


class TorchvisionPeer(torch.nn.Module):
    """torchvision's RetinaNet over its own ResNeXt, frozen norms and pyramid, fed with our batches."""

    def __init__(self, architecture: RetinaNetArchitecture) -> None:
        super().__init__()
        assert architecture.stem_channels == 64, 'torchvision knows no other stem'
        resnet = ResNet(Bottleneck, list(architecture.blocks), groups=architecture.groups,
                        width_per_group=architecture.group_width, norm_layer=FrozenBatchNorm2d)
        for part in architecture.frozen:
            resnet.get_submodule(part).requires_grad_(False)
        width = architecture.pyramid_channels
        backbone = BackboneWithFPN(resnet, {'layer2': '0', 'layer3': '1', 'layer4': '2'}, [512, 1024, 2048], width,
                                   LastLevelP6P7(width, width))
        sizes = tuple((b, int(b * 2 ** (1 / 3)), int(b * 2 ** (2 / 3))) for b in architecture.anchor_bases)
        side = architecture.image_size
        self.model = TorchvisionRetinaNet(
            backbone, architecture.num_classes, min_size=side, max_size=side, fixed_size=(side, side),
            anchor_generator=AnchorGenerator(sizes, (ASPECT_RATIOS,) * 5))

    @classmethod
    def of(cls, ours: RetinaNet) -> TorchvisionPeer:
        """Build the peer with our weights."""
        peer = cls(ours.architecture)
        result = peer.model.load_state_dict(ours.state_dict())
        assert not result.missing_keys
        assert not result.unexpected_keys
        return peer

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses."""
        targets = [{'boxes': boxes[labels >= 0], 'labels': labels[labels >= 0]}
                   for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
        return self.model(list(batch.images / 255), targets)

    def detect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return the detections in pixels of the network's input."""
        self.model.eval()
        return self.model(list(batch.images / 255))

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (N, A, K) and the offsets (N, A, 4)."""
        images, _ = self.model.transform(list(batch.images / 255))
        heads = self.model.head(list(self.model.backbone(images.tensors).values()))
        return heads['cls_logits'], heads['bbox_regression']


@pytest.fixture(scope='session')
def torchvision_peer() -> Callable[[RetinaNet], TorchvisionPeer]:
    """Build torchvision's RetinaNet with the weights of ours."""
    return TorchvisionPeer.of


def random_batch(architecture: RetinaNetArchitecture, boxes_per_image: list[int], *, seed: int, padded: int = 8
                 ) -> Batch:
    """Return noise images with random boxes of all sizes, padded to ``padded`` rows."""
    generator = torch.Generator().manual_seed(seed)
    images, side = len(boxes_per_image), architecture.image_size
    boxes, labels = torch.zeros(images, padded, 4), torch.full((images, padded), -1)
    for index, count in enumerate(boxes_per_image):
        size = side * torch.rand(count, 2, generator=generator).square().clamp(min=0.02)
        corner = torch.rand(count, 2, generator=generator) * (side - size)
        boxes[index, :count] = torch.cat([corner, corner + size], dim=1)
        labels[index, :count] = torch.randint(architecture.num_classes, (count,), generator=generator)
    return Batch(images=torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator),
                 image_ids=torch.arange(1, images + 1), boxes=boxes, labels=labels,
                 sizes=torch.randint(200, 1100, (images, 2), generator=generator))


@pytest.fixture(scope='session')
def make_batch() -> Callable[..., Batch]:
    """Make a batch of noise images with random boxes."""
    return random_batch
