"""The rules of a recorded step, held on the CPU: operators are recorded on a tape and replayed at the same addresses.

A replay of the tape runs no line of Python of the step, as a replay of a CUDA graph runs none. What a step takes from
the host instead of from a tensor is therefore the same in every replay, and what it asks of the host fails.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mlperf_det.cli import main
from mlperf_det.data.batch import Batch
from mlperf_det.data.openimages.generate import CARD_NAME
from mlperf_det.errors import UserError
from mlperf_det.models.retinanet import RETINANET_SMOKE, RetinaNet
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training import device, loop, step_graph
from mlperf_det.training.step_graph import GraphedStep, set_rate

IMAGES, WARMUPS = 2, 2
#: operators that hand a value to the host
HOST_READS = {'aten._local_scalar_dense.default', 'aten.nonzero.default', 'aten.equal.default',
              'aten.masked_select.default'}


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Tape(TorchDispatchMode):
    """Records the operators of a step with the tensors that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if str(function) in HOST_READS:
            raise RuntimeError(f'{function} asks the host')
        keywords = keywords or {}
        if function._schema.is_mutable:
            for given in tensors((arguments, keywords)):
                self.before.setdefault(given.untyped_storage().data_ptr(), (given, given.clone()))
        result = function(*arguments, **keywords)
        self.calls.append((function, arguments, keywords, result))
        return result

    def undo(self) -> None:
        for changed, value in self.before.values():
            changed.copy_(value)

    def replay(self) -> None:
        for function, arguments, keywords, recorded in self.calls:
            for old, new in zip(tensors(recorded), tensors(function(*arguments, **keywords)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor written in place
                    old.copy_(new)


class TapeRecorder:
    """A `Recorder` without a GPU."""

    def __init__(self) -> None:
        self.tape = Tape()
        self.warmed = self.replayed = 0

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        self.warmed += 1
        return step()

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        with self.tape:
            loss = step().detach()
        with torch.no_grad():
            self.tape.undo()
        return loss

    def replay(self) -> None:
        self.replayed += 1
        with torch.no_grad():
            self.tape.replay()


class Training:
    """RetinaNet's training step as the loop does it, with the smoke network."""

    def __init__(self, *, capturable: bool, scaled: bool = False) -> None:
        torch.manual_seed(7)
        self.scaler = torch.amp.GradScaler('cpu', enabled=scaled)
        self.model = RetinaNet(RETINANET_SMOKE).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True, capturable=capturable)

    def step(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(list(self.model(batch).values())).sum()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def run(self, batches: list[Batch], do_step: Callable[[Batch], Tensor]) -> list[float]:
        """Return the losses; the learning rate changes with every step, as in a warm-up."""
        losses = []
        for number, batch in enumerate(batches):
            for group in self.optimizer.param_groups:
                set_rate(group, 1e-3 * (1 + number))
            losses.append(do_step(batch).item())
        return losses

    def graphed(self, recorder: TapeRecorder) -> GraphedStep:
        return GraphedStep(self.step, self.optimizer, recorder, images=IMAGES, warmup_steps=WARMUPS)


@pytest.fixture
def batches(make_batch: Callable[..., Batch]) -> list[Batch]:
    counts = ([3, 0], [8, 1], [0, 0], [2, 2], [5], [1, 7], [4, 4])  # the fifth is the last, partial one of an epoch
    return [make_batch(RETINANET_SMOKE, list(boxes), seed=number).to(torch.device('cpu'), torch.channels_last)
            for number, boxes in enumerate(counts)]


@pytest.mark.parametrize('scaled', [False, True])
def test_replays_train_as_steps_do(batches: list[Batch], scaled: bool) -> None:
    plain, graphed = Training(capturable=False, scaled=scaled), Training(capturable=True, scaled=scaled)
    recorder = TapeRecorder()
    expected = plain.run(batches, plain.step)
    pointers = [parameter.data_ptr() for parameter in graphed.model.parameters()]
    found = graphed.run(batches, graphed.graphed(recorder))
    assert (recorder.warmed, recorder.replayed) == (WARMUPS, 4), 'all full batches, and the partial one by itself'
    assert found == pytest.approx(expected, rel=1e-4)
    assert [parameter.data_ptr() for parameter in graphed.model.parameters()] == pointers
    for (name, mine), theirs in zip(graphed.model.named_parameters(), plain.model.parameters(), strict=True):
        # A step of Adam moves a value by at most its rate, whatever the gradient's rounding makes of its sign.
        assert (mine - theirs).abs().max() < 2e-3, name
        assert (mine - theirs).abs().mean() < 2e-5, name
    assert graphed.scaler.state_dict() == plain.scaler.state_dict()
    counts = {int(state['step']) for state in graphed.optimizer.state.values()}
    assert counts == {len(batches)}, 'recording is not a step of its own'


def test_a_resumed_run_records_anew(batches: list[Batch]) -> None:
    plain, stopped, resumed = (Training(capturable=capturable) for capturable in (False, True, True))
    plain.run(batches[:4], plain.step)
    stopped.run(batches[:4], stopped.graphed(TapeRecorder()))
    torch.save((stopped.model.state_dict(), stopped.optimizer.state_dict()), checkpoint := io.BytesIO())
    checkpoint.seek(0)
    model, optimizer = torch.load(checkpoint, weights_only=True)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    found = resumed.run(batches[4:] + batches[:3], resumed.graphed(recorder := TapeRecorder()))
    assert recorder.replayed == 3
    assert found == pytest.approx(plain.run(batches[4:] + batches[:3], plain.step), rel=1e-4)


def test_a_rate_on_the_host_would_be_recorded_for_good(batches: list[Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, graphed = Training(capturable=False), Training(capturable=True)
    monkeypatch.setattr(step_graph, 'move_rates_to_tensors', lambda *_: None)
    expected = plain.run(batches, plain.step)
    found = graphed.run(batches, graphed.graphed(TapeRecorder()))
    assert found[:WARMUPS + 2] == pytest.approx(expected[:WARMUPS + 2], rel=1e-4)
    assert found[-1] != pytest.approx(expected[-1], rel=1e-4)


def test_a_step_that_asks_the_host_cannot_be_recorded(batches: list[Batch]) -> None:
    training = Training(capturable=True)

    def curious(batch: Batch) -> Tensor:
        loss = training.step(batch)
        return loss * 1 if loss.isfinite() else loss

    step = GraphedStep(curious, training.optimizer, TapeRecorder(), images=IMAGES, warmup_steps=0)
    with pytest.raises(RuntimeError, match=r'_local_scalar_dense\.default asks the host'):
        step(batches[0])


def test_batches_of_another_shape_are_refused(make_batch: Callable[..., Batch], batches: list[Batch]) -> None:
    training = Training(capturable=True)
    step = training.graphed(TapeRecorder())
    step(batches[0])
    with pytest.raises(RuntimeError, match=r'boxes of a batch is \(2, 16, 4\), the recorded step takes \(2, 8, 4\)'):
        step(make_batch(RETINANET_SMOKE, [3, 9], seed=9, padded=16))


def test_batches_are_copied_to_where_the_recording_reads_them(batches: list[Batch]) -> None:
    training, recorder = Training(capturable=True), TapeRecorder()
    step = training.graphed(recorder)
    seen = []
    training.model.register_forward_pre_hook(lambda _module, given: seen.append(given[0].images.data_ptr()))
    for batch in batches[:4]:
        step(batch)
    assert len(seen) == WARMUPS + 1, 'replays run no Python'
    assert len(set(seen)) == 1
    assert not {batch.images.data_ptr() for batch in batches} & set(seen)


class TestSetting:
    ASKED = Runtime(precision='fp32', cuda_graph=True)

    def test_a_gpu_records_with_an_optimiser_that_can_be_recorded(self) -> None:
        runtime = device.resolve(self.ASKED, torch.device('cuda'))
        assert runtime.cuda_graph
        assert runtime.optimizer_arguments == {'fused': True, 'foreach': False, 'capturable': True}

    def test_without_a_gpu_it_is_refused(self) -> None:
        with pytest.raises(UserError, match='cuda_graph needs a GPU; set'):
            device.resolve(self.ASKED, torch.device('cpu'))

    def test_an_optimiser_that_asks_the_host_is_refused(self) -> None:
        with pytest.raises(UserError, match='an optimiser of foreach kernels asks the host'):
            device.resolve(replace(self.ASKED, optimizer_implementation='foreach'), torch.device('cuda'))


def test_the_loop_trains_alike_with_a_recorded_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the program, with the tape in the place of the GPU's graph."""
    data = tmp_path / 'scenes'
    assert main(['data', 'generate', CARD_NAME, '--root', str(data), '--train', '10', '--val', '2', '--seed', '1']) == 0
    for word in ('prepare', 'verify'):
        assert main(['data', word, CARD_NAME, '--root', str(data)]) == 0
    recorders: list[TapeRecorder] = []

    def recorder(device: torch.device) -> TapeRecorder:
        recorders.append(TapeRecorder())
        return recorders[-1]

    monkeypatch.setattr(loop, 'CudaRecorder', recorder)
    monkeypatch.setattr(device, '_check_cuda_graph', lambda *_: None)
    losses = {}
    for graph in ('false', 'true'):
        output = tmp_path / graph
        settings = ('local_batch_size=2', 'max_steps=8', 'runtime.precision=fp32', 'runtime.loader_workers=0',
                    'runtime.log_interval=1', f'runtime.cuda_graph={graph}')
        assert main(['train', 'retinanet', '--recipe', 'smoke', '--data', str(data), '--output', str(output), '--seed',
                     '2', '--device', 'cpu', *(word for each in settings for word in ('--set', each))]) == 0
        lines = [json.loads(line) for line in (output / 'metrics.jsonl').read_text().splitlines()]
        losses[graph] = [line['loss'] for line in lines if line['kind'] == 'step']
    assert losses['true'] == pytest.approx(losses['false'], rel=1e-4)
    graph, = recorders
    assert graph.warmed == step_graph.WARMUP_STEPS
    assert graph.replayed >= 3
    assert graph.warmed + graph.replayed < len(losses['true']) == 8, 'the last batch of an epoch is partial'
