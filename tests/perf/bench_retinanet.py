"""RetinaNet against torchvision's parts: the training step, the memory that it needs, and the focal loss by itself.

``RETINANET_BENCH_SIZE`` sets the side of the images (default 800, the benchmark's; a step of it costs up to 20 CPU s).
The step as compiled code: `bench_retinanet_compiled`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from mlperf_det.data.batch import Batch
from mlperf_det.models.focal_loss import focal_loss
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RetinaNet
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.device import ResolvedRuntime, prepare_model, resolve, training_model
from tests.models.conftest import TorchvisionPeer, random_batch
from tests.perf.case import Case

CPU = torch.device('cpu')
BOXES = 6
#: peak resident memory that a step may have over the peer's: what two measurements of one program differ by
MEMORY_NOISE = 1.02
Side = Literal['peer', 'ours']


def build(kind: Side, side: int, runtime: ResolvedRuntime) -> tuple[nn.Module, Batch]:
    """Return peer or our network with the same weights, as the loop would call it, and a batch of one image.

    The peer takes the precision alone from the runtime; everything else is as its users have it.
    """
    architecture = replace(RETINANET_RESNEXT50, image_size=side)
    torch.manual_seed(0)
    ours = RetinaNet(architecture)
    batch = random_batch(architecture, [BOXES], seed=1)
    if kind == 'peer':
        return TorchvisionPeer.of(ours), batch
    model = training_model(prepare_model(ours, runtime, CPU), runtime, CPU, distributed=False, static_graph=True,
                           static_shapes=True)
    return model, batch.to(CPU, runtime.torch_memory_format)


def step(kind: Side, side: int, asked: Runtime) -> Callable[[], float]:
    """Return forward, loss, backward and Adam as one call that gives the loss before it."""
    runtime = resolve(asked, CPU)
    model, batch = build(kind, side, runtime)
    trained = [p for p in model.parameters() if p.requires_grad]
    # A rate of zero: the optimiser does its work, and every call sees the same network.
    optimizer = torch.optim.Adam(trained, lr=0.0, **(runtime.optimizer_arguments if kind == 'ours' else {}))

    def run() -> float:
        with runtime.autocast():
            losses = model(batch)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())
    return run


def within(tolerance: float) -> Callable[[float, float], None]:
    """Return the check that two losses agree; torchvision in bfloat16 rounds its logits, ours does not."""
    def check(peer: float, ours: float) -> None:
        assert abs(peer - ours) <= tolerance * abs(peer), f'loss {peer} and {ours}'
    return check


def focal_problem() -> tuple[Tensor, Tensor]:
    """Return logits and classes of two images as an untrained network has them, 60 matched anchors each."""
    generator = torch.Generator().manual_seed(0)
    rows = 2 * 120_087
    classes = torch.full((rows,), -1)
    classes[torch.randperm(rows, generator=generator)[:120]] = torch.randint(264, (120,), generator=generator)
    classes[torch.randperm(rows, generator=generator)[:230]] = -2
    return torch.randn(rows, 264, generator=generator) * 0.3 - 4.6, classes


def dense_focal_loss(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """torchvision's form: one-hot targets, rows selected by a mask."""
    leaf = logits.detach().requires_grad_()
    targets = torch.zeros_like(logits)
    matched = classes >= 0
    targets[matched, classes[matched]] = 1
    valid = classes != -2
    value = sigmoid_focal_loss(leaf[valid], targets[valid], reduction='sum') / 120
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def sparse_focal_loss(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Ours, with the same normalisation."""
    leaf = logits.detach().requires_grad_()
    value = focal_loss(leaf, classes, (classes != -2) / 120)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def same_focal_loss(peer: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]) -> None:
    """Compare value and gradient."""
    torch.testing.assert_close(ours[0], peer[0], rtol=1e-5, atol=0)
    assert (ours[1] - peer[1]).abs().max() <= 1e-6 * peer[1].abs().max()


@cache
def peak_memory(kind: Side, side: int, precision: Literal['fp32', 'bf16']) -> float:
    """Return the most resident memory, MiB, that a fresh process needs for a step with the optimiser's state there."""
    done = subprocess.run([sys.executable, '-m', __name__, kind, str(side), precision], check=True,
                          capture_output=True, text=True)
    return float(done.stdout)


def no_more_memory(side: int, precision: Literal['fp32', 'bf16']) -> None:
    """Measure and compare the peaks."""
    peer, ours = (peak_memory(kind, side, precision) for kind in ('peer', 'ours'))
    sys.stdout.write(f'peak memory of a step, {precision}: peer {peer:.0f} MiB, ours {ours:.0f} MiB\n')
    assert ours <= MEMORY_NOISE * peer, f'needs {ours:.0f} MiB, the peer {peer:.0f}'


def cases() -> list[Case]:
    """Return the comparisons; equality of the loss (and of the gradient, for the focal loss) is part of each."""
    side = int(os.environ.get('RETINANET_BENCH_SIZE', '800'))
    at = f'RetinaNet step {side}x{side}, batch 1'
    logits, classes = focal_problem()
    full, reduced, defaults = Runtime(precision='fp32'), Runtime(precision='bf16'), Runtime()
    chosen = resolve(defaults, CPU)

    def equal(tolerance: float, precision: Literal['fp32', 'bf16']) -> Callable[[float, float], None]:
        def check(peer: float, ours: float) -> None:
            within(tolerance)(peer, ours)
            no_more_memory(side, precision)
        return check

    return [
        Case(name='focal loss of 2 images, forward and backward',
             peer=lambda: dense_focal_loss(logits, classes), ours=lambda: sparse_focal_loss(logits, classes),
             equal=same_focal_loss, target=5.0, note='fp32; gradients equal to 1e-6'),
        Case(name=f'{at}, fp32', peer=step('peer', side, full), ours=step('ours', side, full),
             equal=equal(1e-5, 'fp32'), target=1.15, rounds=2, note='peak memory no higher, or this row is red'),
        Case(name=f'{at}, bf16', peer=step('peer', side, reduced), ours=step('ours', side, reduced),
             equal=equal(0.3, 'bf16'), target=1.3, rounds=2,
             note="both bf16, which rounds the peer's bias; peak memory no higher"),
        Case(name=f'{at}, defaults', peer=step('peer', side, full), ours=step('ours', side, defaults),
             equal=within(1e-3), target=2.3 if chosen.precision == 'bf16' else None, rounds=2,
             note=f'peer fp32, ours {chosen.precision}, {chosen.memory_format}'),
    ]


def memory_of_a_step(kind: Side, side: int, precision: Literal['fp32', 'bf16']) -> float:
    """Return the most resident memory of this process, MiB, after one step that found the optimiser's state there."""
    runtime = resolve(Runtime(precision=precision), CPU)
    model, batch = build(kind, side, runtime)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.0, **(runtime.optimizer_arguments if kind == 'ours' else {}))
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    with runtime.autocast():
        loss = sum(model(batch).values())
    loss.backward()
    optimizer.step()
    # Not ru_maxrss: a process inherits that of the one that started it.
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(status['VmHWM'].split()[0]) / 1024


if __name__ == '__main__':
    sys.stdout.write(str(memory_of_a_step(sys.argv[1], int(sys.argv[2]), sys.argv[3])))  # type: ignore[arg-type]
