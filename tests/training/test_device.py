from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training import device as device_module
from mlperf_det.training.device import cpu_flags, pick_device, prepare_model, resolve, training_model

CPU = torch.device('cpu')


@pytest.mark.parametrize(('flags', 'precision'), [
    ({'avx512_bf16', 'sse2'}, 'bf16'), ({'amx_bf16'}, 'bf16'), ({'avx2', 'fma'}, 'fp32'), (set(), 'fp32')])
def test_auto_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str], precision: str) -> None:
    monkeypatch.setattr(device_module, 'cpu_flags', lambda: frozenset(flags))
    runtime = resolve(Runtime(), CPU)
    assert runtime.precision == precision
    assert 'bf16' in runtime.reasons['precision'] or 'no bfloat16' in runtime.reasons['precision']
    assert (runtime.device, runtime.backend, runtime.memory_format) == ('cpu', 'gloo', 'channels_last')
    assert runtime.optimizer_arguments == {'fused': True, 'foreach': False}
    with runtime.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if precision == 'bf16' else torch.float32)


def test_what_is_asked_for_is_taken() -> None:
    runtime = resolve(Runtime(precision='fp32', memory_format='contiguous', optimizer_implementation='foreach'), CPU)
    assert (runtime.precision, runtime.memory_format) == ('fp32', 'contiguous')
    assert runtime.optimizer_arguments == {'fused': False, 'foreach': True}
    assert 'precision' not in runtime.reasons


@pytest.mark.parametrize(('precision', 'scales'), [('fp16', True), ('bf16', False), ('fp32', False)])
def test_only_fp16_scales_the_loss(precision: str, scales: bool) -> None:
    scaler = resolve(Runtime(precision=precision), CPU).grad_scaler()  # type: ignore[arg-type]
    assert scaler.is_enabled() == scales


def test_what_a_cpu_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match='tf32 needs a GPU'):
        resolve(Runtime(precision='tf32'), CPU)
    with pytest.raises(UserError, match='nccl needs GPUs'):
        resolve(Runtime(), CPU, backend='nccl')


@pytest.mark.skipif(torch.cuda.is_available(), reason='says what happens without a GPU')
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert pick_device('auto', 0) == CPU
    with pytest.raises(UserError, match='finds no GPU'):
        pick_device('cuda', 0)


def test_threads_are_shared_among_the_ranks_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module.os, 'sched_getaffinity', lambda pid: set(range(8)))
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert resolve(Runtime(), CPU, ranks_on_host=4, world_size=4).threads == 2
    assert resolve(Runtime(), CPU, ranks_on_host=1, world_size=1).threads is None
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert resolve(Runtime(), CPU, ranks_on_host=4, world_size=4).threads is None


def test_cpu_flags_of_x86_and_arm(tmp_path: Path) -> None:
    x86, arm = tmp_path / 'x86', tmp_path / 'arm'
    x86.write_text('processor\t: 0\nflags\t\t: fpu avx512_bf16\n')
    arm.write_text('processor\t: 0\nFeatures\t: fp asimd bf16\n')
    assert cpu_flags(x86) == {'fpu', 'avx512_bf16'}
    assert cpu_flags(arm) == {'fp', 'asimd', 'bf16'}
    assert cpu_flags(tmp_path / 'absent') == frozenset()


def test_the_model_takes_the_memory_format_and_is_wrapped_only_where_needed() -> None:
    runtime = resolve(Runtime(precision='fp32'), CPU)
    model = prepare_model(nn.Conv2d(3, 4, 3), runtime, CPU)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert training_model(model, runtime, CPU, distributed=False, static_graph=True) is model
