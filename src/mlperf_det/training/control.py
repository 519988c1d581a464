"""Messages between ranks, over gloo and apart from the gradients; on one rank everything stays local."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar('T')


class Control:
    """What ranks tell each other. All methods are collective: every rank calls them in the same order.

    Args:
        rank: this rank.
        size: number of ranks.
        group: the gloo group; None only when ``size`` is 1.
        timeout: longest wait for a rank, after which the error names the missing one.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None,
                 timeout: timedelta = timedelta(minutes=10)) -> None:
        assert size == 1 or group is not None
        self.rank, self.size, self.group, self.timeout = rank, size, group, timeout

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank."""
        values = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return [bool(value) for value in values.tolist()]

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean over the ranks of each value."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(total, group=self.group)
        return [value / self.size for value in total.tolist()]

    def everyone(self, value: T) -> list[T]:
        """Return every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def to_first(self, value: T) -> list[T] | None:
        """Return every rank's value on rank 0, None elsewhere."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self.group)
        return values

    def from_first(self, value: T | None) -> T:
        """Return rank 0's value on every rank."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for every rank; on rank 0 the error of a timeout names the ranks that are missing."""
        if self.size > 1:
            dist.monitored_barrier(group=self.group, timeout=self.timeout, wait_all_ranks=True)
