"""The facts of an experiment that somebody needs to repeat or to explain it: hosts, devices, software, image."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.cuda import nccl

from mlperf_det import __version__

#: packages whose version can change a result or its speed
_PACKAGES = ('torchvision', 'numpy', 'hotcoco', 'pycocotools', 'simplejpeg', 'pillow', 'mlperf-logging', 'reframe-hpc')
_ENVIRONMENT = re.compile(r'(SLURM|NCCL|RCCL|TORCH|OMP|MKL|KMP|CUDA|HIP|ROCR|ROCM|MIOPEN|CUBLAS|CUDNN|GLOO|UCX|FI|MPICH'
                          r'|OMPI|MASTER|MLPERF_DET)_|(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE)$')
#: parts of variable names whose values are not recorded
_SECRET = re.compile(r'TOKEN|SECRET|PASSW|KEY|CREDENTIAL|JWT|COOKIE', re.IGNORECASE)


def describe_rank(rank: int, device: torch.device) -> dict[str, Any]:
    """Return what one rank knows of its host and device; `merge_hosts` makes host entries of them.

    Keys: host, rank, device (model, or None on CPU), device_id (unique over hosts, or None), device_memory (bytes),
    cpu, cpus (this process may use), cpus_total, memory (bytes).
    """
    facts: dict[str, Any] = {
        'host': socket.gethostname(), 'rank': rank, 'device': None, 'device_id': None, 'device_memory': None,
        'cpu': cpu_model(), 'cpus': len(os.sched_getaffinity(0)), 'cpus_total': os.cpu_count(),
        'memory': os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')}
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        # Vendors' builds without uuid: host and index identify a device as long as ranks share no renumbered view.
        identity = getattr(properties, 'uuid', None) or f'{facts["host"]}:{device.index}'
        facts |= {'device': properties.name, 'device_id': str(identity), 'device_memory': properties.total_memory}
    return facts


def merge_hosts(ranks: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return one entry a host from the facts of all ranks: name, ranks, devices, cpu, cpus, memory (bytes)."""
    hosts: dict[str, dict[str, Any]] = {}
    for facts in ranks:
        host = hosts.setdefault(facts['host'], {
            'name': facts['host'], 'ranks': [], 'devices': [], 'cpu': facts['cpu'], 'cpus': facts['cpus_total'],
            'memory': facts['memory']})
        host['ranks'].append(facts['rank'])
        if facts['device']:
            host['devices'].append(facts['device'])
    return tuple(hosts.values())


def cpu_model(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """Return the name of the CPU; the architecture where the system does not tell."""
    try:
        match = re.search(r'^(?:model name|Model|cpu)\s*:\s*(.+)$', cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.machine()


def software_versions(device: torch.device) -> dict[str, str]:
    """Return the versions of everything between the recipe and the silicon; what is absent is left out."""
    found = {'mlperf-det': __version__, 'python': platform.python_version(), 'torch': str(torch.__version__),
             'kernel': platform.release()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if commit := git_commit(Path(__file__).resolve().parents[3]):
        found['git_commit'] = commit
    if device.type == 'cuda':
        found |= _gpu_versions()
    return found


def git_commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, with ``-dirty`` when files differ; None outside a checkout."""
    if not (checkout / '.git').exists():
        return None
    try:
        answer = subprocess.run(['git', '-C', str(checkout), 'describe', '--always', '--abbrev=40', '--dirty',
                                 '--match', ''], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _gpu_versions() -> dict[str, str]:
    found = {'hip': torch.version.hip or '', 'cuda': torch.version.cuda or '',
             'cudnn': str(torch.backends.cudnn.version() or '')}  # type: ignore[no-untyped-call]
    if torch.distributed.is_nccl_available():
        found['nccl'] = '.'.join(map(str, nccl.version()))  # type: ignore[no-untyped-call]
    for path, pattern in ((Path('/proc/driver/nvidia/version'), r'Kernel Module(?: for \S+)?\s+(\S+)'),
                          (Path('/sys/module/amdgpu/version'), r'(\S+)')):
        if path.is_file() and (match := re.search(pattern, path.read_text())):
            found['driver'] = match.group(1)
    return {name: value for name, value in found.items() if value}


def container_image(environ: Mapping[str, str]) -> dict[str, str | None] | None:
    """Return path and digest of the container image this process runs in; None outside a container.

    The digest is that of ``MLPERF_DET_IMAGE_DIGEST``, which whoever starts the container sets: an image cannot know
    its own.
    """
    path = environ.get('APPTAINER_CONTAINER') or environ.get('SINGULARITY_CONTAINER') or environ.get(
        'MLPERF_DET_IMAGE')
    digest = environ.get('MLPERF_DET_IMAGE_DIGEST')
    return {'path': path, 'digest': digest} if path or digest else None


def relevant_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that steer launchers, communication and numeric libraries, without secrets."""
    return {name: environ[name] for name in sorted(environ)
            if _ENVIRONMENT.match(name) and not _SECRET.search(name)}


def duplicate_devices(ranks: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return pairs of ranks that hold the same GPU, which no collective operation would survive."""
    owner: dict[str, int] = {}
    pairs = []
    for facts in ranks:
        if facts['device_id'] is None:
            continue
        if facts['device_id'] in owner:
            pairs.append((owner[facts['device_id']], facts['rank']))
        owner.setdefault(facts['device_id'], facts['rank'])
    return pairs
