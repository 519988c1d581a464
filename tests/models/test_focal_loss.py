from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from mlperf_det.models import blocks
from mlperf_det.models.focal_loss import _focal_loss_for_compiler, focal_loss


def dense(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    targets = torch.zeros_like(logits)
    rows = torch.where(classes >= 0)[0]
    targets[rows, classes[rows]] = 1
    return (sigmoid_focal_loss(logits, targets) * weights[:, None]).sum()


def problem(spread: float, *, rows: int = 3000, columns: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    classes = torch.full((rows,), -1)
    classes[::50] = torch.randint(columns, classes[::50].shape)
    weights = torch.rand(rows)
    ignored = torch.arange(rows) % 7 == 3
    logits = torch.randn(rows, columns) * spread - 4.6
    return logits, torch.where(ignored, -2, classes), torch.where(ignored, 0, weights)


def value_and_gradient(form: object, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = form(leaf, *rest)  # type: ignore[operator]
    (3 * value).backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize('spread', [0.01, 1.0, 5.0, 60.0])
@pytest.mark.parametrize(('form', 'tolerance'), [(focal_loss, 1e-6), (_focal_loss_for_compiler, 4e-6)])
def test_equals_torchvisions_dense_form_in_double(spread: float, form: object, tolerance: float) -> None:
    logits, classes, weights = problem(spread)
    value, gradient = value_and_gradient(form, logits, classes, weights)
    expected, exact = value_and_gradient(dense, logits.double(), classes, weights)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    assert (gradient - exact).abs().max() <= tolerance * exact.abs().max()


def test_gradient_is_exact_element_by_element() -> None:
    logits, classes, weights = problem(4.0)
    _, gradient = value_and_gradient(focal_loss, logits, classes, weights)
    _, exact = value_and_gradient(dense, logits.double(), classes, weights)
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize('elements', [1, 1000, 2**30])
def test_blocks_do_not_change_the_result(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = problem(2.0, rows=501)
    expected, exact = value_and_gradient(focal_loss, *arguments)
    monkeypatch.setattr(blocks, '_CPU_ELEMENTS_PER_THREAD', elements)
    value, gradient = value_and_gradient(focal_loss, *arguments)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=1e-12)


def test_costs_of_the_untrained_network() -> None:
    prior = torch.full((1, 1), -4.59511985013459)
    one = torch.ones(1)
    assert focal_loss(prior, torch.tensor([-1]), one).item() == pytest.approx(7.538e-07, rel=1e-4)
    assert focal_loss(prior, torch.tensor([0]), one).item() == pytest.approx(1.1284, rel=1e-4)
    image = prior.expand(120_087, 264)
    negatives = focal_loss(image, torch.full((120_087,), -1), torch.ones(120_087))
    assert negatives.item() == pytest.approx(23.897, rel=1e-4)


def test_rows_of_weight_zero_vanish() -> None:
    logits, classes, weights = problem(1.0)
    value, gradient = value_and_gradient(focal_loss, logits, classes, torch.zeros_like(weights))
    assert value == 0
    assert (gradient == 0).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[-1e30, -200.0, 200.0, 1e30]])
    value, gradient = value_and_gradient(focal_loss, logits, torch.tensor([1]), torch.ones(1))
    assert torch.isfinite(gradient).all()
    assert value.item() == pytest.approx(0.75e30, rel=1e-3)


def test_bfloat16_logits_get_a_bfloat16_gradient() -> None:
    logits, classes, weights = problem(2.0)
    value, gradient = value_and_gradient(focal_loss, logits.bfloat16(), classes, weights)
    expected, exact = value_and_gradient(focal_loss, logits.bfloat16().float(), classes, weights)
    assert gradient.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient.float(), exact, rtol=2**-7, atol=1e-20)


def test_operator_keeps_pytorchs_contract() -> None:
    logits, classes, weights = problem(1.0, rows=20, columns=5)
    torch.library.opcheck(torch.ops.mlperf_det.focal_loss.default, (logits.requires_grad_(), classes, weights))
