"""From a decoded image and its boxes to what a network takes. Pixels stay uint8; the model normalises on its device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mlperf_det.data.color_jitter import ColorJitter
from mlperf_det.data.ssd_augment import mirror, random_crop

#: Image (3, H, W) uint8; boxes (M, 4) float32 ltrb in pixels of that image; labels (M,) int64.
Sample = tuple[Tensor, Tensor, Tensor]


class Transform(Protocol):
    """What a loader applies to each image."""

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64],
                 rng: np.random.Generator) -> Sample:
        """Return the sample.

        Args:
            image: (H, W, 3) RGB.
            boxes: (M, 4) left, top, right, bottom as fractions of the image.
            labels: (M,) category indices.
            rng: the only source of randomness.
        """
        ...


@dataclass(frozen=True)
class SsdTrainTransform:
    """Crop, mirror, squash to a square and jitter the colours, as the MLPerf SSD reference does.

    Attributes:
        image_size: side of the result, pixels.
        crop_attempts: windows tried before a new crop mode is drawn: 1 or 50.
        jitter: photometric ranges; the reference's by default.
    """

    image_size: int
    crop_attempts: int
    jitter: ColorJitter = field(default=ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05))

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64],
                 rng: np.random.Generator) -> Sample:
        """See `Transform`."""
        crop = random_crop(boxes, self.crop_attempts, rng)
        rows, columns = crop.pixels(*image.shape[:2])
        # Mirrored after the resize, when there is less to move; the filter is symmetric.
        pixels, boxes = squash(image[rows, columns], self.image_size, antialias=True), crop.boxes
        if rng.random() < 0.5:
            pixels, boxes = pixels.flip(-1), mirror(boxes)
        return self.jitter(pixels, rng), _in_pixels(boxes, self.image_size), torch.from_numpy(labels[crop.kept])


@dataclass(frozen=True)
class SquashTransform:
    """Squash to a square, nothing else: what evaluation sees.

    Attributes:
        image_size: side of the result, pixels.
        antialias: filter when shrinking, as Pillow's bilinear resize does.
    """

    image_size: int
    antialias: bool

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64],
                 rng: np.random.Generator) -> Sample:
        """See `Transform`; draws nothing."""
        pixels = squash(image, self.image_size, antialias=self.antialias)
        return pixels, _in_pixels(boxes, self.image_size), torch.from_numpy(labels)


def squash(image: NDArray[np.uint8], size: int, *, antialias: bool) -> Tensor:
    """Resize (H, W, 3) to a contiguous (3, size, size) bilinearly, aspect ratio not kept.

    With ``antialias`` it is within one grey level of Pillow's ``resize(..., BILINEAR)``.
    """
    # Both for speed: the filter is faster on a crop that was copied, and NumPy separates the channels in half the time.
    interleaved = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    resized: Tensor = F.resize(interleaved, [size, size], antialias=antialias)
    return torch.from_numpy(np.ascontiguousarray(resized.numpy()))


def _in_pixels(boxes: NDArray[np.float64], size: int) -> Tensor:
    return torch.from_numpy((boxes * size).astype(np.float32))
