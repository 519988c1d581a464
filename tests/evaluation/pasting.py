"""The MLPerf Mask R-CNN reference's way from a mask to run lengths: an array of the image's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_utils


def paste_and_encode(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """The reference's way: inclusive float32 edges, a whole image, pycocotools."""
    left, top, right, bottom = torch.from_numpy(box - [0, 0, 1, 1]).float()
    bordered = F.pad(torch.from_numpy(mask)[None, None], (1, 1, 1, 1))
    half_width, half_height = (right - left) * 0.5 * (30 / 28), (bottom - top) * 0.5 * (30 / 28)
    centre_x, centre_y = (right + left) * 0.5, (bottom + top) * 0.5
    x0, y0, x1, y1 = (int(edge) for edge in (centre_x - half_width, centre_y - half_height, centre_x + half_width,
                                             centre_y + half_height))
    size = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    inside = F.interpolate(bordered, size=size, mode='bilinear', align_corners=False)[0, 0] > 0.5
    image = torch.zeros(height, width, dtype=torch.uint8)
    rows, columns = slice(max(y0, 0), min(y0 + size[0], height)), slice(max(x0, 0), min(x0 + size[1], width))
    if rows.start < rows.stop and columns.start < columns.stop:
        image[rows, columns] = inside[rows.start - y0:rows.stop - y0, columns.start - x0:columns.stop - x0]
    return mask_utils.encode(np.asfortranarray(image.numpy()))
