"""Batch normalisation whose statistics and affine parameters are fixed, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """A fixed ``x * scale + shift`` per channel; has buffers only, so nothing is trained or updated.

    ``weight``, ``bias``, ``running_mean`` and ``running_var`` keep the names and values of the checkpoint. ``scale``
    and ``shift`` are folded from them when the state is loaded and are not saved. As torchvision's class of this
    name, but never applied by itself: see `conv_frozen_norm`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer('weight', torch.ones(channels))
        self.register_buffer('bias', torch.zeros(channels))
        self.register_buffer('running_mean', torch.zeros(channels))
        self.register_buffer('running_var', torch.ones(channels))
        self.register_buffer('scale', torch.empty(channels), persistent=False)
        self.register_buffer('shift', torch.empty(channels), persistent=False)
        self.fold()

    @torch.no_grad()
    def fold(self) -> None:
        """Recompute ``scale`` and ``shift``; to be called after the other buffers were changed by hand."""
        self.scale.copy_(self.weight * (self.running_var + self.eps).rsqrt())
        self.shift.copy_(self.bias - self.running_mean * self.scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f'{prefix}num_batches_tracked', None)  # of a checkpoint of ordinary batch normalisation
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.fold()

    def extra_repr(self) -> str:
        """Return what ``repr`` shows in the parentheses."""
        return f'{len(self.weight)}, eps={self.eps}'


def conv_frozen_norm(x: Tensor, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> Tensor:
    """Return ``norm(conv(x))``, with the scale multiplied into the filters and the shift added as their bias.

    Equal up to rounding, gradients of the filters included, but without the two passes over the activations that the
    normalisation costs in each direction; and under autocast the activations keep the compute dtype, which a float32
    scale would promote.
    """
    filters = conv.weight * norm.scale[:, None, None, None]
    return F.conv2d(x, filters, norm.shift, conv.stride, conv.padding, conv.dilation, conv.groups)
