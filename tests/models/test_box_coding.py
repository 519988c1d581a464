from __future__ import annotations

import math

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert

from mlperf_det.models.box_coding import centers_to_corners, corners_to_centers, decode, encode


def random_corners(*shape: int) -> torch.Tensor:
    corner = torch.rand(*shape, 2)
    return torch.cat((corner, corner + torch.rand(*shape, 2) + 0.1), dim=-1)


def test_conversions_agree_with_torchvision_and_invert_each_other() -> None:
    corners = random_corners(50)
    torch.testing.assert_close(corners_to_centers(corners), box_convert(corners, 'xyxy', 'cxcywh'))
    torch.testing.assert_close(centers_to_corners(corners_to_centers(corners)), corners)


def test_encoding_agrees_with_torchvision() -> None:
    boxes, references = random_corners(200), random_corners(200)
    ours = encode(boxes, corners_to_centers(references))
    theirs = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).encode_single(boxes, references)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_decoding_agrees_with_torchvision_and_inverts_encoding() -> None:
    boxes, references = random_corners(3, 200), random_corners(200)
    centers = corners_to_centers(references)
    offsets = encode(boxes, centers)
    torch.testing.assert_close(decode(offsets, centers), boxes, rtol=1e-4, atol=1e-5)
    theirs = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)).decode_single(offsets[0], references)
    torch.testing.assert_close(decode(offsets[0], centers), theirs, rtol=1e-4, atol=1e-5)


def test_a_box_beyond_all_measure_stays_finite() -> None:
    references = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.5, 0.5, 0.25, 0.5]])
    decoded = decode(torch.tensor([[0.0, 0.0, 1e4, 3e38], [0.0, 0.0, 5 * math.log(999), 0.0]]), references)
    torch.testing.assert_close(corners_to_centers(decoded)[:, 2:], torch.tensor([[250.0, 500.0], [249.75, 0.5]]))
