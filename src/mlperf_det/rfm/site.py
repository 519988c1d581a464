"""What a check needs to know of the site it runs on: its folder, recipes, references, datasets and accelerators."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import reframe.core.runtime as rt

from mlperf_det.recipes.load import builtin_recipes, recipes_of
from mlperf_det.recipes.recipe import Recipe, Tier
from mlperf_det.rfm.constants import Device, Extra
from mlperf_det.share import share_path

RECIPES_FILE = 'recipes.yaml'
REFERENCES_FILE = 'references.yaml'
#: Where datasets and backbones are looked for when the site configuration names no place.
DATASETS_VARIABLE = 'MLPERF_DET_DATASETS'
BACKBONES_VARIABLE = 'MLPERF_DET_BACKBONES'


def site_folder() -> Path | None:
    """Return the folder of the current system: beside its configuration file, else the one of its name that we ship.

    None: the system has no folder, as ReFrame's built-in generic system.
    """
    runtime = rt.runtime()
    beside = [Path(source).resolve().parent for source in runtime.site_config.sources if Path(source).is_file()]
    shipped: Path = share_path('systems') / runtime.system.name
    for folder in [*reversed(beside), shipped]:
        if (folder / RECIPES_FILE).is_file() or (folder / REFERENCES_FILE).is_file():
            return folder
    return None


def recipes(benchmark: str) -> Mapping[str, Recipe]:
    """Return the recipes that the current system runs: its own, and the built-in smoke recipe everywhere.

    Raises:
        UserError: the site's recipes file is wrong.
    """
    own = recipes_file()
    return _read_recipes(benchmark, own, own.stat().st_mtime_ns if own else 0)


@functools.lru_cache(maxsize=16)
def _read_recipes(benchmark: str, own: Path | None, _changed: int) -> Mapping[str, Recipe]:
    # Every case of a benchmark asks for them while ReFrame lists the checks.
    smoke = {name: recipe for name, recipe in builtin_recipes(benchmark).items() if recipe.tier is Tier.SMOKE}
    return MappingProxyType({**smoke, **recipes_of(benchmark, file=own)} if own else smoke)


def recipes_file() -> Path | None:
    """Return the recipes file of the current system, None where it has none."""
    folder = site_folder()
    return folder / RECIPES_FILE if folder and (folder / RECIPES_FILE).is_file() else None


def references_file() -> Path | None:
    """Return the file of reference values of the current system, None where it has none."""
    folder = site_folder()
    return folder / REFERENCES_FILE if folder and (folder / REFERENCES_FILE).is_file() else None


def gpus(partition: Any) -> list[Any]:
    """Return the GPU entries of a partition's ``devices``."""
    return list(partition.select_devices(Device.GPU))


def gpus_per_node(partition: Any) -> int:
    """Return the number of GPUs in each node of a partition, as its configuration says."""
    return sum(device.num_devices for device in gpus(partition))


def gpu_vendor(partition: Any) -> str:
    """Return 'nvidia' or 'amd' for the GPUs of a partition, empty where it has none."""
    names = ' '.join(f'{device.model} {device.arch}' for device in gpus(partition)).lower()
    if not names:
        return ''
    return 'amd' if any(word in names for word in ('amd', 'instinct', 'gfx')) else 'nvidia'


def accelerator(partition: Any) -> str:
    """Return the GPU model that a partition's configuration names; 'cpu' for a partition without GPUs."""
    models = [device.model or device.arch for device in gpus(partition)]
    return str(models[0] if models else 'cpu')


def dataset_folder(partition: Any, card: str) -> str:
    """Return where the job finds an installed dataset; the place need not be visible here."""
    return _place(partition, Extra.DATASETS, DATASETS_VARIABLE, 'datasets') + f'/{card}'


def backbone_folder(partition: Any) -> str:
    """Return where the job finds backbone weights; the place need not be visible here."""
    return _place(partition, Extra.BACKBONES, BACKBONES_VARIABLE, 'backbones')


def _place(partition: Any, extra: str, variable: str, default: str) -> str:
    named = partition.extras.get(extra) or os.environ.get(variable)
    return str(named or Path(rt.runtime().system.resourcesdir).absolute() / default)
