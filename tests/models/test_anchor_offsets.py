from __future__ import annotations

import torch
from torchvision.models.detection._utils import BoxCoder

from mlperf_det.models.anchor_offsets import MAX_LOG_SCALE, decode_offsets, encode_offsets


def random_boxes(count: int) -> torch.Tensor:
    corner, size = torch.rand(count, 2) * 700, torch.rand(count, 2) * 300 + 5
    return torch.cat([corner, corner + size], dim=1)


def test_published_sample() -> None:
    offsets = encode_offsets(torch.tensor([0.0, 0.0, 20.0, 10.0]), torch.tensor([-23.0, -11.0, 23.0, 11.0]))
    torch.testing.assert_close(offsets, torch.tensor([0.2174, 0.2273, -0.8329, -0.7885]), atol=5e-5, rtol=0)


def test_largest_scale() -> None:
    assert MAX_LOG_SCALE == 4.135166556742356


def test_equal_torchvisions_coder() -> None:
    coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
    boxes, anchors = random_boxes(5000), random_boxes(5000)
    torch.testing.assert_close(encode_offsets(boxes, anchors), coder.encode_single(boxes, anchors), rtol=0, atol=0)
    offsets = torch.randn(5000, 4) * torch.tensor([1.0, 1.0, 4.0, 4.0])  # far beyond the clamp as well
    torch.testing.assert_close(decode_offsets(offsets, anchors), coder.decode_single(offsets, anchors))


def test_decoding_inverts_encoding() -> None:
    boxes, anchors = random_boxes(1000), random_boxes(1000)
    torch.testing.assert_close(decode_offsets(encode_offsets(boxes, anchors), anchors), boxes, atol=2e-3, rtol=1e-5)
