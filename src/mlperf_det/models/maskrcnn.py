"""Mask R-CNN with a ResNet-50 feature pyramid: the network of MLPerf's heavy-weight detection benchmark.

Sources: He et al., Mask R-CNN; the MLPerf reference (a branch of maskrcnn-benchmark), whose numerics differ in many
places from torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.data.polygon_raster import mask_targets
from mlperf_det.models.detections import Detections
from mlperf_det.models.legacy_boxes import to_inclusive
from mlperf_det.models.maskrcnn_anchors import STRIDES, cell_anchors, pyramid_anchors
from mlperf_det.models.maskrcnn_inference import FoundBoxes, find_boxes, to_original
from mlperf_det.models.resnet_fpn import ResNetFpn, SubsampledLevel, msra_body
from mlperf_det.models.roi_align import pyramid_roi_align
from mlperf_det.models.roi_heads import BOX_BINS, MASK_BINS, MASK_SIDE, RoIHeads
from mlperf_det.models.roi_losses import box_loss, classifier_loss, mask_loss
from mlperf_det.models.roi_sampling import Regions, active_slots, draw_regions
from mlperf_det.models.rpn import RpnHead, propose, select_over_batch, select_per_image
from mlperf_det.models.rpn_loss import draw_anchors, rpn_losses

#: Never compiled: a compiler may fuse its products and sums, which round once where they must round twice.
_exact_mask_targets = torch.compiler.disable(mask_targets)  # type: ignore[no-untyped-call]
#: Subtracted from the channels, which come in the order blue, green, red with values from 0 to 255.
IMAGE_MEAN_BGR = (102.9801, 115.9465, 122.7717)


@dataclass(frozen=True, kw_only=True)
class MaskRcnnArchitecture:
    """Sizes of the network; channels except where said otherwise."""

    #: categories, without background
    num_classes: int
    stem_channels: int
    #: bottlenecks of the four stages
    blocks: tuple[int, int, int, int]
    pyramid_channels: int
    #: width of the fully connected layers
    representation: int
    #: side of an anchor over the stride of its level
    anchor_scale: int
    #: best anchors of a level that become proposals, in training and in evaluation
    train_proposals_per_level: int
    eval_proposals_per_level: int
    #: proposals of an image that are classified in evaluation
    eval_proposals: int
    #: regions of an image that the second stage is trained on
    regions_per_image: int
    #: parts of the body that are not trained
    frozen: tuple[str, ...]


#: The benchmark: R50-FPN and the 80 categories of COCO.
MASKRCNN_R50_FPN = MaskRcnnArchitecture(
    num_classes=80, stem_channels=64, blocks=(3, 4, 6, 3), pyramid_channels=256, representation=1024, anchor_scale=8,
    train_proposals_per_level=2000, eval_proposals_per_level=1000, eval_proposals=1000, regions_per_image=512,
    frozen=('conv1', 'layer1'))

#: The same build for CPU minutes. All of it is trained, because its backbone starts from random values.
MASKRCNN_SMOKE = MaskRcnnArchitecture(
    num_classes=8, stem_channels=16, blocks=(1, 1, 1, 1), pyramid_channels=48, representation=128, anchor_scale=5,
    train_proposals_per_level=200, eval_proposals_per_level=100, eval_proposals=100, regions_per_image=32, frozen=())


class MaskRcnn(nn.Module):
    """The detector: losses when called, detections from `detect` (see `mlperf_det.training.task.Detector`).

    Boxes of a batch are half-open twins (see `legacy_boxes`). Images without boxes are welcome.

    Args:
        architecture: sizes.
        image_candidates: training proposals kept over all images of a batch.
    """

    cells: Tensor
    image_mean: Tensor

    def __init__(self, architecture: MaskRcnnArchitecture, image_candidates: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_candidates = image_candidates
        body = msra_body(stem_channels=architecture.stem_channels, blocks=architecture.blocks)
        for part in architecture.frozen:
            body.get_submodule(part).requires_grad_(False)
        self.backbone = ResNetFpn(body, architecture.pyramid_channels, SubsampledLevel())
        self.rpn = RpnHead(architecture.pyramid_channels)
        self.roi_heads = RoIHeads(architecture.pyramid_channels, architecture.representation,
                                  architecture.num_classes + 1)
        self.register_buffer('cells', torch.stack([cell_anchors(stride, architecture.anchor_scale)
                                                   for stride in STRIDES]), persistent=False)
        self.register_buffer('image_mean', torch.tensor(IMAGE_MEAN_BGR)[:, None, None], persistent=False)

    def forward(self, batch: MaskBatch) -> Mapping[str, Tensor]:
        """Return ``classifier``, ``box_reg``, ``mask``, ``objectness`` and ``rpn_box_reg``, scalar float32."""
        pyramid, logits, offsets, anchors = self._first_stage(batch)
        joined = torch.cat(anchors)
        drawn, targets = draw_anchors(joined, batch.boxes, batch.labels, batch.valid_sizes)
        proposals, scores = propose(logits, offsets, anchors, batch.valid_sizes,
                                    per_level=self.architecture.train_proposals_per_level)
        regions = draw_regions(proposals, select_over_batch(scores, self.image_candidates), batch.boxes, batch.labels,
                               slots=self.architecture.regions_per_image)
        class_logits, box_offsets = self._classify(pyramid, regions.boxes)
        return {'classifier': classifier_loss(class_logits, regions),
                'box_reg': box_loss(box_offsets, regions),
                'mask': self._mask_loss(pyramid, regions, batch),
                **rpn_losses(*self.rpn.of_anchors(pyramid, drawn.index), joined, drawn, targets)}

    @torch.no_grad()
    def detect(self, batch: MaskBatch) -> Detections:
        """Return at most 100 detections an image, boxes in pixels of the original image, masks of 28x28."""
        pyramid, logits, offsets, anchors = self._first_stage(batch)
        proposals, scores = propose(logits, offsets, anchors, batch.valid_sizes,
                                    per_level=self.architecture.eval_proposals_per_level)
        proposals, present = select_per_image(proposals, scores, self.architecture.eval_proposals)
        class_logits, box_offsets = self._classify(pyramid, proposals)
        shape = (*present.shape, -1)
        found = find_boxes(class_logits.view(shape), box_offsets.view(*shape, 4), proposals, present,
                           batch.valid_sizes)
        boxes = to_original(found.boxes, batch.valid_sizes, batch.sizes)
        return Detections(boxes=torch.where(found.valid[..., None], boxes, 0.0), scores=found.scores,
                          labels=found.classes - 1, valid=found.valid, masks=self._masks(pyramid, found))

    def normalise(self, batch: MaskBatch) -> Tensor:
        """Return the images (N, 3, H, W) float32 in the order blue, green, red, less the mean; padding is 0."""
        height, width = batch.images.shape[2:]
        rows = torch.arange(height, device=batch.images.device) < batch.valid_sizes[:, :1]
        columns = torch.arange(width, device=batch.images.device) < batch.valid_sizes[:, 1:]
        inside = (rows[:, :, None] & columns[:, None])[:, None]
        return self.less_mean(batch.images).mul_(inside)

    def less_mean(self, images: Tensor) -> Tensor:
        """Return RGB images (N, 3, H, W) uint8 as blue, green, red, float32, less the mean."""
        return images.flip(1) - self.image_mean

    def _first_stage(self, batch: MaskBatch) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Return the pyramid P2 to P6 and per level logits, offsets and anchors.

        The pyramid is in float32 and laid out channel by channel, as RoIAlign reads it: converted here once, and the
        gradients of all that reads it meet before they are rounded.
        """
        pyramid = self.backbone(self.normalise(batch))
        logits, offsets = self.rpn(pyramid)
        grids = [(int(level.shape[2]), int(level.shape[3])) for level in pyramid]
        return ([level.float().contiguous() for level in pyramid], logits, offsets,
                pyramid_anchors(self.cells, grids))

    def _classify(self, pyramid: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (N * S, classes) and offsets (N * S, classes, 4) of boxes (N, S, 4)."""
        slots = torch.arange(boxes.shape[0] * boxes.shape[1], device=boxes.device)
        features = pyramid_roi_align(pyramid, slots // boxes.shape[1], boxes.flatten(0, 1), BOX_BINS)
        logits, offsets = self.roi_heads.box_predictor(self.roi_heads.box_head(features))
        return logits, offsets

    def _mask_logits(self, pyramid: list[Tensor], boxes: Tensor, classes: Tensor, slots: Tensor) -> Tensor:
        """Return mask logits (T, 28, 28) of the T chosen slots of boxes (N, S, 4) and classes (N, S)."""
        features = pyramid_roi_align(pyramid, slots // boxes.shape[1], boxes.flatten(0, 1)[slots], MASK_BINS)
        logits: Tensor = self.roi_heads.mask_predictor(self.roi_heads.mask_head(features), classes.flatten()[slots])
        return logits

    def _mask_loss(self, pyramid: list[Tensor], regions: Regions, batch: MaskBatch) -> Tensor:
        first = regions.most_positive
        boxes, positive = regions.boxes[:, :first], regions.positive[:, :first]
        slots = active_slots(positive)
        logits = self._mask_logits(pyramid, boxes, regions.classes[:, :first], slots)
        image = torch.arange(len(batch), device=boxes.device)[:, None]
        objects = torch.where(positive, image * batch.labels.shape[1] + regions.objects[:, :first], 0)
        regions_of_interest = to_inclusive(boxes.flatten(0, 1)[slots])
        targets = _exact_mask_targets(batch.polygons, objects.flatten()[slots], regions_of_interest)
        return mask_loss(logits, targets.float(), positive.flatten()[slots])

    def _masks(self, pyramid: list[Tensor], found: FoundBoxes) -> Tensor:
        slots = active_slots(found.valid)
        probabilities = self._mask_logits(pyramid, found.boxes, found.classes, slots).sigmoid()
        masks = probabilities.new_zeros(found.valid.numel(), MASK_SIDE, MASK_SIDE)
        return masks.index_copy(0, slots, probabilities).view(*found.valid.shape, MASK_SIDE, MASK_SIDE)
