"""``python -m mlperf_det.rfm.node_facts``: what a compute node offers, as JSON on stdout.

Each fact stands on its own: one that cannot be had is null, and its reason is under ``errors``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIB = 1 << 30
#: Where the kernel shows adapters that read and write memory by themselves: InfiniBand, RoCE.
RDMA_ADAPTERS = Path('/sys/class/infiniband')
#: Compiled modules that training, evaluation and image decoding stand on.
COMPILED_MODULES = ('numpy', 'torch', 'torchvision', 'pycocotools._mask', 'hotcoco', 'simplejpeg', 'PIL._imaging')
DISTRIBUTIONS = ('mlperf-det', 'torch', 'torchvision', 'numpy', 'pycocotools', 'hotcoco', 'simplejpeg', 'pillow',
                 'mlperf-logging', 'reframe-hpc')


def disk_free_gib() -> float:
    """Return the free space for this user where the job runs, in GiB."""
    status = os.statvfs('.')
    return status.f_bavail * status.f_frsize / GIB


def shared_memory_free_gib() -> float:
    """Return the free space of /dev/shm, through which image loaders pass batches, in GiB."""
    status = os.statvfs('/dev/shm')  # noqa: S108 (it is the place itself that is measured)
    return status.f_bavail * status.f_frsize / GIB


def memory_gib() -> float:
    """Return the memory this job may use: what the kernel has available, or less where a cgroup limits it, in GiB."""
    available = next(int(line.split()[1]) * 1024 for line in Path('/proc/meminfo').read_text().splitlines()
                     if line.startswith('MemAvailable:'))
    limits = [available, *(limit for limit in map(_cgroup_room, _cgroup_folders()) if limit is not None)]
    return min(limits) / GIB


def cpus() -> int:
    """Return the processors this job may use."""
    return len(os.sched_getaffinity(0))


def open_files_limit() -> int:
    """Return the most files a process may have open (soft limit raised to the hard one, as loaders may do); -1: any."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def locked_memory_limit_gib() -> float:
    """Return how much memory a process may lock for InfiniBand and the like, in GiB; -1: any, or no such adapter."""
    if not any(RDMA_ADAPTERS.glob('*')):
        return -1.0
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    return -1.0 if limit == resource.RLIM_INFINITY else limit / GIB


def clock_rate_error() -> float:
    """Return by what fraction the wall clock runs faster than the monotonic one; a sane one keeps to 1e-3 or so."""
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(0.5)
    return (time.time() - wall) / (time.monotonic() - monotonic) - 1


def clock_lead_seconds() -> float:
    """Return how far the node's clock is ahead of the file system's, as a new file in the job's folder shows."""
    with tempfile.NamedTemporaryFile(dir='.') as stream:
        before = time.time()
        os.utime(stream.fileno())
        stamp = Path(stream.name).stat().st_mtime
        return (before + time.time()) / 2 - stamp


def clock_after_release() -> bool:
    """Say whether the clock is later than the newest file of this package: a clock that fell back to 1970 is not."""
    newest = max(path.stat().st_mtime for path in Path(__file__).parents[1].rglob('*.py'))
    return time.time() > newest - 24 * 3600


def versions() -> dict[str, str | None]:
    """Return the installed version of each package that a run depends on; None: not installed."""
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def broken_modules() -> dict[str, str]:
    """Return the compiled modules that cannot be imported, each with its error."""
    broken = {}
    for name in COMPILED_MODULES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            broken[name] = _first_line(error)
    if 'torchvision' not in broken:
        # torchvision imports without its compiled operators and fails only when one is called.
        try:
            importlib.import_module('torch').ops.torchvision.nms  # noqa: B018 (the look-up is the probe)
        except (AttributeError, RuntimeError) as error:
            broken['torchvision'] = _first_line(error)
    return broken


def compiler() -> str | None:
    """Return the C++ compiler that ``torch.compile`` would use; None: there is none."""
    return next((path for path in map(shutil.which, ('c++', 'g++', 'clang++')) if path), None)


def gpu_models() -> list[str]:
    """Return the model of each GPU that torch can use, after using each once."""
    torch = importlib.import_module('torch')
    models = []
    for index in range(torch.cuda.device_count()):
        ones = torch.ones(1024, device=f'cuda:{index}')
        if float((ones + ones).sum()) != 2048:
            raise RuntimeError(f'GPU {index} adds wrongly')
        models.append(torch.cuda.get_device_name(index))
    return models


FACTS: dict[str, Callable[[], Any]] = {
    function.__name__: function for function in (
        disk_free_gib, shared_memory_free_gib, memory_gib, cpus, open_files_limit, locked_memory_limit_gib,
        clock_rate_error, clock_lead_seconds, clock_after_release, versions, broken_modules, compiler)}


def collect(*, gpus: bool) -> dict[str, Any]:
    """Return all facts of this node."""
    wanted = {**FACTS, **({'gpu_models': gpu_models} if gpus else {})}
    facts: dict[str, Any] = {'host': socket.gethostname(), 'machine': platform.machine(),
                             'python': platform.python_version(), 'errors': {}}
    for name, function in wanted.items():
        try:
            facts[name] = function()
        except Exception as error:  # noqa: BLE001 (one broken fact must not hide the others)
            facts[name] = None
            facts['errors'][name] = f'{type(error).__name__}: {error}'
    return facts


def main() -> int:
    """Print the facts."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--gpus', action='store_true', help='use each GPU as well')
    sys.stdout.write(json.dumps(collect(gpus=parser.parse_args().gpus), indent=2) + '\n')
    return 0


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _cgroup_folders() -> list[Path]:
    """Return the folders of this process's cgroup (v2) from its own up to the root."""
    entry = next((line[3:] for line in Path('/proc/self/cgroup').read_text().splitlines() if line.startswith('0::')),
                 None)
    root = Path('/sys/fs/cgroup')
    if entry is None:
        return []
    own = root / entry.lstrip('/')
    return [folder for folder in [own, *own.parents] if folder == root or root in folder.parents]


def _cgroup_room(folder: Path) -> int | None:
    try:
        limit = (folder / 'memory.max').read_text().strip()
        return None if limit == 'max' else int(limit) - int((folder / 'memory.current').read_text())
    except (OSError, ValueError):
        return None


if __name__ == '__main__':
    sys.exit(main())
