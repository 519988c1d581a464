"""A convolution whose backward pass skips the positions that got no gradient.

A loss that learns from a sample of the positions, as SSD's with its hard negatives, leaves the gradient of a head's
output zero nearly everywhere. Convolving zeros costs as much as anything else; here the others alone are gathered, and
what is left are two small matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Share of positions with a gradient above which the dense backward pass is as fast.
DENSE_ABOVE = 0.25


class SparseGradientConv2d(nn.Conv2d):
    """A convolution with bias at stride 1 that keeps the size of its input; its results are those of `nn.Conv2d`.

    Attributes:
        skips_zeros: whether the backward pass looks for positions without a gradient. It has to know how many there
            are, for which a GPU's host would have to wait: see `training.device.prepare_model`.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self.skips_zeros = False

    def forward(self, input: Tensor) -> Tensor:  # nn.Conv2d's own name
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        if not (self.skips_zeros and torch.is_grad_enabled()):
            return super().forward(input)
        dtype = compute_dtype(input)
        assert self.bias is not None
        output: Tensor = _Convolution.apply(*(x.to(dtype) for x in (input, self.weight, self.bias)))
        return output


def skip_zeros(model: nn.Module, skips: bool) -> None:
    """Switch all of a model's `SparseGradientConv2d`."""
    for module in model.modules():
        if isinstance(module, SparseGradientConv2d):
            module.skips_zeros = skips


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which a convolution computes on a tensor: that of autocast where it is on."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        cells = rows.any(dim=1).nonzero().squeeze(1)
        if len(cells) > DENSE_ABOVE * len(rows):
            padding = [weight.shape[-1] // 2] * 2
            dense: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                gradient, x, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, True])
            return dense
        return _sparse_backward(rows[cells], cells, x, weight)


def _sparse_backward(gradient: Tensor, cells: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias.

    Args:
        gradient: (K, outputs), of the output at the cells.
        cells: (K,) int64, numbered through all images row by row.
        x: (N, C, H, W).
        weight: (outputs, C, S, S).
    """
    images, channels, height, width = x.shape
    outputs, _, size, _ = weight.shape
    places, inside = _seen_from(cells, height, width, size)
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
    patches = (pixels[places] * inside[:, None]).view(len(cells), size * size * channels)
    kernel = weight.permute(0, 2, 3, 1).reshape(outputs, -1)
    of_weight = (gradient.t() @ patches).view(outputs, size, size, channels).permute(0, 3, 1, 2)
    # Patches overlap: added up in at least float32, as a convolution does.
    wide = torch.promote_types(x.dtype, torch.float32)
    of_patches = (gradient @ kernel).view(len(places), channels).to(wide) * inside[:, None]
    of_pixels = of_patches.new_zeros(pixels.shape).index_add_(0, places, of_patches).to(x.dtype)
    return (of_pixels.view(images, height, width, channels).permute(0, 3, 1, 2), of_weight,
            gradient.sum(dim=0, dtype=wide).to(x.dtype))


def _seen_from(cells: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Return (K * size * size,) int64 cells that a kernel sees from each cell, and which are inside the image.

    One outside is replaced by the cell itself.
    """
    offset = torch.arange(size, device=cells.device) - size // 2
    row, column = cells // width % height, cells % width
    seen_row, seen_column = row[:, None, None] + offset[:, None], column[:, None, None] + offset
    inside = (seen_row >= 0) & (seen_row < height) & (seen_column >= 0) & (seen_column < width)
    here = cells[:, None, None]
    places = torch.where(inside, here + offset[:, None] * width + offset, here)
    return places.flatten(), inside.flatten()
