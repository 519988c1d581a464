"""Batch normalisation whose statistics and affine parameters are fixed, folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Most made-up images that calibrate the norms, and their pixels in all: of large images one is enough.
_CALIBRATION_IMAGES, _CALIBRATION_PIXELS = 8, 1 << 19


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
        self.calibrating = False
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

    @torch.no_grad()
    def adopt_statistics(self, x: Tensor) -> None:
        """Take mean and variance of each channel of (N, C, H, W) as the fixed ones."""
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3))
        self.running_mean.copy_(mean)
        # A dead channel stays dead instead of becoming the loudest.
        self.running_var.copy_(variance.where(variance > 0, 1.0))
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
    if norm.calibrating:
        norm.adopt_statistics(F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups))
    filters = conv.weight * norm.scale[:, None, None, None]
    return F.conv2d(x, filters, norm.shift, conv.stride, conv.padding, conv.dilation, conv.groups)


@torch.no_grad()
def calibrate_frozen_norms(model: nn.Module, forward: Callable[[Tensor], object], *, image_size: int) -> None:
    """Give the frozen norms of an untrained network the statistics that its activations have.

    Published weights bring their statistics. Random ones have none, and a deep residual network whose norms do nothing
    hardly learns. One pass over made-up images of smooth noise sets every norm, from the input on; no data are read.

    Args:
        model: the network that holds the norms.
        forward: maps (N, 3, S, S) uint8 images through all of them.
        image_size: S, pixels.
    """
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    count = max(1, min(_CALIBRATION_IMAGES, _CALIBRATION_PIXELS // image_size**2))
    noise = [F.interpolate(torch.rand(count, 3, cells, cells), size=(image_size, image_size), mode='bilinear')
             for cells in (3, 12, 48)]
    images = (255 * torch.stack(noise).mean(dim=0)).to(torch.uint8)
    for norm in norms:
        norm.calibrating = True
    forward(images)
    for norm in norms:
        norm.calibrating = False
