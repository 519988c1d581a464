"""RetinaNet's training step as `torch.compile` makes it, against torchvision's parts as they are.

Reported and not judged: on a CPU compiled code is not the default, and its gain is on GPUs if anywhere. The images are
smaller than the benchmark's, because compiling alone takes minutes; ``RETINANET_BENCH_COMPILED_SIZE`` sets their side.
"""

from __future__ import annotations

import os

from mlperf_det.recipes.recipe import Runtime
from tests.perf.bench_retinanet import step, within
from tests.perf.case import Case


def cases() -> list[Case]:
    """Return the comparisons; equality of the loss is part of each."""
    side = int(os.environ.get('RETINANET_BENCH_COMPILED_SIZE', '320'))
    at = f'RetinaNet step {side}x{side}, batch 1, compiled'
    full, reduced = (Runtime(precision=precision, compile='model') for precision in ('fp32', 'bf16'))
    return [
        Case(name=f'{at}, fp32', peer=step('peer', side, full), ours=step('ours', side, full), equal=within(1e-4),
             target=None, rounds=2, note='peer not compiled'),
        Case(name=f'{at}, bf16', peer=step('peer', side, reduced), ours=step('ours', side, reduced), equal=within(0.3),
             target=None, rounds=2, note='peer bf16, not compiled'),
    ]
