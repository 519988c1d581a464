"""Sigmoid focal loss from class indices: value and gradient in one pass, without one-hot targets.

Source: Lin et al., Focal Loss for Dense Object Detection, equation 5 with gamma = 2. With ``s`` the logit of a wrong
class, or the negated logit of the right one, an element costs ``alpha_t * sigmoid(s)**2 * softplus(s)``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlperf_det.models.blocks import elements_per_block

#: Weight of the right class; all others weigh 1 - ALPHA.
ALPHA = 0.25
#: From here on exp() of a float32 logit could overflow; softplus(s) equals s to the last bit long before.
_LARGEST_EXPONENT = 60.0


def focal_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the focal loss over rows (anchors) and classes.

    On an accelerator under ``torch.compile`` the formula is handed to the compiler, which fuses it; everywhere else
    one operator works in blocks (`elements_per_block`). All arithmetic is float32.

    Args:
        logits: (R, K) float32 or bfloat16; float16 cannot hold the gradients of easy negatives.
        classes: (R,) int64 class of the row in 0..K-1; negative: no class is right (background).
        weights: (R,) float32 weight of the row; 0 leaves it out.

    Returns:
        Scalar float32. The gradient with respect to ``logits`` has their dtype; ``classes`` and ``weights`` have none.
    """
    if torch.compiler.is_compiling() and logits.device.type != 'cpu':
        return _focal_loss_for_compiler(logits, classes, weights)
    value: Tensor = _focal_loss_and_gradient(logits, classes, weights)[0]
    return value


def _focal_loss_for_compiler(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    right = classes[:, None] == torch.arange(logits.shape[1], device=logits.device)
    signed = torch.where(right, -logits.float(), logits.float())
    cost = torch.where(right, ALPHA, 1 - ALPHA) * torch.sigmoid(signed).square() * F.softplus(signed)
    return (cost.sum(dim=1) * weights).sum()


@torch.library.custom_op('mlperf_det::focal_loss', mutates_args=())
def _focal_loss_and_gradient(logits: Tensor, classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient (R, K) in the dtype of ``logits``."""
    rows, columns = logits.shape
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    row_loss = weights.new_empty(rows)
    block = max(1, elements_per_block(logits.device) // columns)
    scratch = [weights.new_empty(min(block, rows), columns) for _ in range(5)]
    for start in range(0, rows, block):
        here = slice(start, start + block)
        _background_block(logits[here], weights[here], [s[:len(row_loss[here])] for s in scratch],
                          gradient[here], row_loss[here])
    _right_classes(logits, classes, weights, gradient, row_loss)
    return (row_loss * weights).sum(), gradient


def _background_block(logits: Tensor, weights: Tensor, scratch: list[Tensor], gradient: Tensor, row_loss: Tensor
                      ) -> None:
    """Write loss and gradient of rows in which every class is wrong.

    One exp and one log an element: with z = exp(s), r = 1 / (1 + z), the probability is z * r and its complement r.
    softplus(s) = log(1 + z) is corrected for the rounding of 1 + z, which is as exact as log1p and five times
    faster on a CPU.
    """
    z, u, r, softplus, t = scratch
    s = logits if logits.dtype == torch.float32 else t.copy_(logits)
    torch.clamp(s, max=_LARGEST_EXPONENT, out=z).exp_()
    torch.add(z, 1, out=u)
    torch.reciprocal(u, out=r)
    torch.log(u, out=softplus)
    u.sub_(1)
    torch.sub(z, u, out=u)
    softplus.addcmul_(u, r)
    torch.maximum(softplus, s, out=softplus)
    p = z.mul_(r)
    square = torch.mul(p, p, out=u)
    cost = torch.mul(square, softplus, out=t)
    torch.sum(cost, dim=1, out=row_loss)
    row_loss.mul_(1 - ALPHA)
    slope = square.mul_(p).addcmul_(cost, r, value=2)
    torch.mul(slope, (weights * (1 - ALPHA))[:, None], out=gradient)


def _right_classes(logits: Tensor, classes: Tensor, weights: Tensor, gradient: Tensor, row_loss: Tensor) -> None:
    """Replace the one element of each row whose class is right; shapes are fixed, so that the host is not asked."""
    column, matched = classes.clamp(min=0)[:, None], classes >= 0
    logit = logits.gather(1, column).squeeze(1).float()
    wrong_cost, _ = _cost_and_slope(logit)
    right_cost, right_slope = _cost_and_slope(-logit)
    row_loss.add_(torch.where(matched, ALPHA * right_cost - (1 - ALPHA) * wrong_cost, 0.0))
    replacement = (-ALPHA * right_slope * weights).to(gradient.dtype)
    gradient.scatter_(1, column, torch.where(matched, replacement, gradient.gather(1, column).squeeze(1))[:, None])


def _cost_and_slope(s: Tensor) -> tuple[Tensor, Tensor]:
    """Return sigmoid(s)**2 * softplus(s) and its derivative."""
    p, softplus = torch.sigmoid(s), F.softplus(s)
    cost = p.square() * softplus
    return cost, 2 * cost * torch.sigmoid(-s) + p**3


@_focal_loss_and_gradient.register_fake
def _(logits: Tensor, classes: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    return weights.new_empty(()), torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save_gradient(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else backward fills a second tensor of the logits' size with zeros
    ctx.save_for_backward(output[1])


def _scale_gradient(ctx: Any, loss_gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None]:
    (gradient,) = ctx.saved_tensors
    return gradient * loss_gradient, None, None


_focal_loss_and_gradient.register_autograd(_scale_gradient, setup_context=_save_gradient)
