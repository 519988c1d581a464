"""Mask R-CNN's training step against torchvision's, at equal shapes, classes and frozen layers.

The peer is torchvision's network with its own losses and samplers, fed with the same image, boxes and masks. Its
backbone and proposal network get our weights, our strides and our epsilon. What is compared: the pyramids are equal,
as many regions are classified, and about as many masks are computed. Anchors, border anchors, the exact samples and
the scale of the box loss differ by design, so the losses can only be required to be of one size.

``MASKRCNN_BENCH_SIZE`` sets the short side of the image (default 800, the benchmark's: 800 x 1344, 17 CPU s a step of
the peer).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.data.polygon_raster import Polygons
from mlperf_det.models.maskrcnn import IMAGE_MEAN_BGR, MASKRCNN_R50_FPN, MaskRcnn
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.device import prepare_model, resolve
from tests.models.maskrcnn_batches import calibrate, random_mask_batch, torchvision_backbone
from tests.perf.case import Case

CPU = torch.device('cpu')
#: As many masks as a trained network has to compute for a photo; random proposals would match next to none.
OBJECTS = 32
#: Proposals that both sides keep in training.
PROPOSALS = 1000


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a step gives: its loss, a few numbers of each level of the pyramid, regions classified, masks computed."""

    loss: float
    pyramid: list[Tensor]
    regions: int
    masks: int


def build(side: int) -> tuple[MaskRcnn, MaskBatch]:
    """Return our network and a batch of one image."""
    torch.manual_seed(0)
    model = MaskRcnn(MASKRCNN_R50_FPN, image_candidates=PROPOSALS)
    calibrate(model)
    # Trained networks do not amplify rounding; one of random values does a hundredfold unless its branches are quiet.
    for name, module in model.backbone.body.named_modules():
        if name.endswith('bn3'):
            module.weight.mul_(0.2)
            module.fold()
    width = -(-side * 1333 // 800 // 32) * 32
    return model, random_mask_batch([OBJECTS], height=side, width=width, classes=80, seed=1)


class Peer(nn.Module):
    """torchvision's Mask R-CNN over its own backbone."""

    def __init__(self, ours: MaskRcnn, height: int, width: int) -> None:
        super().__init__()
        backbone = torchvision_backbone(ours)
        for part in ('conv1', 'layer1'):
            backbone.body[part].requires_grad_(False)
        # torchvision scales pixels to 0..1 and knows RGB; channels are swapped before.
        mean = [value / 255 for value in IMAGE_MEAN_BGR]
        self.model = MaskRCNN(backbone, num_classes=81, fixed_size=(width, height), image_mean=mean,
                              image_std=[1 / 255] * 3, rpn_post_nms_top_n_train=PROPOSALS)
        # The same proposal network gives as many regions with objects, and with them as many masks to compute.
        head = self.model.rpn.head
        for theirs, own in ((head.conv[0][0], ours.rpn.conv), (head.cls_logits, ours.rpn.cls_logits),
                            (head.bbox_pred, ours.rpn.bbox_pred)):
            theirs.load_state_dict(own.state_dict())

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the losses."""
        losses: dict[str, Tensor] = self.model(images, targets)
        return losses

    def pyramid(self, batch: MaskBatch) -> list[Tensor]:
        """Return P2 to P6."""
        images, _ = self.model.transform(images_of(batch))
        return list(self.model.backbone(images.tensors).values())


def images_of(batch: MaskBatch) -> list[Tensor]:
    """Return the images as torchvision takes them, in our order of the channels."""
    return list(batch.images.flip(1) / 255)


def targets_of(batch: MaskBatch) -> list[dict[str, Tensor]]:
    """Return boxes, labels and bitmaps as torchvision takes them."""
    height, width = batch.images.shape[2:]
    targets = []
    for image, labels in enumerate(batch.labels):
        real = labels >= 0
        masks = [mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(
            [corners.flatten().tolist() for corners in parts], height, width)))
            for parts in outlines(batch.polygons, image * len(labels), int(real.sum()))]
        targets.append({'boxes': batch.boxes[image, real], 'labels': labels[real] + 1,
                        'masks': torch.from_numpy(np.stack(masks))})
    return targets


def outlines(polygons: Polygons, first: int, count: int) -> list[list[Tensor]]:
    """Return the corners of each polygon of each object from ``first`` on."""
    parts = polygons.object_offsets[first:first + count + 1].tolist()
    bounds = polygons.part_offsets.tolist()
    return [[polygons.corners[bounds[part]:bounds[part + 1]] for part in range(start, stop)]
            for start, stop in pairwise(parts)]


def step(kind: Literal['peer', 'ours'], side: int, asked: Runtime) -> Callable[[], Result]:
    """Return forward, losses, backward and SGD as one call; it gives the loss before it and a look at the pyramid.

    The peer takes the precision alone from the runtime; everything else is as its users have it.
    """
    runtime = resolve(asked, CPU)
    ours, batch = build(side)
    model: nn.Module
    arguments: tuple[Any, ...]
    if kind == 'peer':
        model = peer = Peer(ours, *batch.images.shape[2:])
        arguments, look = (images_of(batch), targets_of(batch)), lambda: peer.pyramid(batch)
        heads, implementation = peer.model.roi_heads, {}
    else:
        model, batch = prepare_model(ours, runtime, CPU), batch.to(CPU, runtime.torch_memory_format)
        arguments, look = (batch,), lambda: ours.backbone(ours.normalise(batch))
        heads, implementation = ours.roi_heads, runtime.optimizer_arguments
    trained = [p for p in model.parameters() if p.requires_grad]
    # A rate of zero: the optimiser does its work, and every call sees the same network.
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, **implementation)
    rows: dict[str, int] = {}
    for name in ('box_head', 'mask_head'):
        heads.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: rows.update({name: len(inputs[0])}))
    seen: list[Tensor] = []

    def run() -> Result:
        if not seen:
            with torch.no_grad(), runtime.autocast():
                seen.extend(level[0, :8, ::5, ::5].float().contiguous() for level in look())
        with runtime.autocast():
            losses = model(*arguments)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return Result(loss=float(loss.detach()), pyramid=seen, regions=rows['box_head'], masks=rows['mask_head'])
    return run


def equal_within(tolerance: float) -> Callable[[Result, Result], None]:
    """Return the check: pyramids equal up to ``tolerance`` of their largest value, as much work, losses of one size."""
    def check(peer: Result, ours: Result) -> None:
        for level, (expected, found) in enumerate(zip(peer.pyramid, ours.pyramid, strict=True), 2):
            difference = (found - expected).abs().max() / expected.abs().max()
            assert difference <= tolerance, f'P{level} differs by {difference:.2g}'
        assert peer.regions == ours.regions, f'{peer.regions} and {ours.regions} regions were classified'
        assert abs(math.log(ours.masks / peer.masks)) < math.log(1.5), f'{peer.masks} and {ours.masks} masks'
        assert abs(math.log(ours.loss / peer.loss)) < math.log(1.5), f'loss {peer.loss} and {ours.loss}'
    return check


def cases() -> list[Case]:
    """Return the comparisons; equality of the pyramid is part of each."""
    side = int(os.environ.get('MASKRCNN_BENCH_SIZE', '800'))
    at = f'Mask R-CNN step, short side {side}, batch 1'
    full, reduced, defaults = Runtime(precision='fp32'), Runtime(precision='bf16'), Runtime()
    chosen = resolve(defaults, CPU)
    return [
        Case(name=f'{at}, fp32', peer=step('peer', side, full), ours=step('ours', side, full),
             equal=equal_within(1e-4), target=1.05, rounds=2, note='ours channels_last'),
        Case(name=f'{at}, bf16', peer=step('peer', side, reduced), ours=step('ours', side, reduced),
             equal=equal_within(0.03), target=None, rounds=1, note='both bf16'),
        Case(name=f'{at}, defaults', peer=step('peer', side, full), ours=step('ours', side, defaults),
             equal=equal_within(0.03), target=2.1 if chosen.precision == 'bf16' else None, rounds=2,
             note=f'peer fp32, ours {chosen.precision}, {chosen.memory_format}'),
    ]
