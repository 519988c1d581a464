"""What graph capture and compilers ask of the step: one graph, static shapes, nothing read back by the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from mlperf_det.data.batch import Batch
from mlperf_det.models.focal_loss import _focal_loss_and_gradient
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RETINANET_SMOKE, RetinaNet, RetinaNetArchitecture
from mlperf_det.models.retinanet_matching import match_anchors
from mlperf_det.models.retinanet_postprocess import class_wise_nms

MakeBatch = Callable[..., Batch]


def fake(architecture: RetinaNetArchitecture, batch: Batch, mode: FakeTensorMode, device: str
         ) -> tuple[RetinaNet, Batch]:
    """Make both on a device that need not exist: an operator that asks the host for a value raises."""
    with mode, torch.device(device):
        empty = {f.name: torch.empty(getattr(batch, f.name).shape, dtype=getattr(batch, f.name).dtype)
                 for f in fields(batch)}
        return RetinaNet(architecture), Batch(**empty).to(torch.device(device), torch.channels_last)


def test_the_step_is_one_graph(make_batch: MakeBatch) -> None:
    model, batch = RetinaNet(RETINANET_SMOKE), make_batch(RETINANET_SMOKE, [3, 0], seed=1)
    expected = model(batch)
    sum(expected.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(lambda batch: model(batch), fullgraph=True, backend='aot_eager')
    losses = compiled(batch)
    sum(losses.values()).backward()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-6)


def test_detection_is_one_graph(make_batch: MakeBatch) -> None:
    model, batch = RetinaNet(RETINANET_SMOKE), make_batch(RETINANET_SMOKE, [1, 1], seed=2)
    torch.nn.init.constant_(model.head.classification_head.cls_logits.bias, -1.0)
    expected = model.detect(batch)
    found = torch.compile(lambda batch: model.detect(batch).boxes, fullgraph=True, backend='aot_eager')(batch)
    assert expected.valid.any()
    torch.testing.assert_close(found, expected.boxes, rtol=1e-4, atol=1e-3)


def test_a_second_batch_does_not_compile_again(make_batch: MakeBatch) -> None:
    model = RetinaNet(RETINANET_SMOKE)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lambda batch: model(batch), fullgraph=True, backend=counter)
    for seed, boxes in enumerate(([3, 1], [0, 8], [5, 0])):
        compiled(make_batch(RETINANET_SMOKE, boxes, seed=seed))
    assert counter.frame_count == 1


@pytest.mark.parametrize('architecture', [RETINANET_SMOKE, RETINANET_RESNEXT50])
def test_losses_on_a_fake_gpu_read_nothing_back(architecture: RetinaNetArchitecture, make_batch: MakeBatch) -> None:
    model, batch = fake(architecture, make_batch(architecture, [2, 0], seed=3), mode := FakeTensorMode(), 'cuda')
    with mode:
        losses = model(batch)
    assert {type(value) for value in losses.values()} == {FakeTensor}
    assert {value.device.type for value in losses.values()} == {'cuda'}


def test_a_step_reads_nothing_back(make_batch: MakeBatch) -> None:
    # Backward needs a device that exists.
    model, batch = fake(RETINANET_RESNEXT50, make_batch(RETINANET_RESNEXT50, [2, 0], seed=3), mode := FakeTensorMode(),
                        'cpu')
    with mode:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
        with torch.autocast('cpu', torch.bfloat16):
            losses = model(batch)
        sum(losses.values()).backward()
        optimizer.step()
    assert all(isinstance(p.grad, FakeTensor) == p.requires_grad for p in model.parameters())


def test_detection_on_a_fake_gpu_reads_nothing_back(make_batch: MakeBatch) -> None:
    model, batch = fake(RETINANET_RESNEXT50, make_batch(RETINANET_RESNEXT50, [0] * 4, seed=4), mode := FakeTensorMode(),
                        'cuda')
    with mode:
        found = model.detect(batch)
    assert found.boxes.shape == (4, 300, 4)
    assert {getattr(found, name).device.type for name in ('boxes', 'scores', 'labels', 'valid')} == {'cuda'}


def test_bodies_of_the_operators_read_nothing_back_on_a_fake_gpu() -> None:
    with FakeTensorMode(), torch.device('cuda'):  # the bodies, which a fake run of the whole model steps over
        loss, gradient = _focal_loss_and_gradient._init_fn(
            torch.empty(240_174, 264, dtype=torch.bfloat16), torch.empty(240_174, dtype=torch.int64),
            torch.empty(240_174))
        kept, valid = class_wise_nms._init_fn(torch.empty(4, 5000, 4), torch.empty(4, 5000),
                                              torch.empty(4, 5000, dtype=torch.int64), 0.5, 20)
    assert {t.device.type for t in (loss, gradient, kept, valid)} == {'cuda'}
    assert gradient.shape == (240_174, 264)
    assert kept.shape == valid.shape == (4, 20)


def test_the_fake_gpu_would_notice_a_read_back() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(3, device='cuda').sum().item()


def test_matching_a_thousand_boxes_is_bounded_in_memory() -> None:
    """The IoU of 32 images with 1,000 padded boxes would take 15 GB; a block takes 256 MiB at most."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            result = function(*arguments, **(keywords or {}))
            for value in torch.utils._pytree.tree_leaves(result):
                if isinstance(value, torch.Tensor):
                    largest = max(largest, value.untyped_storage().nbytes())
            return result

    with FakeTensorMode(), Watch():
        matched = match_anchors(torch.empty(120_087, 4, device='cuda'), torch.empty(32, 1000, 4, device='cuda'),
                                torch.empty(32, 1000, dtype=torch.int64, device='cuda'))
    assert matched.shape == (32, 120_087)
    assert 0 < largest <= 2 * 2**28
