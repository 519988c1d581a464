"""What Slurm, the devices and the path say of a site; each question is asked only where its program is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlperf_det.errors import UserError

#: Runs a program and returns what it prints; None where it is not there or fails.
Ask = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True, kw_only=True)
class PartitionFacts:
    """A kind of nodes.

    Attributes:
        name: of the partition.
        nodes: number of nodes.
        cpus: logical CPUs of a node; None: not known.
        sockets: of a node.
        threads_per_core: 2 with hyper-threads.
        gpus: of a node.
        gpu_model: as the driver or, failing that, Slurm names it; empty: not known.
        gres: how Slurm calls the GPUs, e.g. ``gpu:a100``; empty: it knows of none.
    """

    name: str
    nodes: int = 1
    cpus: int | None = None
    sockets: int = 1
    threads_per_core: int = 1
    gpus: int = 0
    gpu_model: str = ''
    gres: str = ''


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found: the partitions of Slurm (none without it), GPUs of this machine, and a container platform."""

    slurm: bool
    partitions: tuple[PartitionFacts, ...]
    container_runtime: str = ''


def ask_program(words: Sequence[str]) -> str | None:
    """Run a program and return what it prints."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def survey(ask: Ask = ask_program, which: Callable[[str], str | None] = shutil.which) -> Survey:
    """Ask what is there.

    Raises:
        UserError: Slurm answers, but has no partition that can be used.
    """
    local = local_gpus(ask)
    shown = ask(['scontrol', 'show', 'partition', '--oneliner'])
    runtime = container_runtime(ask, which)
    if shown is None:
        model = local[0] if local else ''
        return Survey(slurm=False, container_runtime=runtime,
                      partitions=(PartitionFacts(name='default', gpus=len(local), gpu_model=model),))
    nodes = ask(['scontrol', 'show', 'node', '--oneliner']) or ''
    partitions = slurm_partitions(shown, nodes, local[0] if local else '')
    if not partitions:
        raise UserError('scontrol: no partition is up; start Slurm, or write the folder by hand')
    return Survey(slurm=True, partitions=tuple(partitions), container_runtime=runtime)


def local_gpus(ask: Ask) -> list[str]:
    """Return the model of each GPU of this machine, as its driver names it."""
    nvidia = ask(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'])
    if nvidia:
        return [line.strip() for line in nvidia.splitlines() if line.strip()]
    amd = ask(['rocm-smi', '--showproductname', '--json'])
    if not amd:
        return []
    try:
        cards = json.loads(amd)
    except ValueError:
        return []
    names = [card.get('Card Series') or card.get('Card series') or card.get('Card model') or 'AMD'
             for key, card in sorted(cards.items()) if key.startswith('card')]
    return [name if name.startswith('AMD') else f'AMD {name}' for name in names]


def container_runtime(ask: Ask, which: Callable[[str], str | None]) -> str:
    """Return the container platform to use; empty: none was found."""
    if '--container-image' in (ask(['srun', '--help']) or ''):
        return 'Pyxis'
    programs = (('Apptainer', 'apptainer'), ('Singularity', 'singularity'), ('Enroot', 'enroot'), ('Docker', 'docker'))
    return next((name for name, program in programs if which(program)), '')


def slurm_partitions(partitions: str, nodes: str, local_model: str) -> list[PartitionFacts]:
    """Return the partitions that are up, described by their largest kind of nodes.

    Args:
        partitions: ``scontrol show partition --oneliner``.
        nodes: ``scontrol show node --oneliner``.
        local_model: GPUs of this machine, which names them better than Slurm does; empty: it has none.
    """
    known = [_fields(line) for line in nodes.splitlines() if line.startswith('NodeName=')]
    found = []
    for line in partitions.splitlines():
        fields = _fields(line)
        if fields.get('State') != 'UP' or 'PartitionName' not in fields:
            continue
        name = fields['PartitionName']
        members = [node for node in known if name in node.get('Partitions', '').split(',')]
        # Partitions of mixed nodes are described by those with most GPUs.
        gres = max((_gpus(node.get('Gres', '')) for node in members), default=('', 0), key=lambda pair: pair[1])
        best = [node for node in members if _gpus(node.get('Gres', '')) == gres]
        sample = best[0] if best else {}
        kind = gres[0].partition(':')[2]
        # Without those that Slurm keeps for itself, where it tells them apart.
        cpus = sample.get('CPUEfctv') or sample.get('CPUTot')
        found.append(PartitionFacts(
            name=name, nodes=len(best) or int(fields.get('TotalNodes', 1)), gres=gres[0], gpus=gres[1],
            cpus=int(cpus) if cpus else None, sockets=int(sample.get('Sockets', 1)),
            threads_per_core=int(sample.get('ThreadsPerCore', 1)),
            gpu_model=(local_model or kind.upper()) if gres[1] else ''))
    return found


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r'(?:^|\s)(\w+)=(\S*)', line))


def _gpus(gres: str) -> tuple[str, int]:
    """Return name and number of GPUs of a node: ``gpu:a100:8(S:0-1),nvme:1`` -> ('gpu:a100', 8).

    The form is ``gpu[:TYPE][:COUNT]``, and a type may be a number, as in ``gpu:3090:4``. Of several types it is the
    most numerous one.
    """
    found = [('', 0)]
    for entry in re.sub(r'\([^)]*\)', '', gres).split(','):
        name, *words = entry.strip().split(':')
        if name == 'gpu':
            count = int(words.pop()) if words and words[-1].isdigit() else 1
            found.append((':'.join([name, *words]), count))
    return max(found, key=lambda pair: pair[1])
