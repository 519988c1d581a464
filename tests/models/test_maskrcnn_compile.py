"""What graph capture and compilers ask of the step: few graphs, fixed shapes, nothing read back by the host."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from maskrcnn_batches import LOSSES, calibrate, random_mask_batch, smoke_batch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlperf_det.data import polygon_raster
from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.models import maskrcnn, roi_align, roi_sampling, rpn
from mlperf_det.models.grouped_nms import ROUNDS, grouped_nms, settle_in_rounds
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MASKRCNN_SMOKE, MaskRcnn, MaskRcnnArchitecture
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.device import resolve, training_model

CPU = torch.device('cpu')


def calibrated_model() -> MaskRcnn:
    torch.manual_seed(1)
    model = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200)
    calibrate(model)
    return model


def train(model: torch.nn.Module, losses_of: Any, batches: list[MaskBatch]) -> list[dict[str, float]]:
    """Do a step a batch with SGD; return the losses of each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = []
    for seed, batch in enumerate(batches):
        torch.manual_seed(seed)
        losses = losses_of(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    return history


@pytest.mark.slow
def test_the_compiled_runtime_trains_to_the_same_losses_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, split into forward and backward and run as such; generating C++ for it would take minutes."""
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='aot_eager'))
    batches = [smoke_batch([3, 2], seed=0), smoke_batch([4, 1], seed=1), smoke_batch([0, 2], seed=2)]
    eager, compiled = calibrated_model(), calibrated_model()
    runtime = resolve(Runtime(precision='fp32', compile='model'), CPU)
    called = training_model(compiled, runtime, CPU, distributed=False, static_graph=True)
    assert called is not compiled
    expected, found = train(eager, eager, batches), train(compiled, called, batches)
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5), step
    for name, parameter in compiled.named_parameters():
        torch.testing.assert_close(parameter, eager.get_parameter(name), rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def oriented_batch(shape: tuple[int, int], boxes: list[int], seed: int) -> MaskBatch:
    return random_mask_batch(boxes, height=shape[0], width=shape[1], classes=8, seed=seed)


@pytest.mark.long
def test_a_graph_ends_at_the_mask_targets_alone_and_serves_both_shapes() -> None:
    """The rasteriser is left out, because a compiler may fuse what must round twice; all else is compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = calibrated_model()
    backend = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=backend)
    wide, upright = (96, 160), (160, 96)
    for number, (shape, boxes) in enumerate(((wide, [3, 2]), (upright, [1, 4]))):
        batch = oriented_batch(shape, boxes, seed=number)
        torch.manual_seed(7)
        expected = model(batch)
        torch.manual_seed(7)
        for name, value in compiled(batch).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    breaks = torch._dynamo.utils.counters['graph_break']
    assert breaks
    assert all('mask_targets' in reason for reason in breaks)
    compilations = backend.frame_count
    for number, (shape, boxes) in enumerate(((wide, [8, 0]), (upright, [0, 5]), (wide, [2, 2]))):
        compiled(oriented_batch(shape, boxes, seed=10 + number))
    assert backend.frame_count == compilations, 'a padded batch was compiled for again'
    torch._dynamo.reset()


class HostReads(TorchDispatchMode):
    """Refuses operators whose result or its shape only the host can know."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        asks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags)
        if function is torch.ops.aten.index.Tensor:  # which counts, but only for masks
            asks = {index for index in arguments[1] if index is not None and index.dtype in (torch.bool, torch.uint8)}
        if asks:
            raise AssertionError(f'{function} asks the host')
        return function(*arguments, **(keywords or {}))


def use_the_forms_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (roi_align, roi_sampling):
        monkeypatch.setattr(module, 'wants_fixed_shapes', lambda device: True)
    monkeypatch.setattr(rpn, 'grouped_nms', lambda boxes, valid, iou: settle_in_rounds(boxes, valid, iou, ROUNDS))
    monkeypatch.setattr(maskrcnn, '_exact_mask_targets', polygon_raster._draw_dense)


@pytest.mark.parametrize('boxes_per_image', [[3, 2], [4, 0]])
def test_a_whole_step_asks_the_host_for_nothing(boxes_per_image: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = calibrated_model(), smoke_batch(boxes_per_image)
    torch.manual_seed(3)
    expected = model(batch)
    use_the_forms_of_accelerators(monkeypatch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    torch.manual_seed(3)
    with HostReads():
        with torch.autocast('cpu', torch.bfloat16, enabled=False):
            losses = model(batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_the_forms_of_the_cpu_would_be_noticed() -> None:
    with HostReads(), pytest.raises(AssertionError, match='asks the host'):
        calibrated_model()(smoke_batch([3, 2]))
    with HostReads(), pytest.raises(AssertionError, match='_local_scalar_dense'):
        torch.ones(3).sum().item()


def fake(architecture: MaskRcnnArchitecture, batch: MaskBatch, mode: FakeTensorMode) -> tuple[MaskRcnn, MaskBatch]:
    """Make both on a GPU that need not exist: an operator that asks the host for a value raises."""
    device = torch.device('cuda')
    with mode, device:
        model = MaskRcnn(architecture, 1000 * len(batch))
        tensors = {name: torch.empty(value.shape, dtype=value.dtype)
                   for name, value in vars(batch).items() if isinstance(value, Tensor)}
        polygons = replace(batch.polygons, **{
            name: torch.empty(value.shape, dtype=value.dtype)
            for name, value in vars(batch.polygons).items() if isinstance(value, Tensor)})
        return model, replace(batch, **tensors, polygons=polygons)


@pytest.mark.parametrize('shape', [(800, 1344), (1344, 800)])
def test_losses_at_full_size_on_a_fake_gpu_read_nothing_back(shape: tuple[int, int]) -> None:
    batch = random_mask_batch([20, 0], height=shape[0], width=shape[1], classes=80, seed=1)
    model, moved = fake(MASKRCNN_R50_FPN, batch, mode := FakeTensorMode())
    with mode:
        losses = model(moved)
    assert sorted(losses) == sorted(LOSSES)
    assert {type(value) for value in losses.values()} == {FakeTensor}
    assert {(value.device.type, value.dtype) for value in losses.values()} == {('cuda', torch.float32)}


def test_detection_at_full_size_on_a_fake_gpu_reads_nothing_back() -> None:
    batch = random_mask_batch([0, 0], height=800, width=1344, classes=80, seed=1)
    model, moved = fake(MASKRCNN_R50_FPN, batch, mode := FakeTensorMode())
    with mode:
        found = model.detect(moved)
    assert found.masks.shape == (2, 100, 28, 28)
    assert {getattr(found, name).device.type for name in ('boxes', 'scores', 'labels', 'valid', 'masks')} == {'cuda'}


def test_a_fake_gpu_would_notice_a_count_that_depends_on_data() -> None:
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        torch.ones(3, device='cuda').nonzero()


def test_suppression_in_rounds_reads_nothing_back_on_a_fake_gpu() -> None:
    with FakeTensorMode(), torch.device('cuda'):  # the body, which a fake run of the whole model steps over
        kept = grouped_nms._init_fn(torch.empty(2, 5, 2000, 4), torch.empty(2, 5, 2000, dtype=torch.bool), 0.7)
    assert (kept.device.type, kept.shape, kept.dtype) == ('cuda', (2, 5, 2000), torch.bool)
