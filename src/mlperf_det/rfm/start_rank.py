"""``python -m mlperf_det.rfm.start_rank OPTIONS -- train ...``: what each rank does before it trains.

It compares its place among the ranks with what the job was written for, prints it, takes the CPUs and the memory near
its GPU, and becomes ``mlperf-det``. So every launcher and container platform behaves the same, or says why not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlperf_det.errors import UserError
from mlperf_det.rfm.topology import Binding, bind_by_sockets, bind_near_gpus, format_cpus, read_topology, visible_gpus

#: Policies: near the GPU; as the scheduler did it; not at all.
NUMA, SCHEDULER, OFF = 'numa', 'scheduler', 'off'
#: What each launcher calls rank, number of ranks, and rank on the node.
_NAMES = (('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'))


@dataclass(frozen=True, kw_only=True)
class Place:
    """A rank's place, as its launcher tells it."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: str

    def __str__(self) -> str:
        return f'rank {self.rank} of {self.size} (local rank {self.local_rank}), meeting at {self.address}:{self.port}'


def read_place(environ: Mapping[str, str], *, nodes: int, ranks_per_node: int, meeting: str = '') -> Place:
    """Return this rank's place.

    Args:
        environ: of the task.
        nodes: of the job.
        ranks_per_node: on each.
        meeting: ``host:port`` where the job script lets ranks meet; empty: it leaves that to torchrun.

    Raises:
        UserError: no launcher tells it, two tell different things, or it is not what the job was written for.
    """
    told = [(names, [environ[name] for name in names]) for names in _NAMES if all(name in environ for name in names)]
    # Under torchrun the scheduler's numbers are those of its agents.
    if 'TORCHELASTIC_RUN_ID' in environ:
        told = told[:1]
    if not told:
        raise UserError(f'environment: neither {" ".join(_NAMES[0])} (torchrun) nor {" ".join(_NAMES[1])} (srun) are '
                        'set; does the container platform pass them on?')
    (names, values), *others = told
    for other_names, other_values in others:
        for ours, value, theirs, expected in zip(names, values, other_names, other_values, strict=True):
            if value != expected:
                raise UserError(f'environment: {ours}={value} contradicts {theirs}={expected}; '
                                'a hook of the container platform sets it wrongly')
    address, port = environ.get('MASTER_ADDR', ''), environ.get('MASTER_PORT', '')
    if not address or not port:
        raise UserError('environment: MASTER_ADDR or MASTER_PORT is not set; the job script sets both')
    if meeting not in ('', f'{address}:{port}'):
        raise UserError(f'environment: MASTER_ADDR and MASTER_PORT are {address}:{port}, the job script set {meeting}; '
                        'a hook of the container platform changes them')
    rank, size, local_rank = (int(value) for value in values)
    place = Place(rank=rank, size=size, local_rank=local_rank, address=address, port=port)
    if place.size != nodes * ranks_per_node:
        raise UserError(f'environment: {names[1]}={place.size}, but the job was written for {nodes} node(s) with '
                        f'{ranks_per_node} ranks each')
    if not (0 <= place.rank < place.size and 0 <= place.local_rank < ranks_per_node):
        raise UserError(f'environment: {names[0]}={rank} and {names[2]}={local_rank} do not fit {nodes} node(s) with '
                        f'{ranks_per_node} ranks each')
    return place


def choose_binding(arguments: argparse.Namespace, local_rank: int, environ: Mapping[str, str]) -> Binding | None:
    """Return the binding of this rank; None: leave it as it is."""
    if arguments.nsockets_per_node or arguments.ncores_per_socket:
        return bind_by_sockets(local_rank, ranks=arguments.ranks_per_node, sockets=arguments.nsockets_per_node or 0,
                               cores_per_socket=arguments.ncores_per_socket or 0,
                               hyperthreads=not arguments.no_hyperthreads, memory=not arguments.no_membind)
    if arguments.bind != NUMA:
        return None
    topology = read_topology()
    gpus = visible_gpus(environ, arguments.ranks_per_node, len(topology.gpu_nodes))
    if not topology.gpu_nodes and len(set(topology.cores.values())) < arguments.ranks_per_node:
        # Ranks without GPUs may share cores: a run of tests on a small machine.
        return None
    binding = bind_near_gpus(topology, gpus)[local_rank]
    return Binding(cpus=binding.cpus, memory_node=None) if arguments.no_membind else binding


def apply(binding: Binding | None, command: Sequence[str]) -> list[str]:
    """Bind this process, and return the command that goes on with it: through numactl where memory is to be bound."""
    if binding is None:
        return list(command)
    allowed = os.sched_getaffinity(0)
    if not set(binding.cpus) & allowed:
        raise UserError(f'CPU binding: {binding}, but this process may use CPUs {format_cpus(sorted(allowed))} only; '
                        'use cpu_bind=scheduler or cpu_bind=off')
    os.sched_setaffinity(0, set(binding.cpus) & allowed)
    numactl = shutil.which('numactl')
    if binding.memory_node is None or numactl is None:
        # The kernel takes memory from the node of the CPU that touches it first.
        return list(command)
    bound = [numactl, f'--membind={binding.memory_node}', '--']
    # numactl ends where it may not bind, and its words name neither the rank nor the way out.
    tried = subprocess.run([*bound, 'true'], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise UserError(f'memory binding: {" ".join(bound[:2])} fails ({" ".join(tried.stderr.split())}); does the '
                        'container platform forbid it? Use cpu_bind=scheduler or cpu_bind=off')
    return [*bound, *command]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog='python -m mlperf_det.rfm.start_rank',
                                     description=__doc__.partition('\n')[0])
    parser.add_argument('--nodes', type=int, required=True)
    parser.add_argument('--ranks-per-node', type=int, required=True)
    parser.add_argument('--meet-at', default='', metavar='HOST:PORT', help='what MASTER_ADDR and MASTER_PORT must be')
    parser.add_argument('--bind', choices=(NUMA, SCHEDULER, OFF), default=NUMA)
    older = parser.add_argument_group('arguments of older launchers; the first two replace --bind')
    older.add_argument('--nsockets_per_node', type=int)
    older.add_argument('--ncores_per_socket', type=int)
    older.add_argument('--no_hyperthreads', action='store_true')
    older.add_argument('--no_membind', action='store_true')
    parser.add_argument('command', nargs='+', metavar='-- COMMAND', help='of mlperf-det')
    return parser.parse_args(argv)


def main() -> int:
    """Compare, print, bind, and become ``mlperf-det``."""
    arguments = parse()
    try:
        place = read_place(os.environ, nodes=arguments.nodes, ranks_per_node=arguments.ranks_per_node,
                           meeting=arguments.meet_at)
        binding = choose_binding(arguments, place.local_rank, os.environ)
        command = apply(binding, [sys.executable, '-m', 'mlperf_det', *arguments.command])
    except UserError as error:
        sys.stderr.write(f'mlperf-det: error: {error}\n')
        return 2
    sys.stdout.write(f'mlperf-det: {place}, on {socket.gethostname()}, {binding or "CPUs as the launcher left them"}\n')
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 (a list of words, no shell)


if __name__ == '__main__':
    sys.exit(main())
