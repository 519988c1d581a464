from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from mlperf_det.data.batch import Batch
from mlperf_det.data.retinanet_input import RetinaNetTransform, pad_boxes
from mlperf_det.errors import UserError


def photo(height: int = 57, width: int = 83) -> NDArray[np.uint8]:
    noise = np.random.default_rng().integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def transformed(image: NDArray[np.uint8], boxes: list[list[float]], labels: list[int], *, mirrored: bool
                ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    seed = next(s for s in range(100) if (np.random.default_rng(s).random() < 0.5) == mirrored)
    return RetinaNetTransform(40)(image, np.array(boxes).reshape(-1, 4), np.array(labels, dtype=np.int64),
                                       np.random.default_rng(seed))


@pytest.mark.parametrize('mirrored', [False, True])
def test_pixels_are_those_of_mirroring_first_and_interpolating_without_antialias(mirrored: bool) -> None:
    image = photo()
    pixels, _, _ = transformed(image, [], [], mirrored=mirrored)
    source = image[:, ::-1] if mirrored else image
    planes = torch.from_numpy(source.copy()).permute(2, 0, 1)[None].float()
    expected = interpolate(planes, size=(40, 40), mode='bilinear', align_corners=False)[0]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 40, 40)
    # Each of the two passes, along rows and along columns, rounds to uint8 and has weights in fixed point.
    assert (pixels.float() - expected).abs().max() <= 2 * (0.5 + 255 / 2 ** 14)


def test_boxes_follow_the_mirror_and_the_squash() -> None:
    boxes = [[0.1, 0.2, 0.4, 1.0]]
    assert transformed(photo(), boxes, [3], mirrored=False)[1].tolist() == [pytest.approx([4, 8, 16, 40])]
    assert transformed(photo(), boxes, [3], mirrored=True)[1].tolist() == [pytest.approx([24, 8, 36, 40])]


def test_boxes_are_clamped_and_dropped_with_their_labels_where_nothing_is_left() -> None:
    boxes = [[-0.5, 0.5, 0.5, 1.5], [1.0, 0.0, 1.2, 0.5], [0.2, 0.3, 0.2, 0.9]]
    _, kept, labels = transformed(photo(), boxes, [4, 5, 6], mirrored=False)
    assert kept.tolist() == [[0, 20, 20, 40]]
    assert labels.tolist() == [4]


def test_an_image_whose_boxes_all_vanish_stays() -> None:
    _, boxes, labels = transformed(photo(), [[1.1, 0, 1.2, 1]], [0], mirrored=True)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_half_of_the_images_are_mirrored() -> None:
    image, rng, transform = photo(30, 30), np.random.default_rng(3), RetinaNetTransform(30)
    plain = torch.from_numpy(image).permute(2, 0, 1)
    same = sum(torch.equal(transform(image, np.zeros((0, 4)), np.zeros(0, np.int64), rng)[0], plain)
               for _ in range(400))
    assert 150 < same < 250


def batch_of(labels: list[list[int]]) -> Batch:
    rows = torch.tensor(labels)
    boxes = torch.rand(*rows.shape, 4) * (rows >= 0)[..., None]
    return Batch(images=torch.zeros(len(rows), 3, 4, 4, dtype=torch.uint8), image_ids=torch.arange(len(rows)),
                 sizes=torch.ones(len(rows), 2, dtype=torch.int64), boxes=boxes, labels=rows)


@pytest.mark.parametrize('rows', [2, 3, 9])
def test_padding_to_a_fixed_number_of_rows(rows: int) -> None:
    batch = batch_of([[5, 7, -1], [-1, -1, -1]])
    padded = pad_boxes(batch, rows)
    assert padded.boxes.shape == (2, rows, 4)
    assert padded.labels.shape == (2, rows)
    assert padded.labels[0, :2].tolist() == [5, 7]
    assert torch.equal(padded.boxes[:, :2], batch.boxes[:, :2])
    assert (padded.labels[:, 2:] == -1).all()
    assert (padded.boxes[:, 2:] == 0).all()


def test_more_boxes_than_rows_are_never_cut_silently() -> None:
    with pytest.raises(UserError, match='more than 1 boxes; raise max_boxes'):
        pad_boxes(batch_of([[5, 7, -1]]), 1)
