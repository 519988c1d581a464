from __future__ import annotations

import pytest
import torch
from torch import nn

from mlperf_det.models import sparse_gradient
from mlperf_det.models.sparse_gradient import SparseGradientConv2d, skip_zeros

DOUBLE = torch.float64


def pair(dtype: torch.dtype, size: int = 3) -> tuple[SparseGradientConv2d, nn.Conv2d]:
    ours = SparseGradientConv2d(5, 7, size).to(dtype)
    plain = nn.Conv2d(5, 7, size, padding=size // 2).to(dtype)
    plain.load_state_dict(ours.state_dict())
    ours.skips_zeros = True
    return ours, plain


def gradients(conv: nn.Conv2d, x: torch.Tensor, of_output: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    conv.zero_grad()
    conv(x).backward(of_output)
    return [x.grad, conv.weight.grad, conv.bias.grad]


def sparse(shape: tuple[int, ...], cells: int, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    images, channels, height, width = shape
    flat = torch.zeros(images * height * width, channels, dtype=dtype)
    flat[torch.randperm(len(flat))[:cells]] = torch.randn(cells, channels, dtype=dtype)
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)


@pytest.fixture
def sparse_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the positions of each backward pass that took the sparse way."""
    calls, real = [], sparse_gradient._sparse_backward

    def counted(gradient: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        calls.append(len(gradient))
        return real(gradient, *rest)
    monkeypatch.setattr(sparse_gradient, '_sparse_backward', counted)
    return calls


@pytest.mark.parametrize('size', [1, 3, 5])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(('cells', 'is_sparse'), [(0, True), (1, True), (20, True), (180, False)])
def test_outputs_and_gradients_are_those_of_the_plain_convolution(
        sparse_calls: list[int], cells: int, is_sparse: bool, memory_format: torch.memory_format, size: int) -> None:
    ours, plain = pair(DOUBLE, size)
    x = torch.randn(3, 5, 6, 10, dtype=DOUBLE).to(memory_format=memory_format)
    ours.to(memory_format=memory_format)
    assert torch.equal(ours(x), plain(x))
    of_output = sparse((3, 7, 6, 10), cells)
    for mine, theirs in zip(gradients(ours, x, of_output), gradients(plain, x, of_output), strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert sparse_calls == ([cells] if is_sparse else [])


def test_borders_do_not_reach_into_the_next_row_or_image() -> None:
    ours, plain = pair(DOUBLE)
    x, of_output = torch.randn(2, 5, 4, 4, dtype=DOUBLE), torch.zeros(2, 7, 4, 4, dtype=DOUBLE)
    of_output[0, :, 3, 3] = of_output[1, :, 0, 0] = of_output[1, :, 2, 3] = 1
    for mine, theirs in zip(gradients(ours, x, of_output), gradients(plain, x, of_output), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_reduced_precision_is_as_near_to_exact_as_the_plain_convolution_is() -> None:
    ours, plain = pair(torch.float32)
    x, of_output = torch.randn(4, 5, 16, 16), sparse((4, 7, 16, 16), 200, torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        found, peer = gradients(ours, x, of_output), gradients(plain, x, of_output)
    exact = gradients(plain.double(), x.double(), of_output.double())
    for mine, theirs, true in zip(found, peer, exact, strict=True):
        assert mine.dtype == torch.float32
        scale = true.abs().max()
        assert (mine - true).abs().max() <= (theirs - true).abs().max() + scale * 2 ** -8


def test_without_gradients_or_switched_off_it_is_the_plain_convolution(sparse_calls: list[int]) -> None:
    ours, plain = pair(torch.float32)
    x, of_output = torch.randn(1, 5, 9, 9), sparse((1, 7, 9, 9), 3, torch.float32)
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))
    skip_zeros(nn.Sequential(ours), False)
    for mine, theirs in zip(gradients(ours, x, of_output), gradients(plain, x, of_output), strict=True):
        assert torch.equal(mine, theirs)
    assert sparse_calls == []
    skip_zeros(nn.Sequential(ours), True)
    gradients(ours, x, of_output)
    assert sparse_calls == [3]
