from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlperf_det.benchmarks.registry import BENCHMARKS, build_task
from mlperf_det.errors import UserError
from mlperf_det.recipes.ssd import smoke_recipe


def test_an_unknown_benchmark_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'resnet' is unknown; choose one of .*ssd"):
        build_task(replace(smoke_recipe(), benchmark='resnet'), tmp_path, None)


@pytest.mark.parametrize('name', sorted(BENCHMARKS))
def test_every_benchmark_has_a_builder(name: str) -> None:
    module = importlib.import_module(BENCHMARKS[name])
    assert callable(module.build_task)


def test_listing_the_benchmarks_loads_no_torch() -> None:
    code = "import sys, mlperf_det.benchmarks.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
