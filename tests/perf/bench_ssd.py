"""SSD300-ResNet34: training step and post-processing against the straightforward form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet34
from torchvision.ops import box_convert, box_iou

from mlperf_det.data.batch import Batch
from mlperf_det.models.default_boxes import default_boxes
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.models.ssd_postprocess import postprocess
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.device import prepare_model, resolve
from tests.perf.case import Case

BATCH = 4
CPU = torch.device('cpu')


class PeerSsd(nn.Module):
    """SSD300 written down plainly from torchvision's ResNet-34: loops over images, two sorts, float input."""

    def __init__(self) -> None:
        super().__init__()
        resnet = resnet34(weights=None)
        resnet.layer3[0].conv1.stride = resnet.layer3[0].downsample[0].stride = (1, 1)
        self.backbone = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool, resnet.layer1,
                                      resnet.layer2, resnet.layer3)
        blocks, inputs = [], 256
        for extra in SSD300_RESNET34.extras:
            blocks.append(nn.Sequential(
                nn.Conv2d(inputs, extra.hidden, 1), nn.ReLU(),
                nn.Conv2d(extra.hidden, extra.channels, 3, stride=extra.stride, padding=extra.stride - 1), nn.ReLU()))
            inputs = extra.channels
        self.extras = nn.ModuleList(blocks)
        levels = list(zip(SSD300_RESNET34.channels, SSD300_RESNET34.boxes_per_cell, strict=True))
        self.locate = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in levels)
        self.classify = nn.ModuleList(nn.Conv2d(c, 81 * n, 3, padding=1) for c, n in levels)
        self.register_buffer('defaults', default_boxes(SSD300_RESNET34))

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        features = [self.backbone((images.float() / 255 - mean) / std)]
        for extra in self.extras:
            features.append(extra(features[-1]))
        n = len(images)
        return (torch.cat([head(f).view(n, 4, -1) for f, head in zip(features, self.locate, strict=True)], 2),
                torch.cat([head(f).view(n, 81, -1) for f, head in zip(features, self.classify, strict=True)], 2))

    def forward(self, batch: Batch) -> Tensor:
        locations, logits = self.outputs(batch.images)
        losses = []
        for i in range(len(batch)):
            real = batch.labels[i] >= 0
            boxes, labels = batch.boxes[i][real] / 300, batch.labels[i][real]
            iou = box_iou(boxes, box_convert(self.defaults, 'cxcywh', 'xyxy'))
            best, truth = iou.max(dim=0)
            for g, d in enumerate(iou.argmax(dim=1).tolist()):
                best[d], truth[d] = 2, g
            classes = torch.where(best > 0.5, labels[truth] + 1, 0)
            matched = box_convert(boxes[truth], 'xyxy', 'cxcywh')
            offsets = torch.cat([10 * (matched[:, :2] - self.defaults[:, :2]) / self.defaults[:, 2:],
                                 5 * (matched[:, 2:] / self.defaults[:, 2:]).log()], 1)
            positive = classes > 0
            box_loss = F.smooth_l1_loss(locations[i].float().t()[positive], offsets[positive], reduction='sum')
            entropy = F.cross_entropy(logits[i].float().t(), classes, reduction='none')
            rank = entropy.masked_fill(positive, 0).argsort(descending=True).argsort()
            chosen = positive | (rank < 3 * positive.sum())
            losses.append((box_loss + entropy[chosen].sum()) / positive.sum())
        return torch.stack(losses).mean()


def cases() -> list[Case]:
    """Return the training step in three precisions and the post-processing."""
    torch.manual_seed(0)
    chosen = resolve(Runtime(), CPU).precision
    return [
        _step('SSD300 step, fp32 like for like', peer_bf16=False, ours_bf16=False, target=1.05),
        _step('SSD300 step, bf16 like for like', peer_bf16=True, ours_bf16=True, target=1.1),
        # Where fp32 is the fastest that the processor has, the defaults are those of the first row.
        _step(f'SSD300 step, our defaults ({chosen}) vs fp32', peer_bf16=False, ours_bf16=chosen == 'bf16',
              target=2.1 if chosen == 'bf16' else None),
        _postprocess_case(),
    ]


def _step(name: str, *, peer_bf16: bool, ours_bf16: bool, target: float | None) -> Case:
    batch, peer = _batch(), PeerSsd()
    ours = prepare_model(Ssd(SSD300_RESNET34), resolve(Runtime(), CPU), CPU)
    with torch.no_grad():
        for theirs, mine in zip(peer.parameters(), ours.parameters(), strict=True):
            mine.copy_(theirs)
    moved = batch.to(CPU, torch.channels_last)

    def equal(a: Tensor, b: Tensor) -> None:
        reduced = ours_bf16 or peer_bf16
        torch.testing.assert_close(a[0], b[0], rtol=2e-2 if reduced else 1e-4, atol=0)
        torch.testing.assert_close(a[1:], b[1:], rtol=5e-2 if reduced else 1e-3, atol=1e-3 * float(a[1:].max()))
    return Case(name=name, target=target, equal=equal, note=f'batch {BATCH}, loss and gradients equal',
                peer=_trainer(peer, lambda: peer(batch), bf16=peer_bf16),
                ours=_trainer(ours, lambda: sum(ours(moved).values()), bf16=ours_bf16))


def _trainer(model: nn.Module, loss_of: Callable[[], Tensor], *, bf16: bool) -> Callable[[], Tensor]:
    """Return a call that does one optimiser step at rate 0, so that every call computes the same.

    It returns the loss, then the norm of each parameter's gradient.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def step() -> Tensor:
        model.train()
        with torch.autocast('cpu', torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = loss_of()
        loss.backward()
        norms = [parameter.grad.norm() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack([loss.detach(), *norms])
    return step


def _batch() -> Batch:
    corner = torch.rand(BATCH, 8, 2) * 200
    boxes = torch.cat([corner, corner + 20 + torch.rand(BATCH, 8, 2) * 80], 2)
    return Batch(images=torch.randint(0, 256, (BATCH, 3, 300, 300), dtype=torch.uint8), image_ids=torch.arange(BATCH),
                 sizes=torch.full((BATCH, 2), 480), boxes=boxes, labels=torch.randint(0, 80, (BATCH, 8)))


def _postprocess_case() -> Case:
    """Logits as of a trained detector: most boxes background, some hundred boxes of several classes hopeful."""
    images = 8
    defaults = default_boxes(SSD300_RESNET34)
    logits = torch.randn(images, 81, 8732)
    logits[:, 0] += 9
    for image in range(images):
        for _ in range(20):
            near = torch.randint(8732, (40,))
            logits[image, torch.randint(1, 81, (1,)), near] += 8 + 2 * torch.rand(40)
    offsets = 0.3 * torch.randn(images, 4, 8732)
    sizes = torch.tensor([[480, 640]]).expand(images, 2)

    def peer() -> list[Tensor]:
        return [_slow_postprocess(offsets[i], logits[i], defaults) for i in range(images)]

    def ours() -> list[Tensor]:
        found = postprocess(offsets, logits, defaults, sizes)
        scale = torch.tensor([640.0, 480.0, 640.0, 480.0])
        return [torch.cat([found.boxes[i] / scale, found.scores[i, :, None], found.labels[i, :, None] + 1.0], 1)
                [found.valid[i]] for i in range(images)]

    def equal(a: list[Tensor], b: list[Tensor]) -> None:
        for theirs, mine in zip(a, b, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4)
    return Case(name='SSD300 decode + NMS, 8 images', peer=peer, ours=ours, equal=equal, target=10, rounds=9)


def _slow_postprocess(offsets: Tensor, logits: Tensor, defaults: Tensor) -> Tensor:
    """Decode and suppress class by class, box by box, as the training reference does."""
    scores = logits.softmax(0)
    offsets = offsets.t()
    centers = defaults[:, :2] + offsets[:, :2] / 10 * defaults[:, 2:]
    boxes = box_convert(torch.cat([centers, defaults[:, 2:] * (offsets[:, 2:] / 5).exp()], 1), 'cxcywh', 'xyxy')
    rows = []
    for label in range(1, 81):
        keep = scores[label] > 0.05
        score, corners = scores[label][keep], boxes[keep]
        order = score.argsort(descending=True)[:200]
        while len(order):
            first = order[0]
            rows.append(torch.cat([corners[first], score[first, None], torch.tensor([float(label)])]))
            order = order[box_iou(corners[first, None], corners[order])[0] < 0.5]
    table = torch.stack(rows) if rows else torch.zeros(0, 6)
    return table[table[:, 4].argsort(descending=True, stable=True)[:200]]
