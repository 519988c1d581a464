"""Every choice that depends on the device, made here and nowhere else, each with its reason.

CUDA and ROCm both answer to `torch.cuda`; what is said of CUDA below holds for both.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlperf_det.data.device_decode import check_decoder
from mlperf_det.errors import UserError
from mlperf_det.models.sparse_gradient import skip_zeros
from mlperf_det.recipes.recipe import Runtime

Precision = Literal['fp32', 'tf32', 'bf16', 'fp16']
_AUTOCAST = {'bf16': torch.bfloat16, 'fp16': torch.float16}
#: CPU flags (/proc/cpuinfo) of units that multiply bfloat16 much faster than float32: AMX, and Arm's matrix products
_CPU_BF16 = frozenset({'amx_bf16', 'bf16'})
#: the like of AMD's cores; Intel's have the instruction without the speed. Convolutions of a ResNet in bfloat16 ran at
#: 2.0x the rate of float32 on Zen 4, and at 0.54x on Emerald Rapids in a virtual machine without AMX
_CPU_BF16_AMD = frozenset({'avx512_bf16'})


@dataclass(frozen=True, kw_only=True)
class ResolvedRuntime:
    """A recipe's `Runtime` with nothing left to decide; goes into run.json."""

    device: str
    backend: Literal['nccl', 'gloo']
    precision: Precision
    memory_format: Literal['contiguous', 'channels_last']
    compile: Literal['off', 'model']
    cuda_graph: bool
    decoder: Literal['cpu', 'gpu', 'dali']
    optimizer_implementation: Literal['fused', 'foreach', 'for_loop']
    #: backward passes through heads skip the positions without a gradient
    sparse_gradients: bool
    #: CPU threads of this rank inside operators; None: left as the environment set them
    threads: int | None
    loader_workers: int | None
    #: setting -> why it was chosen
    reasons: Mapping[str, str]

    @property
    def torch_memory_format(self) -> torch.memory_format:
        """Memory format for images and convolution weights."""
        return torch.channels_last if self.memory_format == 'channels_last' else torch.contiguous_format

    @property
    def optimizer_arguments(self) -> dict[str, bool]:
        """``fused`` and ``foreach`` for the constructor of an optimiser, and ``capturable`` where it is recorded."""
        return {'fused': self.optimizer_implementation == 'fused',
                'foreach': self.optimizer_implementation == 'foreach',
                **({'capturable': True} if self.cuda_graph else {})}

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes: reduced precision where chosen, nothing otherwise."""
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler: active for fp16 alone, whose gradients underflow; otherwise it passes all through."""
        return torch.amp.GradScaler(self.device, enabled=self.precision == 'fp16')

    def apply(self) -> None:
        """Set the process-wide switches of PyTorch: TF32, cuDNN's search, threads."""
        reduced = self.precision != 'fp32'
        torch.set_float32_matmul_precision('high' if reduced and self.device == 'cuda' else 'highest')
        if self.device == 'cuda':
            torch.backends.cudnn.allow_tf32 = reduced
            torch.backends.cudnn.benchmark = True
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def as_record(self) -> dict[str, Any]:
        """Return the settings as plain values for run.json."""
        return asdict(self)


def pick_device(asked: Literal['auto', 'cpu', 'cuda'], local_rank: int) -> torch.device:
    """Return this rank's device and make it current.

    A rank that sees one device takes it (schedulers bind one to each task); a rank that sees several takes the one
    of its local rank.

    Raises:
        UserError: CUDA was asked for and there is none, or there are fewer devices than ranks on this host.
    """
    if asked == 'cpu' or (asked == 'auto' and not torch.cuda.is_available()):
        return torch.device('cpu')
    if not torch.cuda.is_available():
        raise UserError(f'--device {asked}: PyTorch {torch.__version__} finds no GPU; check the driver and the '
                        'container option (--nv, --rocm), or use --device cpu')
    count = torch.cuda.device_count()
    index = 0 if count == 1 else local_rank
    if index >= count:
        raise UserError(f'local rank {local_rank} has no GPU: {count} visible on this host; '
                        'start as many tasks a node as there are GPUs')
    device = torch.device('cuda', index)
    torch.cuda.set_device(device)
    return device


def current_device() -> torch.device:
    """Return the device that `pick_device` made current: a GPU, or the CPU where there is none."""
    return torch.device('cuda', torch.cuda.current_device()) if torch.cuda.is_available() else torch.device('cpu')


def resolve(asked: Runtime, device: torch.device, *, backend: str = 'auto',
            ranks_on_host: int = 1, world_size: int = 1) -> ResolvedRuntime:
    """Decide what the recipe left to ``auto``, for the device found.

    Raises:
        UserError: the recipe or the command line asks for what the device cannot do.
    """
    reasons: dict[str, str] = {}
    cuda = device.type == 'cuda'
    precision = _precision(asked, cuda, reasons)
    if asked.memory_format == 'auto':
        reasons['memory_format'] = 'convolutions are faster with channels last, on CPU and GPU'
    if asked.optimizer_implementation == 'auto':
        reasons['optimizer_implementation'] = 'one fused kernel updates all parameters'
    sparse_gradients = not cuda and asked.compile == 'off'
    reasons['sparse_gradients'] = ('a CPU gains by what it need not compute' if sparse_gradients else
                                   'the number of positions must be known, which stops a GPU and breaks one graph')
    if backend == 'nccl' and not cuda:
        raise UserError('--backend nccl needs GPUs; use --backend gloo on CPU')
    _check_cuda_graph(asked, cuda)
    check_decoder(asked.decoder, device)
    return ResolvedRuntime(
        device=device.type, backend='gloo' if backend == 'gloo' or not cuda else 'nccl', precision=precision,
        memory_format='channels_last' if asked.memory_format == 'auto' else asked.memory_format,
        compile=asked.compile, cuda_graph=asked.cuda_graph, decoder=asked.decoder,
        optimizer_implementation=('fused' if asked.optimizer_implementation == 'auto'
                                  else asked.optimizer_implementation),
        sparse_gradients=sparse_gradients,
        threads=None if cuda or world_size == 1 else _threads(ranks_on_host, reasons),
        loader_workers=asked.loader_workers, reasons=reasons)


def _precision(asked: Runtime, cuda: bool, reasons: dict[str, str]) -> Precision:
    if asked.precision == 'tf32' and not (cuda and _has_tf32()):
        raise UserError('runtime.precision tf32 needs a GPU with TF32 (CUDA capability 8.0); use fp32, bf16 or auto')
    if asked.precision == 'bf16' and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError('runtime.precision bf16: this GPU has no bfloat16; use fp16, fp32 or auto')
    if asked.precision != 'auto':
        return asked.precision
    if not cuda:
        found = fast_bfloat16()
        reasons['precision'] = f'CPU has {", ".join(found)}' if found else 'CPU is no faster in bfloat16'
        return 'bf16' if found else 'fp32'
    if torch.cuda.is_bf16_supported(including_emulation=False):
        reasons['precision'] = 'GPU has bfloat16, which needs no loss scaling'
        return 'bf16'
    half = torch.cuda.get_device_capability() >= (7, 0)
    reasons['precision'] = 'GPU has no bfloat16 but fp16 tensor cores' if half else 'GPU has no tensor cores'
    return 'fp16' if half else 'fp32'


def _check_cuda_graph(asked: Runtime, cuda: bool) -> None:
    if asked.cuda_graph and not cuda:
        raise UserError('runtime.cuda_graph needs a GPU; set runtime.cuda_graph=false')
    if asked.cuda_graph and asked.optimizer_implementation not in ('auto', 'fused'):
        raise UserError(f'runtime.cuda_graph: an optimiser of {asked.optimizer_implementation} kernels asks the host '
                        'for values; set runtime.optimizer_implementation=fused')


def _has_tf32() -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 0)


def _threads(ranks_on_host: int, reasons: dict[str, str]) -> int | None:
    if 'OMP_NUM_THREADS' in os.environ:
        reasons['threads'] = 'OMP_NUM_THREADS is set'
        return None
    cores = len(os.sched_getaffinity(0))
    reasons['threads'] = f'{cores} CPUs shared by {ranks_on_host} ranks'
    return max(1, cores // ranks_on_host)


def fast_bfloat16(cpuinfo: Path = Path('/proc/cpuinfo')) -> list[str]:
    """Return the flags for which the first CPU computes faster in bfloat16 than in float32; empty where none does.

    Flags are x86's ``flags`` or Arm's ``Features``.
    """
    try:
        first = cpuinfo.read_text().partition('\n\n')[0]
    except OSError:
        return []
    lines = (line.partition(':') for line in first.splitlines())
    facts = {name.strip(): value.split() for name, _, value in lines}
    flags = {*facts.get('flags', []), *facts.get('Features', [])}
    amd = facts.get('vendor_id') == ['AuthenticAMD']
    return sorted(flags & (_CPU_BF16 | _CPU_BF16_AMD if amd else _CPU_BF16))


def prepare_model(model: nn.Module, runtime: ResolvedRuntime, device: torch.device) -> nn.Module:
    """Move the model to the device in the chosen memory format and set up its convolutions; it comes back."""
    skip_zeros(model, runtime.sparse_gradients)
    return model.to(device=device, memory_format=runtime.torch_memory_format)  # type: ignore[call-overload,no-any-return]


def training_model(model: nn.Module, runtime: ResolvedRuntime, device: torch.device, *, distributed: bool,
                   static_graph: bool, static_shapes: bool = False) -> nn.Module:
    """Return what the loop calls for a loss: the model, wrapped for gradients over ranks, compiled where asked.

    ``static_shapes`` says that batches differ in nothing but the number of images, in the last one of an epoch.
    """
    wrapped: nn.Module = model
    if distributed:
        # A step that is recorded must find DDP's streams beside the default one.
        aside = torch.cuda.stream(torch.cuda.Stream(device)) if runtime.cuda_graph else nullcontext()  # type: ignore[no-untyped-call]
        # Batch-norm statistics stay local between steps; the benchmark averages them before it evaluates.
        with warnings.catch_warnings(), aside:
            # Its successor, forward_sync_buffers, is not in every PyTorch that we take.
            warnings.filterwarnings('ignore', message='`broadcast_buffers` is deprecated', category=FutureWarning)
            wrapped = DistributedDataParallel(
                model, device_ids=[device] if device.type == 'cuda' else None, broadcast_buffers=False,
                gradient_as_bucket_view=True, static_graph=static_graph)
    if runtime.compile == 'off':
        return wrapped
    if not static_shapes:
        return torch.compile(wrapped)  # type: ignore[return-value]
    # Code for any number of images is slower, and would replace that for full batches. Anything that breaks the one
    # graph is an error; DDP itself breaks it, between its buckets.
    return torch.compile(wrapped, dynamic=False, fullgraph=not distributed)  # type: ignore[return-value]
