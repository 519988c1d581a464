from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch import Tensor

from mlperf_det.models.box_coding import corners_to_centers, decode, encode
from mlperf_det.models.default_boxes import default_boxes
from mlperf_det.models.detections import Detections
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.models.ssd_postprocess import postprocess


def iou_of(box: Tensor, others: Tensor) -> Tensor:
    corner = torch.maximum(box[:2], others[:, :2])
    size = (torch.minimum(box[2:], others[:, 2:]) - corner).clamp(min=0)
    intersection = size.prod(dim=1)
    return intersection / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1) - intersection)


def postprocess_one_image(localization: Tensor, logits: Tensor, defaults: Tensor,
                          size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The published rules as loops over classes and boxes: boxes, scores and labels of one image."""
    probabilities = logits.T.contiguous().softmax(dim=1).T
    corners = decode(localization.T, defaults)
    exact = corners.double()
    boxes, scores, labels = [torch.zeros(0, 4)], [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for label, score in enumerate(probabilities[1:]):
        passed = (score > 0.05).nonzero().flatten()
        queue = passed[score[passed].argsort(descending=True, stable=True)[:200]]
        while len(queue):
            best, queue = queue[0], queue[1:]
            boxes.append(corners[best].unsqueeze(0))
            scores.append(score[best].unsqueeze(0))
            labels.append(torch.tensor([label]))
            # 0.5 as float32 sees it: what lies nearer to it than the float32 below counts as equal.
            queue = queue[iou_of(exact[best], exact[queue]) <= 0.5 - 2 ** -25]
    order = torch.cat(scores).argsort(descending=True, stable=True)[:200]
    height, width = size.tolist()
    return (torch.cat(boxes)[order] * torch.tensor([width, height, width, height]), torch.cat(scores)[order],
            torch.cat(labels)[order])


def assert_equal_to_loops(found: Detections, localization: Tensor, logits: Tensor, defaults: Tensor,
                          sizes: Tensor) -> None:
    for image in range(len(sizes)):
        boxes, scores, labels = postprocess_one_image(localization[image], logits[image], defaults, sizes[image])
        assert found.valid[image].tolist() == [True] * len(scores) + [False] * (200 - len(scores))
        valid = found.valid[image]
        assert torch.equal(found.labels[image][valid], labels)
        torch.testing.assert_close(found.scores[image][valid], scores)
        torch.testing.assert_close(found.boxes[image][valid], boxes, rtol=1e-5, atol=1e-3)


def detector_like(images: int, objects: int) -> tuple[Tensor, Tensor]:
    """Outputs as a trained network's: background nearly everywhere, clusters of high scores on a few objects."""
    boxes = 8732
    logits = torch.randn(images, 81, boxes) * 0.5
    logits[:, 0] += 8
    for image in range(images):
        for _ in range(objects):
            centre, label = int(torch.randint(0, boxes, (1,))), int(torch.randint(1, 81, (1,)))
            logits[image, label, max(0, centre - 12):centre + 12] += 9 * torch.rand(1)
    return torch.randn(images, 4, boxes), logits


@pytest.fixture(scope='module')
def defaults() -> Tensor:
    return default_boxes(SSD300_RESNET34)


def test_detections_equal_the_rules_written_as_loops(defaults: Tensor) -> None:
    localization, logits = detector_like(3, 30)
    sizes = torch.tensor([[480, 640], [333, 500], [1000, 7]])
    found = postprocess(localization, logits, defaults, sizes)
    assert found.valid.sum() > 60
    assert_equal_to_loops(found, localization, logits, defaults, sizes)


def test_dense_scores_fill_every_limit(defaults: Tensor) -> None:
    # about 1 class in 19 passes at each box, thousands of candidates, more than 200 survivors
    localization, logits = torch.randn(2, 4, 8732) * 2, torch.randn(2, 81, 8732)
    logits[:, 1:4] += 3.5
    sizes = torch.tensor([[300, 300], [480, 640]])
    assert int((logits.softmax(dim=1)[0, 1:] > 0.05).sum(dim=1).max()) > 200, 'the limit of a class is reached'
    found = postprocess(localization, logits, defaults, sizes)
    assert found.valid.all(), 'the limit of an image is reached'
    assert_equal_to_loops(found, localization, logits, defaults, sizes)


def test_no_box_above_the_threshold_gives_empty_detections(defaults: Tensor) -> None:
    found = postprocess(torch.zeros(2, 4, 8732), torch.zeros(2, 81, 8732), defaults, torch.tensor([[9, 9], [9, 9]]))
    assert found.boxes.shape == (2, 200, 4)
    assert not found.valid.any()


def test_one_empty_image_among_others(defaults: Tensor) -> None:
    localization, logits = detector_like(3, 4)
    logits[1] = 0
    sizes = torch.tensor([[300, 300]] * 3)
    found = postprocess(localization, logits, defaults, sizes)
    assert found.valid.any(dim=1).tolist() == [True, False, True]
    assert_equal_to_loops(found, localization, logits, defaults, sizes)


def outputs_for(boxes: Tensor, scores: list[float], references: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of a one-class network that decode to the given boxes and scores."""
    logits = torch.stack((torch.zeros(len(scores)), torch.logit(torch.tensor(scores))))
    return encode(boxes, references).T.unsqueeze(0), logits.unsqueeze(0)


@pytest.mark.parametrize(('other', 'survives'), [
    ((0., 0, 1, .5), False),          # overlap exactly 0.5
    ((0., 0, 1, .4999), True),
    ((0., 0, 1, .5001), False),
])
def test_an_overlap_of_exactly_one_half_is_suppressed(other: tuple[float, ...], survives: bool) -> None:
    boxes = torch.tensor([(0., 0, 1, 1), other])
    references = corners_to_centers(boxes)
    found = postprocess(*outputs_for(boxes, [.9, .8], references), references, torch.tensor([[64, 64]]))
    assert int(found.valid.sum()) == 1 + survives


def test_exact_halves_at_every_image_and_class() -> None:
    # Overlaps are exactly 0.5 only if moving the groups apart changes no bit of the coordinates.
    images, classes = 5, 80
    boxes = torch.tensor([(.125, .25, .875, .75), (.125, .25, .875, .5)])
    logits = torch.full((images, classes + 1, 2), -20.0)
    for image in range(images):
        logits[image, 1 + (image * 17) % classes] = torch.tensor([4.0, 3.0])
        logits[image, 80] = torch.tensor([3.0, 4.0])
    found = postprocess(torch.zeros(images, 4, 2), logits, corners_to_centers(boxes), torch.full((images, 2), 256))
    assert found.valid.sum(dim=1).tolist() == [2] * images


def test_equal_boxes_of_two_classes_both_stay() -> None:
    boxes = torch.tensor([(.2, .2, .4, .4)])
    logits = torch.tensor([[[-9.0], [1.0], [1.0]]])
    found = postprocess(torch.zeros(1, 4, 1), logits, corners_to_centers(boxes), torch.tensor([[10, 20]]))
    assert found.labels[0, :3].tolist() == [0, 1, 0]
    assert found.valid[0, :3].tolist() == [True, True, False]
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([4., 2, 8, 4]))


def test_boxes_are_not_clipped_to_the_image() -> None:
    boxes = torch.tensor([(-.5, -.25, 1.5, 1.25)])
    found = postprocess(*outputs_for(boxes, [.9], corners_to_centers(boxes)), corners_to_centers(boxes),
                        torch.tensor([[100, 200]]))
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([-100., -25, 300, 125]))


def test_one_box_gone_astray_spoils_neither_itself_nor_the_others(defaults: Tensor) -> None:
    localization, logits = detector_like(3, 10)
    sizes = torch.tensor([[480, 640]] * 3)
    logits[1, 7, 100] += 30
    localization[1, 2, 100] = 2e3    # e to the 400th times its reference
    found = postprocess(localization, logits, defaults, sizes)
    assert found.boxes.isfinite().all()
    assert_equal_to_loops(found, localization, logits, defaults, sizes)


def test_far_faster_than_the_loops(defaults: Tensor) -> None:
    localization, logits = detector_like(8, 20)
    sizes = torch.full((8, 2), 480)
    ratios = []
    for _ in range(3):
        start = time.process_time()
        for image in range(8):
            postprocess_one_image(localization[image], logits[image], defaults, sizes[image])
        middle = time.process_time()
        postprocess(localization, logits, defaults, sizes)
        ratios.append((middle - start) / (time.process_time() - middle))
    assert statistics.median(ratios) > 8, ratios
