"""From a decoded image to RetinaNet's training input. Pixels stay uint8; the model normalises on its device.

Source: the MLPerf reference: a random mirror image, then a bilinear squash without antialiasing; boxes are clamped to
the image and dropped where nothing is left. Group-of boxes (``iscrowd``) are ordinary targets in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mlperf_det.data.annotations import Annotations
from mlperf_det.data.batch import Batch
from mlperf_det.data.ssd_augment import mirror
from mlperf_det.data.transforms import Sample, squash
from mlperf_det.errors import UserError

MIRROR_PROBABILITY = 0.5


@dataclass(frozen=True)
class RetinaNetTransform:
    """Mirror at random and squash to a square of ``image_size`` pixels (see `transforms.Transform`).

    Attributes:
        image_size: side of the result, pixels.
        mirror_probability: 0 for evaluation.
    """

    image_size: int
    mirror_probability: float = MIRROR_PROBABILITY

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64],
                 rng: np.random.Generator) -> Sample:
        """See `transforms.Transform`."""
        mirrored, targets, kept = self.targets(boxes, labels, rng)
        # Mirrored after the resize, when there is less to move; the filter is symmetric.
        pixels = squash(image, self.image_size, antialias=False)
        return pixels.flip(-1) if mirrored else pixels, targets, kept

    def targets(self, boxes: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator
                ) -> tuple[bool, Tensor, Tensor]:
        """Return whether the image is mirrored, and its boxes and labels as in a sample; the pixels are not needed."""
        boxes = boxes.clip(0, 1)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes = boxes[kept]
        mirrored = bool(rng.random() < self.mirror_probability)
        if mirrored:
            boxes = mirror(boxes)
        in_pixels = torch.from_numpy((boxes * self.image_size).astype(np.float32))
        return mirrored, in_pixels, torch.from_numpy(labels[kept])


def check_box_count(annotations: Annotations, max_boxes: int) -> None:
    """Refuse annotations with an image of more boxes than a padded batch can hold.

    Raises:
        UserError: names the file, the image and the number to set.
    """
    counts = annotations.boxes_per_image
    worst = int(counts.argmax())
    if counts[worst] > max_boxes:
        raise UserError(f'{annotations.path}: image {annotations.file_names[worst]} has {counts[worst]} boxes, more '
                        f'than max_boxes ({max_boxes}); set max_boxes={counts[worst]} in the recipe')


def pad_boxes(batch: Batch, rows: int) -> Batch:
    """Return the batch with its targets padded or cut to ``rows`` an image, so that all batches have one shape.

    Raises:
        UserError: an image has more boxes.
    """
    present = batch.labels.shape[1]
    if present > rows and bool((batch.labels[:, rows:] >= 0).any()):
        raise UserError(f'a batch has an image of more than {rows} boxes; raise max_boxes in the recipe')
    return replace(batch, boxes=F.pad(batch.boxes, (0, 0, 0, rows - present)),
                   labels=F.pad(batch.labels, (0, rows - present), value=-1))
