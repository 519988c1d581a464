"""From decoded images, boxes and outlines to the batches of Mask R-CNN.

The rules are those of the MLPerf reference. It keeps boxes with inclusive edges (``width = right - left + 1``); here
they are their half-open twins, ``right`` and ``bottom`` one pixel further, which any box formula takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mlperf_det.data.annotations import Annotations
from mlperf_det.data.aspect_sampler import evaluation_plans, training_plans
from mlperf_det.data.batch import Batch
from mlperf_det.data.coco_masks import Outlines
from mlperf_det.data.loader import ImageSource, default_workers
from mlperf_det.data.polygon_raster import Polygons, make_polygons
from mlperf_det.data.sampler import BatchPlan
from mlperf_det.data.transforms import Sample, Transform
from mlperf_det.errors import UserError

MIRROR_PROBABILITY = 0.5
#: Sides of a batch are multiples of this: the stride of the coarsest feature map that is added to another.
SIZE_DIVISOR = 32
_LEAST_TARGETS = 8
#: A mask lies elsewhere than its box where their extents overlap less (IoU); and the share of such masks let through.
_LEAST_EXTENT_IOU, _MOST_ELSEWHERE = 0.5, 0.01


@dataclass(frozen=True, kw_only=True)
class MaskBatch(Batch):
    """A batch of padded images; pixels right of and below an image are 0, as are the targets of evaluation batches.

    Attributes:
        valid_sizes: (N, 2) int64, height and width of each image in the batch without its padding.
        polygons: outlines in pixels of the network's input; object ``n * M + m`` belongs to ``labels[n, m]``.
    """

    valid_sizes: Tensor
    polygons: Polygons


@dataclass(frozen=True)
class ResizeTransform:
    """Resize bilinearly, keeping the aspect, and perhaps mirror (see `transforms.Transform`).

    Attributes:
        shortest: pixels of the short side, unless
        longest: the long side would pass these.
        mirror_probability: 0.5 in training, 0 in evaluation.
    """

    shortest: int
    longest: int
    mirror_probability: float

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float64], labels: NDArray[np.int64],
                 rng: np.random.Generator) -> Sample:
        """See `transforms.Transform`; boxes are half-open twins and follow the inclusive rules."""
        height, width = image.shape[:2]
        new_height, new_width = size = input_size(height, width, self.shortest, self.longest)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        if size != (height, width):
            pixels = F.resize(pixels, list(size), antialias=True)
        # Inclusive edges are what is scaled: q' = (q - 1) * r + 1.
        boxes = boxes * (new_width, new_height, new_width, new_height)
        boxes[:, 2:] += 1 - np.array([new_width / width, new_height / height])
        if self.mirrors(rng):
            pixels = pixels.flip(-1)
            boxes[:, [0, 2]] = new_width - boxes[:, [2, 0]]
        return pixels, torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels)

    def mirrors(self, rng: np.random.Generator) -> bool:
        """Draw whether an image is mirrored: the only draw of the transform."""
        return bool(rng.random() < self.mirror_probability)

    def move_corners(self, corners: NDArray[np.floating], height: int, width: int, *, mirrored: bool
                     ) -> NDArray[np.float64]:
        """Return (P, 2) float64 outlines of the resized image; the mirror image of x is W - x - 1, as of a pixel."""
        new_height, new_width = input_size(height, width, self.shortest, self.longest)
        moved = corners.astype(np.float64) * (new_width / width, new_height / height)
        if mirrored:
            moved[:, 0] = new_width - moved[:, 0] - 1
        return moved


def input_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Return height and width of an image in the network's input.

    The short side becomes ``shortest``, or, where the long side would pass ``longest``, so much that it does not;
    the long side is truncated and may pass ``longest`` by a pixel (the short side was rounded).
    """
    small, large = min(height, width), max(height, width)
    short = shortest
    if large / small * shortest > longest:
        short = round(longest * small / large)
    if small == short:
        return height, width
    long = int(short * large / small)
    return (short, long) if height < width else (long, short)


def training_targets(annotations: Annotations) -> Annotations:
    """Return the images and boxes that are trained on.

    Images come by id. Those without a box, or with boxes (crowds counted) of which each has a side of at most one
    pixel, are left out; COCO's train2017 keeps 117,266. Crowds go; the other boxes become half-open twins, are clipped
    to the image, and go where their inclusive edges coincide. An image may keep no box.

    Raises:
        UserError: no image is left.
    """
    x, y, w, h = annotations.boxes.T
    image_of = np.repeat(np.arange(len(annotations)), annotations.boxes_per_image)
    substantial = np.bincount(image_of[(w > 1) & (h > 1)], minlength=len(annotations)) > 0
    images = np.flatnonzero(substantial)
    if not len(images):
        raise UserError(f'{annotations.path}: annotations: no image has a box of over one pixel; is this the right '
                        'split?')
    images = images[np.argsort(annotations.image_ids[images])]
    edges = np.stack([x, y, x + np.maximum(w - 1, 0), y + np.maximum(h - 1, 0)], axis=1)
    size = np.stack([annotations.widths, annotations.heights], axis=1)[image_of]
    edges = edges.clip(0, np.tile(size - 1, 2))
    kept = (edges[:, 2:] > edges[:, :2]).all(axis=1) & ~annotations.crowd
    place = np.full(len(annotations), -1)
    place[images] = np.arange(len(images))
    rows = np.flatnonzero(kept & (place[image_of] >= 0))
    rows = rows[np.argsort(place[image_of[rows]], kind='stable')]
    boxes = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2] + 1], axis=1)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place[image_of[rows]], minlength=len(images)))])
    return replace(
        annotations, image_ids=annotations.image_ids[images], heights=annotations.heights[images],
        widths=annotations.widths[images], file_names=tuple(annotations.file_names[image] for image in images.tolist()),
        offsets=offsets, boxes=boxes[rows], labels=annotations.labels[rows], areas=annotations.areas[rows],
        crowd=annotations.crowd[rows], annotation_ids=annotations.annotation_ids[rows])


class MaskImageSource(ImageSource):
    """The images of one split as `MaskBatch`. Its transform is a `ResizeTransform`.

    Args:
        annotations: ground truth; for training what `training_targets` returns.
        image_root: folder that the file names are relative to.
        outlines: of all boxes, in their order; None where no masks are trained.
        fixed_shapes: pad to one of two shapes (wide, upright) instead of to the largest image of the batch.

    Raises:
        UserError: masks and boxes do not belong together.
    """

    def __init__(self, annotations: Annotations, image_root: Path, outlines: Outlines | None, *,
                 fixed_shapes: bool) -> None:
        super().__init__(annotations, image_root, drop_empty=False)
        if outlines is not None:
            check_outlines(outlines, annotations)
        self._outlines = outlines
        self._fixed_shapes = fixed_shapes

    @property
    def upright(self) -> NDArray[np.bool_]:
        """(samples,) whether the height of each image is at least its width."""
        return self.annotations.heights >= self.annotations.widths

    def load(self, plan: BatchPlan, transform: Transform) -> MaskBatch:
        """Read, transform and assemble one batch in this process.

        Raises:
            UserError: an image cannot be read, or its size is not what the annotations state.
        """
        assert isinstance(transform, ResizeTransform), 'outlines have to follow the transform of the image'
        samples = [self._load_sample(int(image), transform, plan.rng(i)) for i, image in enumerate(plan.samples)]
        valid_sizes = torch.tensor([pixels.shape[1:] for pixels, _, _ in samples])
        fixed = (transform.shortest, transform.longest) if self._fixed_shapes else None
        height, width = padded_size(valid_sizes, fixed)
        images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
        most = max(len(labels) for _, _, labels in samples)
        targets = max(_LEAST_TARGETS, 1 << (most - 1).bit_length() if most else 0)
        boxes = torch.zeros(len(samples), targets, 4)
        labels = torch.full((len(samples), targets), -1)
        for row, (pixels, sample_boxes, sample_labels) in enumerate(samples):
            images[row, :, :pixels.shape[1], :pixels.shape[2]] = pixels
            boxes[row, :len(sample_boxes)] = sample_boxes
            labels[row, :len(sample_labels)] = sample_labels
        heights, widths = self.annotations.heights[plan.samples], self.annotations.widths[plan.samples]
        return MaskBatch(
            images=images, image_ids=torch.from_numpy(self.annotations.image_ids[plan.samples]), boxes=boxes,
            sizes=torch.from_numpy(np.stack([heights, widths], axis=1)), labels=labels, valid_sizes=valid_sizes,
            polygons=self._polygons(plan, transform, targets))

    def _polygons(self, plan: BatchPlan, transform: ResizeTransform, targets: int) -> Polygons:
        """Return the outlines of ``targets`` objects an image, of which those beyond the last have no polygon."""
        corners, lengths = [np.empty((0, 2))], [np.zeros(1, np.int64)]
        parts = np.zeros((len(plan.samples), targets), dtype=np.int64)
        for row, image in enumerate(plan.samples if self._outlines is not None else ()):
            assert self._outlines is not None
            objects = self.annotations.of_image(image)
            offsets = self._outlines.object_offsets[objects.start:objects.stop + 1]
            parts[row, :len(offsets) - 1] = np.diff(offsets)
            bounds = self._outlines.part_offsets[offsets[0]:offsets[-1] + 1]
            lengths.append(np.diff(bounds))
            # The transform drew from a generator of the same state, so this is what it drew.
            mirrored = transform.mirrors(plan.rng(row))
            corners.append(transform.move_corners(
                self._outlines.corners[bounds[0]:bounds[-1]], int(self.annotations.heights[image]),
                int(self.annotations.widths[image]), mirrored=mirrored))
        return make_polygons(np.concatenate(corners), np.cumsum(np.concatenate(lengths)),
                             np.concatenate([[0], np.cumsum(parts)]))


def check_outlines(outlines: Outlines, annotations: Annotations) -> None:
    """Refuse masks that were drawn for other boxes: such data train without an error and score no mask AP.

    In COCO a box is the extent of its mask; a few that differ are let through.

    Raises:
        UserError: over a hundredth of the masks lie elsewhere than their boxes.
    """
    if len(outlines) != len(annotations.boxes):
        raise ValueError(f'{len(outlines)} outlines for {len(annotations.boxes)} boxes')
    extents, boxes = outlines.extents(), annotations.boxes.copy()
    boxes[:, 2:] += boxes[:, :2]
    sides = np.minimum(extents[:, 2:], boxes[:, 2:]) - np.maximum(extents[:, :2], boxes[:, :2])
    overlap = sides.clip(0).prod(axis=1)
    union = sum((corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (extents, boxes)) - overlap
    elsewhere = np.flatnonzero(overlap < _LEAST_EXTENT_IOU * union)
    if len(elsewhere) > _MOST_ELSEWHERE * len(outlines):
        raise UserError(f'{annotations.path}: annotation {annotations.annotation_ids[elsewhere[0]]}: its mask lies '
                        f'elsewhere than its box, and so do {len(elsewhere) - 1} more of {len(outlines)}; '
                        'segmentations and boxes are mixed up')


def padded_size(valid_sizes: Tensor, fixed: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of a batch: a multiple of 32 that holds all images.

    Args:
        valid_sizes: (N, 2) heights and widths.
        fixed: shortest and longest side of the resize rule: use one of the two shapes that hold every image of one
            aspect (800 and 1333: 800 x 1344 and 1344 x 800). None: the smallest that holds these.

    Raises:
        ValueError: the batch mixes upright and wide images, or one is too long for both shapes (over 20 : 1).
    """
    height, width = (int(side) for side in valid_sizes.amax(dim=0))
    if fixed is None:
        return _round_up(height), _round_up(width)
    short, long = _round_up(fixed[0]), _round_up(fixed[1] + 1)
    for shape in ((short, long), (long, short)):
        if height <= shape[0] and width <= shape[1]:
            return shape
    raise ValueError(f'a batch of {height} x {width} pixels fits neither {short} x {long} nor {long} x {short}: it '
                     'mixes upright and wide images, or one is too long; turn fixed_shapes off for such data')


def train_batches(
    source: MaskImageSource, transform: ResizeTransform, *, epoch: int, skip: int, rank: int, world_size: int,
    seed: int, batch_size: int, workers: int | None,
) -> Iterator[Batch]:
    """Yield this rank's `MaskBatch`es of an epoch, as many on every rank. Arguments as `loader.train_batches`.

    The content follows from ``seed``, ``epoch``, the position in the epoch, ``rank`` and ``world_size`` alone.

    Raises:
        UserError: as `MaskImageSource.load`.
    """
    plans = training_plans(source.upright, seed=seed, epoch=epoch, skip=skip, rank=rank, world_size=world_size,
                           batch_size=batch_size)
    return source.batches(plans, transform, default_workers() if workers is None else workers)


def evaluation_batches(
    source: MaskImageSource, transform: ResizeTransform, *, rank: int, world_size: int, batch_size: int,
    workers: int | None,
) -> Iterator[Batch]:
    """Yield this rank's share of the images; over all ranks each occurs exactly once. Arguments as `train_batches`."""
    plans = evaluation_plans(source.upright, rank=rank, world_size=world_size, batch_size=batch_size)
    return source.batches(plans, transform, default_workers() if workers is None else workers)


def _round_up(side: int) -> int:
    return -(-side // SIZE_DIVISOR) * SIZE_DIVISOR
