"""Batches on their way to the device: copied beside the computation, waited for by the device and not by the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields

import torch
from torch import Tensor

from mlperf_det.data.batch import Batch
from mlperf_det.training.signals import shielded


def started(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Fetch the first batch, which starts the loader's processes, shielded from stop signals; then yield all."""
    with shielded():
        iterator = iter(batches)
        first = next(iterator, None)
    if first is not None:
        yield first
        yield from iterator


def to_device(batches: Iterable[Batch], device: torch.device, memory_format: torch.memory_format) -> Iterator[Batch]:
    """Yield the batches on the device.

    On a GPU the copy of the next batch runs on a stream of its own while the current step, which the host has only
    queued, still computes; on the CPU the same code changes the memory format alone.
    """
    stream = torch.cuda.Stream(device) if device.type == 'cuda' else None  # type: ignore[no-untyped-call]
    remaining = iter(batches)
    while True:
        # The fetch as well: a decoder on the device may be part of it.
        with torch.cuda.stream(stream) if stream else nullcontext():
            batch = next(remaining, None)
            if batch is None:
                return
            moved = batch.to(device, memory_format)
        if stream:
            compute = torch.cuda.current_stream(device)
            compute.wait_stream(stream)
            for field in fields(moved):
                value = getattr(moved, field.name)
                if isinstance(value, Tensor):
                    # The allocator must not reuse memory of the copy stream before the compute stream has read it.
                    value.record_stream(compute)
        yield moved
