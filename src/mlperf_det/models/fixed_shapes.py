"""Where the shapes of intermediate results must not depend on the data."""

from __future__ import annotations

import torch


def wants_fixed_shapes(device: torch.device) -> bool:
    """Say whether work should be padded to the most there can be instead of counted first.

    On an accelerator the host would have to wait for the count, and a compiler or a recorded graph cannot go on after
    it. On a CPU the count is at hand, and less is computed.
    """
    return device.type != 'cpu' or torch.compiler.is_compiling()
