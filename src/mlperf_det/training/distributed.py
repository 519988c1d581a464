"""Who this process is among the ranks, and where they meet: read from the environment, here and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from mlperf_det.errors import UserError

_TORCHRUN = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
_SLURM = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_JOB_ID')
#: step ids from here on are no srun's: the batch script, an interactive shell
_FIRST_RESERVED_STEP = 0xFFFF_FFF0


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all. ``launcher`` is 'torchrun', 'srun' or 'bare'; a bare process is alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = 'localhost'
    port: int = 0
    launcher: str = 'bare'

    def __str__(self) -> str:
        meeting = '' if self.size == 1 else f', meeting at {self.address}:{self.port}'
        return f'rank {self.rank} of {self.size} (local rank {self.local_rank}, {self.launcher}{meeting})'


def read_world(environ: Mapping[str, str]) -> World:
    """Return this process's place, from the variables of torchrun, of srun, or of neither.

    torchrun's names win, so one torchrun a node under srun works; where a container hook has set them from Slurm,
    both must say the same. A process that a batch script starts by itself is alone, however many tasks the job has.

    Raises:
        UserError: variables are missing, not numbers, out of range, or contradict each other; the message names them.
    """
    if any(name in environ for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')):
        return _checked(_from_torchrun(environ))
    if environ.get('SLURM_NTASKS', '1') != '1' and all(name in environ for name in (
            'SLURM_PROCID', 'SLURM_JOB_ID', 'SLURM_STEP_ID')):
        step = _number(environ, 'SLURM_STEP_ID')
        if step < _FIRST_RESERVED_STEP:
            return _checked(_from_slurm(environ, step))
    return World()


def _from_torchrun(environ: Mapping[str, str]) -> World:
    _require(environ, _TORCHRUN, 'torchrun sets all five')
    world = World(rank=_number(environ, 'RANK'), size=_number(environ, 'WORLD_SIZE'),
                  local_rank=_number(environ, 'LOCAL_RANK'), address=environ['MASTER_ADDR'],
                  port=_number(environ, 'MASTER_PORT'), launcher='torchrun')
    under_agent = 'TORCHELASTIC_RUN_ID' in environ
    if not under_agent and 'SLURM_PROCID' in environ and 'SLURM_STEP_NODELIST' in environ:
        for ours, slurm in (('RANK', 'SLURM_PROCID'), ('WORLD_SIZE', 'SLURM_NTASKS')):
            if slurm in environ and _number(environ, ours) != _number(environ, slurm):
                raise UserError(f'environment: {ours}={environ[ours]} contradicts {slurm}={environ[slurm]}; '
                                f'unset {ours} (srun alone), or start with torchrun')
    return world


def _from_slurm(environ: Mapping[str, str], step: int) -> World:
    _require(environ, _SLURM, 'srun sets them')
    hosts = environ.get('SLURM_STEP_NODELIST') or environ.get('SLURM_JOB_NODELIST')
    if not hosts:
        raise UserError('environment: SLURM_PROCID is set, but neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST; '
                        'start with srun inside a job')
    job = _number(environ, 'SLURM_JOB_ID')
    # Below the ephemeral range of Linux (32768 on), and different for the steps of a job that run side by side.
    port = _number(environ, 'MASTER_PORT') if 'MASTER_PORT' in environ else 10_000 + (job + 1_009 * step) % 20_000
    return World(rank=_number(environ, 'SLURM_PROCID'), size=_number(environ, 'SLURM_NTASKS'),
                 local_rank=_number(environ, 'SLURM_LOCALID'), port=port, launcher='srun',
                 address=environ.get('MASTER_ADDR') or first_host(hosts))


def first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list: ``gpu[007-010,12],login1`` -> ``gpu007``.

    Raises:
        UserError: brackets do not match.
    """
    match = re.fullmatch(r'([^\[\],]*(?:\[[^\[\]]*\][^\[\],]*)*)(?:,.*)?', nodelist.strip())
    host = match and re.sub(r'\[(\w+)[^\]]*\]', r'\1', match.group(1))
    if not host:
        raise UserError(f'environment: node list {nodelist!r} cannot be read; set MASTER_ADDR to the first host')
    return host


def _require(environ: Mapping[str, str], names: tuple[str, ...], hint: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        present = [f'{name}={environ[name]}' for name in names if environ.get(name)]
        raise UserError(f'environment: {", ".join(present)} set, but {", ".join(missing)} missing ({hint}); '
                        'set all of them or none')


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f'environment: {name}={environ[name]!r} is not a whole number') from None


def _checked(world: World) -> World:
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.size):
        raise UserError(f'environment: rank {world.rank} and local rank {world.local_rank} do not fit '
                        f'{world.size} ranks; check RANK, LOCAL_RANK and WORLD_SIZE (srun: SLURM_PROCID, '
                        'SLURM_LOCALID and SLURM_NTASKS)')
    return world


def meet(world: World, timeout: timedelta) -> Store:
    """Return the store all ranks share; rank 0 (or torchrun's agent) serves it.

    Raises:
        UserError: the address does not resolve, is not ours to serve, or the others do not come in time.
    """
    try:
        store, _, _ = next(rendezvous(f'tcp://{world.address}:{world.port}', world.rank, world.size,
                                           timeout=timeout))
        arrived = f'arrived/{world.rank}'
        store.set(arrived, '1')
        store.wait([f'arrived/{rank}' for rank in range(world.size)], timeout)
    except (dist.DistError, RuntimeError, OSError) as error:
        raise UserError(f'{world}: the ranks did not all meet within {timeout.total_seconds():.0f} s '
                        f'({_one_line(error)}); are all tasks started, and is {world.address}:{world.port} reachable '
                        'and free? MASTER_ADDR and MASTER_PORT choose another place') from error
    return store  # type: ignore[no-any-return]


def join(world: World, store: Store, *, backend: str, device: torch.device,
         timeout: timedelta) -> dist.ProcessGroup:
    """Start the process group for gradients and return a second one, over gloo, for messages.

    Args:
        world: this process's place.
        store: from `meet`.
        backend: ``nccl`` (CUDA and, as RCCL, ROCm) or ``gloo``.
        device: this rank's device.
        timeout: longest wait in one collective operation.
    """
    os.environ.setdefault('TORCH_NCCL_ASYNC_ERROR_HANDLING', '1')
    dist.init_process_group(backend, store=PrefixStore('gradients', store), rank=world.rank,
                            world_size=world.size, timeout=timeout,
                            device_id=device if backend == 'nccl' else None)
    group = dist.new_group(backend='gloo', timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


def leave() -> None:
    """End the process groups; every rank must have passed its last collective operation."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
