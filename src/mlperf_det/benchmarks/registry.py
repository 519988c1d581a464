"""Which module composes each benchmark. Imports nothing heavy before a task is built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Recipe

if TYPE_CHECKING:
    from mlperf_det.training.task import Task

#: benchmark name of a recipe -> module with ``build_task(recipe, data_root, backbone)``
BENCHMARKS: Mapping[str, str] = MappingProxyType({
    'maskrcnn': 'mlperf_det.benchmarks.maskrcnn',
    'retinanet': 'mlperf_det.benchmarks.retinanet',
    'ssd': 'mlperf_det.benchmarks.ssd',
})


def build_task(recipe: Recipe, data_root: Path, backbone: Path | None) -> Task:
    """Return the task of ``recipe.benchmark`` on the dataset below ``data_root``.

    Args:
        recipe: the run's recipe; its type belongs to the benchmark.
        data_root: folder of the verified dataset.
        backbone: file with the backbone's weights; None for a recipe that starts from random ones.

    Raises:
        UserError: there is no such benchmark, or the dataset or backbone does not fit the recipe.
    """
    if recipe.benchmark not in BENCHMARKS:
        raise UserError(f'recipe {recipe.name}: benchmark {recipe.benchmark!r} is unknown; '
                        f'choose one of {", ".join(sorted(BENCHMARKS))}')
    module = importlib.import_module(BENCHMARKS[recipe.benchmark])
    task: Task = module.build_task(recipe, data_root, backbone)
    return task
