from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mlperf_det.errors import UserError
from mlperf_det.models.sparse_gradient import SparseGradientConv2d
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training import device as device_module
from mlperf_det.training.device import fast_bfloat16, pick_device, prepare_model, resolve, training_model

CPU = torch.device('cpu')


@pytest.mark.parametrize(('units', 'precision'), [(['amx_bf16'], 'bf16'), ([], 'fp32')])
def test_auto_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, units: list[str], precision: str) -> None:
    monkeypatch.setattr(device_module, 'fast_bfloat16', lambda: units)
    runtime = resolve(Runtime(), CPU)
    assert runtime.precision == precision
    assert runtime.reasons['precision'] == ('CPU has amx_bf16' if units else 'CPU is no faster in bfloat16')
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


@pytest.mark.parametrize(('first', 'units'), [
    ('vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 amx_bf16 amx_tile', ['amx_bf16']),
    ('vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16', []),
    ('vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_bf16', ['avx512_bf16']),
    ('vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2', []),
    ('BogoMIPS\t: 100.00\nFeatures\t: fp asimd bf16', ['bf16']),
    ('', []),
])
def test_bfloat16_is_chosen_where_it_is_faster_not_where_it_is_there(tmp_path: Path, first: str, units: list[str]
                                                                      ) -> None:
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'processor\t: 0\n{first}\n\nprocessor\t: 1\nflags\t\t: amx_bf16\n')
    assert fast_bfloat16(cpuinfo) == units
    assert fast_bfloat16(tmp_path / 'absent') == []


def test_heads_skip_what_has_no_gradient_on_a_cpu_that_runs_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    head = SparseGradientConv2d(3, 4, 3)
    prepare_model(nn.Sequential(head), resolve(Runtime(), CPU), CPU)
    assert head.skips_zeros
    compiled = resolve(Runtime(compile='model'), CPU)
    prepare_model(head, compiled, CPU)
    assert not head.skips_zeros
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda **_: True)
    on_gpu = resolve(Runtime(), torch.device('cuda'))
    assert (compiled.sparse_gradients, on_gpu.sparse_gradients) == (False, False)
    assert 'stops a GPU' in on_gpu.reasons['sparse_gradients']


def test_the_model_takes_the_memory_format_and_is_wrapped_only_where_needed() -> None:
    runtime = resolve(Runtime(precision='fp32'), CPU)
    model = prepare_model(nn.Conv2d(3, 4, 3), runtime, CPU)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert training_model(model, runtime, CPU, distributed=False, static_graph=True) is model
