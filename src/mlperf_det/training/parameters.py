"""Whether the parameters are still numbers, and whether training moves them at all."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ParameterWatch:
    """Compares parameters with what they were when the watch began, without a copy of them.

    Args:
        parameters: float32, on the device; read there, so only the answers make the host wait for it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        self._before = self._checksums()

    def finite(self) -> bool:
        """Say whether every parameter is neither infinite nor not-a-number."""
        norms = torch._foreach_norm(self._parameters)
        return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())

    def moved(self) -> bool:
        """Say whether a bit of any parameter has changed."""
        return not torch.equal(self._checksums(), self._before)

    def _checksums(self) -> Tensor:
        # A sum over bit patterns: rounding cannot hide a small step, as it could in a norm.
        return torch.stack([parameter.view(torch.int32).sum(dtype=torch.int64) for parameter in self._parameters])
