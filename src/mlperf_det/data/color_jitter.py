"""Photometric augmentation of uint8 images, bit-equal to ``torchvision.transforms.ColorJitter`` on a Pillow image.

Values stay whole numbers from 0 to 255 after every step, as they do in Pillow, but are held as float32 planes: each
step is then a handful of vector operations. The hue step, two thirds of Pillow's time, is where this matters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

#: ITU-R 601 luma in 16-bit fixed point, as Pillow converts RGB to L
_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in a random order for each image.

    Attributes:
        brightness: the factor is drawn from 1 -+ this.
        contrast: the same.
        saturation: the same.
        hue: the shift is drawn from -+ this, in turns of the colour wheel (at most 0.5).
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a jittered copy of a (3, H, W) uint8 image."""
        factors = rng.uniform(-1, 1, 4)
        steps = [
            (adjust_brightness, 1 + self.brightness * factors[0]),
            (adjust_contrast, 1 + self.contrast * factors[1]),
            (adjust_saturation, 1 + self.saturation * factors[2]),
            (adjust_hue, self.hue * factors[3]),
        ]
        planes = image.float()
        for step in rng.permutation(4):
            adjust, factor = steps[step]
            adjust(planes, float(factor))
        return to_uint8(planes)


def adjust_brightness(planes: Tensor, factor: float) -> None:
    """Blend with black, in place: Pillow's ``ImageEnhance.Brightness``. (3, H, W) float32, whole numbers 0 to 255."""
    planes.mul_(factor)
    if factor > 1:
        planes.clamp_(max=255)
    planes.floor_()


def adjust_contrast(planes: Tensor, factor: float) -> None:
    """Blend with the mean luma, in place: Pillow's ``ImageEnhance.Contrast``. (3, H, W) float32 as above."""
    # Row by row first: up to 65,000 pixels a float32 sum of bytes is exact.
    mean = float(luma(planes).sum(dim=1).sum(dtype=torch.float64)) / planes[0].numel()
    _blend(planes, float(int(mean + 0.5)), factor)


def adjust_saturation(planes: Tensor, factor: float) -> None:
    """Blend with the luma of each pixel, in place: Pillow's ``ImageEnhance.Color``. (3, H, W) float32 as above."""
    _blend(planes, luma(planes), factor)


def adjust_hue(planes: Tensor, shift: float) -> None:
    """Turn the hue, in place, as torchvision does through Pillow's HSV image. (3, H, W) float32 as above.

    Pillow rounds hue, saturation and value to bytes and the shift to 1/255 turns; that is reproduced exactly.
    """
    red, green, blue = planes
    # Hue depends only on the differences of the channels, so a table over both differences holds it.
    scratch = torch.rsub(blue, 255 * 511 + 255).add_(red, alpha=511).sub_(green, alpha=510)
    index = scratch.to(torch.int32)
    turned = _hue_table().index_select(0, index.view(-1)).view_as(index).add_(int(shift * 255) % 256)  # bytes wrap
    value = torch.maximum(red, green)
    torch.maximum(value, blue, out=value)
    depth = torch.minimum(red, green)
    torch.minimum(depth, blue, out=depth)
    torch.sub(value, depth, out=depth)
    # Saturation is the byte below 255 * chroma / value; float32 gives Pillow's for all pairs. Black has none.
    depth.div_(torch.clamp(value, min=1, out=scratch)).mul_(255).floor_().mul_(value).div_(255 * 255)

    # Each channel falls below the value by round(saturation * value * k), where k is a trapezoid of the hue with
    # corners at sixths of a turn. In units of 1/255 k is a multiple of 3, so the product is never nearer than 2.3e-5
    # to a half; float32 is off by at most 1.6e-5 here.
    hue = scratch.copy_(turned).mul_(6)
    torch.sub(hue, 765, out=red).abs_().neg_().add_(510)
    torch.sub(hue, 510, out=green).abs_().sub_(255)
    torch.sub(hue, 1020, out=blue).abs_().sub_(255)
    planes.clamp_(0, 255).mul_(depth).round_()
    torch.sub(value, planes, out=planes)


def luma(planes: Tensor) -> Tensor:
    """Return Pillow's L image, (H, W) float32 whole numbers, of (3, H, W) planes."""
    red, green, blue = _LUMA
    # Every intermediate is a multiple of 2**-16 below 2**8, hence exact.
    half = torch.tensor(0.5)
    return half.add(planes[0], alpha=red).add_(planes[1], alpha=green).add_(planes[2], alpha=blue).floor_()


def to_uint8(planes: Tensor) -> Tensor:
    """Return whole numbers from 0 to 255 as uint8."""
    # NumPy's conversion is vectorised, PyTorch's is not: a sixth of the time.
    return torch.from_numpy(planes.numpy().astype(np.uint8))


def _blend(planes: Tensor, degenerate: Tensor | float, factor: float) -> None:
    """Pillow's ``Image.blend(degenerate, image, factor)``, rounded down and clipped, in place."""
    planes.sub_(degenerate).mul_(factor).add_(degenerate)
    if factor > 1:
        planes.clamp_(0, 255)
    planes.floor_()


@functools.cache
def _hue_table() -> Tensor:
    """Return Pillow's hue (uint8) for each pair (red - green, green - blue) from -255 to 255: (511 * 511,)."""
    differences = np.arange(-255, 256)
    # The colour with these differences whose smallest channel is 0; pairs that no colour has are never looked up.
    channels = np.stack(np.broadcast_arrays(differences[:, None], 0, -differences[None, :]), axis=-1)
    channels = (channels - channels.min(axis=-1, keepdims=True)).clip(max=255)
    return torch.from_numpy(_hsv(channels)[..., 0].reshape(-1))


def _hsv(colours: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(colours.astype(np.uint8)).convert('HSV'))
