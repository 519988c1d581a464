"""The training step as a CUDA graph: recorded once, then replayed without Python.

A replay repeats what was recorded, at the same addresses. So the rules of a recording are: the host is never asked for
a value, shapes do not change, and what changes from step to step (batch, learning rate, the optimiser's counters) lives
in tensors that are written in place. ROCm's graphs answer to the same interface.

Source: the notes on CUDA graphs in PyTorch's manual ("CUDA semantics").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Protocol

import torch
from torch import Tensor

from mlperf_det.data.batch import Batch

#: Steps before the recording, in which libraries choose their algorithms and reserve memory; the manual's numbers,
#: without and with `DistributedDataParallel`. They are ordinary steps of the training.
WARMUP_STEPS, WARMUP_STEPS_DISTRIBUTED = 3, 11


class Recorder(Protocol):
    """What records a step and replays it; `CudaRecorder`, or its like in a test."""

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """Do the step where recordings are made, and return its loss."""
        ...

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        """Record the step without doing it; return the tensor that holds the loss after each replay."""
        ...

    def replay(self) -> None:
        """Do the recorded step."""
        ...


class CudaRecorder:
    """A CUDA graph and the side stream on which it is warmed up."""

    def __init__(self, device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        """See `Recorder`."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = step()
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def record(self, step: Callable[[], Tensor]) -> Tensor:
        """See `Recorder`."""
        # Other threads, which pin memory and watch the ranks, go on meanwhile.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode='thread_local'):
            return step()

    def replay(self) -> None:
        """See `Recorder`."""
        self._graph.replay()


class GraphedStep:
    """A training step that is recorded after a few steps and replayed from then on; batches are copied in.

    No step is done twice or taken back: recording does nothing, and each of the steps before it is one of the
    training.

    Args:
        step: does one optimiser step on a batch and returns the loss, on the device.
        optimizer: made with ``capturable``; its learning rates become tensors here.
        recorder: records and replays.
        images: of a full batch. Others, such as the last of an epoch, are done as they are.
        warmup_steps: steps before the recording.
    """

    def __init__(self, step: Callable[[Batch], Tensor], optimizer: torch.optim.Optimizer, recorder: Recorder, *,
                 images: int, warmup_steps: int) -> None:
        self._step, self._optimizer, self._recorder = step, optimizer, recorder
        self._images, self._warmups_left = images, warmup_steps
        self._inputs: Batch | None = None
        self._loss: Tensor | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Do one step; the loss is valid until the next."""
        move_rates_to_tensors(self._optimizer, batch.images.device)
        if len(batch) != self._images:
            return self._step(batch)
        inputs = self._copied(batch)
        if self._warmups_left:
            self._warmups_left -= 1
            return self._recorder.warm_up(lambda: self._step(inputs))
        if self._loss is None:
            self._loss = self._recorder.record(lambda: self._step(inputs))
        self._recorder.replay()
        return self._loss

    def _copied(self, batch: Batch) -> Batch:
        """Return the batch at the addresses that the recording reads."""
        if self._inputs is None:
            self._inputs = replace(batch, **{each.name: getattr(batch, each.name).clone() for each in fields(batch)})
            return self._inputs
        for each in fields(batch):
            fixed, new = getattr(self._inputs, each.name), getattr(batch, each.name)
            if fixed.shape != new.shape:
                raise RuntimeError(f'{each.name} of a batch is {tuple(new.shape)}, the recorded step takes '
                                   f'{tuple(fixed.shape)}; the benchmark must pad its batches')
            fixed.copy_(new)
        return self._inputs


def move_rates_to_tensors(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Keep the learning rates where a replay reads them anew; does nothing where they are there already."""
    for group in optimizer.param_groups:
        if not isinstance(group['lr'], Tensor) or group['lr'].device != device:
            group['lr'] = torch.as_tensor(group['lr'], dtype=torch.float32).to(device)


def set_rate(group: dict[str, object], rate: float) -> None:
    """Set the learning rate of a parameter group, in place where it is a tensor."""
    if isinstance(group['lr'], Tensor):
        group['lr'].fill_(rate)
    else:
        group['lr'] = rate
