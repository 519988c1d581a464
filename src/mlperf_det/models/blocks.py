"""How much work one block of a blockwise computation gets: the choice per device, in one place."""

from __future__ import annotations

import torch

#: 512 KiB of float32 a thread: a block and its scratch tensors stay in the caches of current server cores, and it is
#: long enough to hide the cost of calling an operator (2**17 was the best of 2**14 to 2**26 on a Zen 4 core).
_CPU_ELEMENTS_PER_THREAD = 2**17
#: 256 MiB of float32: few kernel launches, and scratch that is small beside the memory of an accelerator.
_ACCELERATOR_ELEMENTS = 2**26


def elements_per_block(device: torch.device) -> int:
    """Return how many float32 elements a block should have on ``device``."""
    if device.type == 'cpu':
        return _CPU_ELEMENTS_PER_THREAD * torch.get_num_threads()
    return _ACCELERATOR_ELEMENTS
