"""CPUs and memory of ranks, from emulated nodes: no machine of the tests has several NUMA nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlperf_det.errors import UserError
from mlperf_det.rfm.topology import (
    Binding,
    bind_by_sockets,
    bind_near_gpus,
    format_cpus,
    parse_cpus,
    read_topology,
    visible_gpus,
)


def emulated_node(root: Path, *, numa: list[str], siblings: int, gpus: list[tuple[str, str, int]]) -> Path:
    """Lay down what the kernel shows of a node.

    Args:
        root: an empty folder.
        numa: CPU list of each NUMA node.
        siblings: distance of the two hyper-threads of a core; 0: there are none.
        gpus: vendor, class and NUMA node of PCI devices.
    """
    for number, cpus in enumerate(numa):
        folder = root / f'devices/system/node/node{number}'
        folder.mkdir(parents=True)
        (folder / 'cpulist').write_text(cpus + '\n')
        for cpu in parse_cpus(cpus):
            place = root / f'devices/system/cpu/cpu{cpu}/topology'
            place.mkdir(parents=True)
            first = cpu % siblings if siblings else cpu
            (place / 'thread_siblings_list').write_text(f'{first},{first + siblings}\n' if siblings else f'{cpu}\n')
    for number, (vendor, kind, node) in enumerate(gpus):
        folder = root / f'bus/pci/devices/0000:{number:02x}:00.0'
        folder.mkdir(parents=True)
        for name, value in (('vendor', vendor), ('class', kind), ('numa_node', node)):
            (folder / name).write_text(f'{value}\n')
    return root


NVIDIA, AMD, BOARD = ('0x10de', '0x030200'), ('0x1002', '0x038000'), ('0x1a03', '0x030000')


def test_ranks_get_the_cores_beside_their_gpus(tmp_path: Path) -> None:
    # As in a DGX A100 with one NUMA node for each two GPUs: 0 and 1 are near node 3, 2 and 3 near node 1.
    root = emulated_node(tmp_path, numa=['0-3,16-19', '4-7,20-23', '8-11,24-27', '12-15,28-31'], siblings=16,
                         gpus=[(*NVIDIA, 3), (*NVIDIA, 3), (*BOARD, 0), (*NVIDIA, 1), (*NVIDIA, 1)])
    topology = read_topology(root, allowed=range(32))
    assert topology.gpu_nodes == (3, 3, 1, 1)
    assert bind_near_gpus(topology, [0, 1, 2, 3]) == [
        Binding(cpus=(12, 13, 28, 29), memory_node=3), Binding(cpus=(14, 15, 30, 31), memory_node=3),
        Binding(cpus=(4, 5, 20, 21), memory_node=1), Binding(cpus=(6, 7, 22, 23), memory_node=1)]


def test_devices_of_amd_count_and_unknown_places_are_spread(tmp_path: Path) -> None:
    root = emulated_node(tmp_path, numa=['0-3', '4-7'], siblings=0, gpus=[(*AMD, -1), (*AMD, -1)])
    topology = read_topology(root, allowed=range(8))
    assert topology.gpu_nodes == (None, None)
    assert [binding.memory_node for binding in bind_near_gpus(topology, [0, 1])] == [0, 1]


def test_only_cpus_of_the_job_are_used_and_too_few_are_refused(tmp_path: Path) -> None:
    root = emulated_node(tmp_path, numa=['0-3', '4-7'], siblings=0, gpus=[(*NVIDIA, 0), (*NVIDIA, 0)])
    assert bind_near_gpus(read_topology(root, allowed=[2, 3]), [0, 1])[1].cpus == (3,)
    with pytest.raises(UserError, match=r'NUMA node 0 has 1 usable core\(s\) for 2 ranks'):
        bind_near_gpus(read_topology(root, allowed=[2]), [0, 1])


def test_a_machine_that_shows_nothing_is_one_node(tmp_path: Path) -> None:
    topology = read_topology(tmp_path, allowed=[0, 1])
    assert bind_near_gpus(topology, [-1, -1]) == [Binding(cpus=(0,), memory_node=0), Binding(cpus=(1,), memory_node=0)]


def test_this_machine_can_be_read() -> None:
    topology = read_topology()
    assert sum(len(cpus) for cpus in topology.numa_cpus.values()) >= 1


@given(st.integers(1, 4), st.integers(1, 16), st.integers(1, 8), st.data())
def test_ranks_share_no_cpu_and_leave_none_of_a_used_node_idle(
        nodes: int, cores: int, ranks: int, data: st.DataObject) -> None:
    from mlperf_det.rfm.topology import Topology
    numa = {node: tuple(range(node * cores, (node + 1) * cores)) for node in range(nodes)}
    homes = tuple(data.draw(st.integers(0, nodes - 1)) for _ in range(ranks))
    topology = Topology(numa_cpus=numa, cores={cpu: cpu for cpus in numa.values() for cpu in cpus}, gpu_nodes=homes)
    if max(homes.count(node) for node in homes) > cores:
        return
    bindings = bind_near_gpus(topology, range(ranks))
    used = [cpu for binding in bindings for cpu in binding.cpus]
    assert len(used) == len(set(used)) == cores * len(set(homes))
    assert all(binding.cpus and binding.memory_node == home for binding, home in zip(bindings, homes, strict=True))


def test_older_arguments_mean_what_they_meant() -> None:
    # Two sockets of 20 cores, eight ranks: rank 0 has cores 0-4 and their hyper-threads 40-44, memory node 0.
    assert bind_by_sockets(0, ranks=8, sockets=2, cores_per_socket=20) == Binding(
        cpus=(0, 1, 2, 3, 4, 40, 41, 42, 43, 44), memory_node=0)
    assert bind_by_sockets(7, ranks=8, sockets=2, cores_per_socket=20, hyperthreads=False, memory=False) == Binding(
        cpus=(35, 36, 37, 38, 39), memory_node=None)
    for ranks, sockets, cores in ((8, 0, 20), (8, 2, 3), (1, 2, 20), (7, 2, 20)):
        with pytest.raises(UserError, match='correct nsockets_per_node and ncores_per_socket'):
            bind_by_sockets(6 if ranks == 7 else 0, ranks=ranks, sockets=sockets, cores_per_socket=cores)


@given(st.sets(st.integers(0, 300)))
def test_lists_are_read_as_they_are_written(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(sorted(cpus))) == sorted(cpus)


@pytest.mark.parametrize(('environ', 'gpus'), [
    ({}, [0, 1]), ({'CUDA_VISIBLE_DEVICES': '4,6'}, [4, 6]), ({'CUDA_VISIBLE_DEVICES': 'GPU-1f,GPU-2f'}, [0, 1]),
    ({'CUDA_VISIBLE_DEVICES': '0', 'SLURM_STEP_GPUS': '2,3'}, [2, 3]), ({'SLURM_JOB_GPUS': '4-7'}, [4, 5])])
def test_a_rank_knows_which_gpu_is_its_own(environ: dict[str, str], gpus: list[int]) -> None:
    assert visible_gpus(environ, 2, 8) == gpus


def test_without_gpus_ranks_have_none() -> None:
    assert visible_gpus({}, 2, 0) == [-1, -1]
