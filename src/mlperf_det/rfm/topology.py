"""Which processors and memory a rank should use: read from the node itself, near the rank's GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.errors import UserError

#: PCI vendors of accelerators: NVIDIA, AMD. Boards' own display chips have others.
_VENDORS = frozenset({'0x10de', '0x1002'})
#: PCI classes of accelerators: display controllers (VGA, 3D, other) and processing accelerators.
_CLASSES = ('0x0300', '0x0302', '0x0380', '0x1200')


@dataclass(frozen=True, kw_only=True)
class Topology:
    """What a node is made of.

    Attributes:
        numa_cpus: NUMA node -> its CPUs that this job may use, ascending.
        cores: CPU -> number of the physical core: the lowest of the CPUs that share it.
        gpu_nodes: NUMA node of each GPU in PCI order; None where the firmware tells none.
    """

    numa_cpus: Mapping[int, tuple[int, ...]]
    cores: Mapping[int, int]
    gpu_nodes: tuple[int | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Binding:
    """CPUs of a rank, and the NUMA node that its memory comes from; None: any."""

    cpus: tuple[int, ...]
    memory_node: int | None

    def __str__(self) -> str:
        memory = '' if self.memory_node is None else f', memory of NUMA node {self.memory_node}'
        return f'CPUs {format_cpus(self.cpus)}{memory}'


def read_topology(sysfs: Path = Path('/sys'), allowed: Collection[int] | None = None) -> Topology:
    """Read a node's topology.

    Args:
        sysfs: where the kernel shows it.
        allowed: CPUs that may be used; None: those of this process.
    """
    usable = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    numa: dict[int, tuple[int, ...]] = {}
    for folder in sorted((sysfs / 'devices/system/node').glob('node[0-9]*'), key=lambda path: int(path.name[4:])):
        cpus = tuple(cpu for cpu in parse_cpus((folder / 'cpulist').read_text()) if cpu in usable)
        if cpus:
            numa[int(folder.name[4:])] = cpus
    if not numa:
        numa = {0: tuple(sorted(usable))}
    cores = {cpu: _core(sysfs, cpu) for cpus in numa.values() for cpu in cpus}
    return Topology(numa_cpus=numa, cores=cores, gpu_nodes=_gpu_nodes(sysfs))


def bind_near_gpus(topology: Topology, gpus: Sequence[int]) -> list[Binding]:
    """Return the binding of each rank of a node: the cores of its GPU's NUMA node, shared evenly among its ranks.

    Ranks whose GPU has no known place, or that have none, are spread over the NUMA nodes in order.

    Args:
        topology: of the node.
        gpus: number of the GPU, in PCI order, of each local rank; -1: none.

    Raises:
        UserError: a NUMA node has fewer usable cores than ranks.
    """
    nodes = sorted(topology.numa_cpus)
    homes = []
    for rank, gpu in enumerate(gpus):
        near = topology.gpu_nodes[gpu] if 0 <= gpu < len(topology.gpu_nodes) else None
        homes.append(near if near in topology.numa_cpus else nodes[rank * len(nodes) // len(gpus)])
    bindings = []
    for rank, home in enumerate(homes):
        assert home is not None
        sharing = [other for other, node in enumerate(homes) if node == home]
        cores = sorted({topology.cores[cpu] for cpu in topology.numa_cpus[home]})
        if len(cores) < len(sharing):
            raise UserError(f'CPU binding: NUMA node {home} has {len(cores)} usable core(s) for {len(sharing)} ranks; '
                            'give the job more CPUs, or use cpu_bind=off')
        place = sharing.index(rank)
        first, last = (len(cores) * part // len(sharing) for part in (place, place + 1))
        own = set(cores[first:last])
        bindings.append(Binding(cpus=tuple(cpu for cpu in topology.numa_cpus[home] if topology.cores[cpu] in own),
                                memory_node=home))
    return bindings


def bind_by_sockets(local_rank: int, *, ranks: int, sockets: int, cores_per_socket: int, hyperthreads: bool = True,
                    memory: bool = True) -> Binding:
    """Return the binding that the older launchers' arguments describe.

    Physical cores are numbered through all sockets, their hyper-threads behind them; each socket is one memory node.

    Raises:
        UserError: the ranks do not fit on the sockets.
    """
    per_socket = ranks // sockets if sockets else 0
    cores = cores_per_socket // per_socket if per_socket else 0
    if not cores or local_rank // per_socket >= sockets:
        raise UserError(f'CPU binding: {ranks} ranks do not fit on {sockets} sockets of {cores_per_socket} cores; '
                        'correct nsockets_per_node and ncores_per_socket')
    first = local_rank * cores
    physical = tuple(range(first, first + cores))
    siblings = tuple(cpu + cores * per_socket * sockets for cpu in physical) if hyperthreads else ()
    return Binding(cpus=physical + siblings, memory_node=local_rank // per_socket if memory else None)


def parse_cpus(text: str) -> list[int]:
    """Return the numbers of a kernel list such as ``0-3,8,10-11``."""
    cpus: list[int] = []
    for first, last in re.findall(r'(\d+)(?:-(\d+))?', text):
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def format_cpus(cpus: Sequence[int]) -> str:
    """Return numbers as the kernel lists them: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ','.join(str(first) if first == last else f'{first}-{last}' for first, last in runs)


def visible_gpus(environ: Mapping[str, str], ranks: int, count: int) -> list[int]:
    """Return the number of each local rank's GPU, in PCI order; -1 for a rank without one.

    Args:
        environ: of a task. The scheduler's list of the node's GPUs counts more than ``CUDA_VISIBLE_DEVICES``, which is
            renumbered where devices are hidden.
        ranks: ranks on the node.
        count: GPUs in the node.
    """
    lists = [parse_cpus(environ.get(name, '')) for name in ('SLURM_STEP_GPUS', 'SLURM_JOB_GPUS')]
    shown = environ.get('CUDA_VISIBLE_DEVICES', environ.get('ROCR_VISIBLE_DEVICES', ''))
    if re.fullmatch(r'[\d,]+', shown):
        lists.append(parse_cpus(shown))
    numbers = next((found for found in lists if len(found) >= ranks), list(range(count)))
    return [numbers[rank] if rank < len(numbers) else -1 for rank in range(ranks)]


def _core(sysfs: Path, cpu: int) -> int:
    try:
        return min(parse_cpus((sysfs / f'devices/system/cpu/cpu{cpu}/topology/thread_siblings_list').read_text()))
    except (OSError, ValueError):
        return cpu


def _gpu_nodes(sysfs: Path) -> tuple[int | None, ...]:
    nodes = []
    for device in sorted((sysfs / 'bus/pci/devices').glob('*')):
        try:
            vendor, kind = (device / 'vendor').read_text().strip(), (device / 'class').read_text().strip()
            node = int((device / 'numa_node').read_text())
        except (OSError, ValueError):
            continue
        if vendor in _VENDORS and kind.startswith(_CLASSES):
            nodes.append(node if node >= 0 else None)
    return tuple(nodes)
