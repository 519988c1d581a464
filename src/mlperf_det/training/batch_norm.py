"""Batch norms over ranks: statistics averaged before an evaluation, and batches normalised in groups of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


def average_statistics(model: nn.Module) -> None:
    """Replace running means and variances by their averages over all ranks; no effect without `torch.distributed`."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    statistics = [
        buffer for module in model.modules() if isinstance(module, nn.BatchNorm2d)
        for buffer in (module.running_mean, module.running_var) if buffer is not None]
    flat = torch.cat(statistics)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for buffer, average in zip(statistics, torch.split(flat, [buffer.numel() for buffer in statistics]), strict=True):
        buffer.copy_(average)


def group_batch_norms(model: nn.Module, size: int) -> nn.Module:
    """Let the batch norms of a model normalise over groups of ``size`` consecutive ranks; the same module comes back.

    Collective: every rank builds the groups of all. Parameters, buffers and their names stay what they are. Without
    `torch.distributed`, or with ``size`` 1, nothing changes.
    """
    if size == 1 or not (dist.is_available() and dist.is_initialized()):
        return model
    group, _ = dist.new_subgroups(size)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, GroupBatchNorm2d.of(child, group))
    return model


class GroupBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose training batch is that of a group of ranks.

    PyTorch's `torch.nn.SyncBatchNorm` does the same on GPUs alone; this one runs wherever the group's backend does.
    Ranks may have batches of different sizes. Evaluation uses the running statistics, as ever.
    """

    group: dist.ProcessGroup

    @classmethod
    def of(cls, norm: nn.BatchNorm2d, group: dist.ProcessGroup) -> GroupBatchNorm2d:
        """Return a norm over ``group`` that holds the very parameters and buffers of ``norm``."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.__dict__.update(norm.__dict__)
        made.group = group
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return self._normalise(input.float()).to(input.dtype)

    def _normalise(self, images: Tensor) -> Tensor:
        variance, mean = torch.var_mean(images, dim=(0, 2, 3), correction=0)
        count = mean.new_full((1,), images.numel() / images.shape[1])
        # (ranks, 2 C + 1): each rank fills its own row, so their sum is what all of them gathered.
        row = torch.cat([mean, variance, count])
        place, ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
        gathered = _SumOverRanks.apply(F.pad(row[None], (0, 0, place, ranks - 1 - place)), self.group)
        means, variances, counts = gathered.split([self.num_features, self.num_features, 1], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        self._track(mean.detach(), variance.detach() * total / (total - 1))
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return torch.addcmul(shift[:, None, None], images, scale[:, None, None])

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """The sum over a group of ranks; so is its gradient, for each rank's loss depends on every rank's summand."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = summand.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
