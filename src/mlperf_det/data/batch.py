"""What a loader hands to a model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One batch of images with padded targets. N images, at most M boxes each.

    Attributes:
        images: (N, 3, H, W) uint8, RGB, resized to the network's input; normalised on the device by the model.
        image_ids: (N,) int64, COCO image ids.
        sizes: (N, 2) int64, height and width that the annotation file states for the original image.
        boxes: (N, M, 4) float32, left, top, right, bottom in pixels of the network's input; padding is 0.
        labels: (N, M) int64, contiguous 0-based category index (the order of the dataset's categories); padding is -1.
    """

    images: Tensor
    image_ids: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Batch:
        """Copy to the device; asynchronous when the batch is pinned."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        moved['images'] = moved['images'].contiguous(memory_format=memory_format)
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by `torch.utils.data.DataLoader`)."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})
