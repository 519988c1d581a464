"""Container platforms under one contract, so that a run is the same in each of them.

Inside every container

* the stage directory is ``/rfm_workdir``, writable, and the working directory;
* datasets and weights have the path that they have outside, and cannot be written;
* variables that the job sets win over those of the image, and Slurm's reach every rank;
* ``MLPERF_DET_IMAGE`` and ``MLPERF_DET_IMAGE_DIGEST`` say which image it is, for run.json.

Singularity, Apptainer and Docker are ReFrame's own platforms; Pyxis and plain Enroot are added here. A partition names
its platform with ``extras['container_runtime']``, or has ReFrame's ``container_platforms``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import reframe.core.containers as rfm_containers
from reframe.core.containers import ContainerPlatform

from mlperf_det.errors import UserError
from mlperf_det.rfm import launch

WORKDIR = '/rfm_workdir'
IMAGE_VARIABLE = 'MLPERF_DET_IMAGE'
DIGEST_VARIABLE = 'MLPERF_DET_IMAGE_DIGEST'
#: Variables of Slurm from which a rank learns its place, and the GPUs it was given.
SLURM_VARIABLES = ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_NODEID', 'SLURM_NNODES', 'SLURM_JOB_ID',
                   'SLURM_STEP_ID', 'SLURM_JOB_NODELIST', 'SLURM_STEP_NODELIST', 'SLURM_RESTART_COUNT',
                   'SLURM_STEP_GPUS', 'SLURM_JOB_GPUS', 'CUDA_VISIBLE_DEVICES', 'ROCR_VISIBLE_DEVICES')
#: Variables that the job script sets in every run.
JOB_VARIABLES = ('MASTER_ADDR', 'MASTER_PORT', IMAGE_VARIABLE, DIGEST_VARIABLE)


class Pyxis(ContainerPlatform):
    """Enroot by Slurm's plugin Pyxis: options of ``srun``, so it stands right behind the launcher."""

    #: Variables of the job that win over the image's.
    environment: Sequence[str] = ()

    def emit_prepare_commands(self, stagedir: str) -> list[str]:
        """Nothing: the image is imported by the plugin."""
        return []

    def launch_command(self, stagedir: str) -> str:
        """Return the options of srun, and the command."""
        mounts = ','.join(_pyxis_mount(*pair) for pair in [*self.mount_points, (stagedir, WORKDIR)])
        words = [f'--container-image={shlex.quote(str(self.image))}', f'--container-mounts={shlex.quote(mounts)}',
                 f'--container-workdir={WORKDIR}', '--no-container-mount-home',
                 f'--container-env={",".join(self.environment)}', *self.options, str(self.command)]
        return '\\\n    ' + ' \\\n    '.join(words[:-1]) + f' {words[-1]}'


class Enroot(ContainerPlatform):
    """Enroot without Pyxis: every task starts the image by itself."""

    #: Variables of the job that the container gets.
    environment: Sequence[str] = ()

    def emit_prepare_commands(self, stagedir: str) -> list[str]:
        """Nothing: a squashfs file is started as it is."""
        return []

    def launch_command(self, stagedir: str) -> str:
        """Return the command line."""
        mounts = [f'--mount={shlex.quote(_enroot_mount(*pair))}' for pair in self.mount_points]
        mounts.append(f'--mount={shlex.quote(_enroot_mount(stagedir, WORKDIR))}')
        # Enroot has no option for the working directory.
        enter = f"sh -c 'cd {WORKDIR} && exec \"$@\"' sh"
        names = [f'--env={name}' for name in self.environment]
        image = shlex.quote(str(self.image))
        return launch.wrap(['enroot', 'start', *mounts, *names, *self.options, image, enter]) + f' {self.command}'


class Singularity(rfm_containers.Singularity):
    """ReFrame's own platform, on lines that a human can read."""

    def launch_command(self, stagedir: str) -> str:
        """Return the command line."""
        return _one_mount_a_line(super().launch_command(_in_double_quotes(stagedir)))


class Apptainer(rfm_containers.Apptainer):
    """ReFrame's own platform, on lines that a human can read."""

    def launch_command(self, stagedir: str) -> str:
        """Return the command line."""
        return _one_mount_a_line(super().launch_command(_in_double_quotes(stagedir)))


class Docker(rfm_containers.Docker):
    """ReFrame's own platform, on lines that a human can read."""

    def launch_command(self, stagedir: str) -> str:
        """Return the command line."""
        return _one_mount_a_line(super().launch_command(_in_double_quotes(stagedir)))


#: Name in site configurations -> class; in the order in which `mlperf-det new-site` looks for them.
PLATFORMS: Mapping[str, type[ContainerPlatform]] = MappingProxyType({
    'Pyxis': Pyxis, 'Apptainer': Apptainer, 'Singularity': Singularity, 'Enroot': Enroot, 'Docker': Docker})
#: Name of no container at all.
NONE = 'none'


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a container must offer.

    Attributes:
        image: absolute path of an image file; for Docker, or a registry reference for Pyxis, a name.
        read_only: folders that have the same path inside.
        environment: names of variables that the site and the check set, besides `JOB_VARIABLES`.
        gpu_vendor: 'nvidia', 'amd', or '' for none.
    """

    image: str
    read_only: Sequence[str] = ()
    environment: Sequence[str] = ()
    gpu_vendor: str = ''

    @property
    def must_win(self) -> tuple[str, ...]:
        """Variables that the job sets and the image must not change."""
        return (*JOB_VARIABLES, *(name for name in self.environment if name not in JOB_VARIABLES))


def create(runtime: str, contract: Contract, command: str) -> ContainerPlatform:
    """Return ReFrame's container platform for a runtime, set up to keep the contract.

    Raises:
        UserError: the runtime is unknown, or the image is nothing that it can start.
    """
    if runtime == NONE:
        raise UserError(f'image {contract.image!r}: the partition has no container platform to start it; set '
                        "container_platforms, or extras['container_runtime'], in its site.py")
    try:
        platform = PLATFORMS[runtime]()
    except KeyError:
        raise UserError(f'container_runtime {runtime!r}: choose from {", ".join(PLATFORMS)}') from None
    _check_image(runtime, contract.image)
    platform.command = command
    platform.workdir = platform.mount_stagedir = WORKDIR
    if isinstance(platform, (Pyxis, Enroot)):
        platform.image = contract.image
        platform.environment = (*contract.must_win, *SLURM_VARIABLES)
        platform.mount_points = [(folder, f'{folder}:ro') for folder in contract.read_only]
        return platform
    platform.image = shlex.quote(contract.image)
    # ReFrame writes mounts between double quotes.
    platform.mount_points = [(_in_double_quotes(folder), f'{_in_double_quotes(folder)}:ro')
                             for folder in contract.read_only]
    if isinstance(platform, Docker):
        platform.pull_image = False
        platform.options = _docker_options(contract)
    else:
        platform.options = ['\\\n    --no-home', *_GPU_OPTION[contract.gpu_vendor]]
    return platform


def environment_lines(runtime: str, contract: Contract, *, identify: bool = True) -> list[str]:
    """Return the script lines that name the image, and that let the job's variables win inside the container.

    Args:
        runtime: name of the platform.
        contract: what it must keep.
        identify: whether the image is named for run.json, which reads all of it.
    """
    image = shlex.quote(contract.image)
    lines = [] if not identify else [
        '', '# Which image this is goes into run.json: its path, and the checksum of what really runs.',
        f'export {IMAGE_VARIABLE}={image}', f'export {DIGEST_VARIABLE}={_digest_command(runtime, contract.image)}']
    if runtime in _ENVIRONMENT_PREFIX:
        prefix = _ENVIRONMENT_PREFIX[runtime]
        lines += ['', '# What the job sets wins over what the image sets.',
                  f'for name in {" ".join(contract.must_win)}; do',
                  f'  [ -z "${{!name+set}}" ] || export "{prefix}_$name=${{!name}}"', 'done']
    return lines


_ENVIRONMENT_PREFIX: Mapping[str, str] = MappingProxyType({
    'Singularity': 'SINGULARITYENV', 'Apptainer': 'APPTAINERENV'})
_GPU_OPTION: Mapping[str, tuple[str, ...]] = MappingProxyType({'': (), 'nvidia': ('--nv',), 'amd': ('--rocm',)})


def _docker_options(contract: Contract) -> list[str]:
    devices: Mapping[str, list[str]] = {
        '': [], 'nvidia': ['--gpus=all'], 'amd': ['--device=/dev/kfd', '--device=/dev/dri', '--group-add=video']}
    names = [f'--env={name}' for name in (*contract.must_win, *SLURM_VARIABLES)]
    # Ranks meet over the host's network, loaders share memory, InfiniBand locks it; numactl may bind memory only where
    # SYS_NICE is given. The image does not know the user, so its name and a home that can be written are told.
    words = ['--network=host', '--ipc=host', '--ulimit=memlock=-1', '--ulimit=stack=67108864', '--cap-add=SYS_NICE',
             '--init', '--user="$(id -u):$(id -g)"', '--env=USER=mlperf-det', '--env=HOME=/tmp',
             *devices[contract.gpu_vendor], *names]
    return [f'\\\n    {launch.wrap(words)} \\\n   ']


def _digest_command(runtime: str, image: str) -> str:
    pinned = re.search(r'@(sha256:[0-9a-f]{64})$', image)
    if pinned:
        return pinned.group(1)
    if runtime == 'Docker':
        return f'"$(docker image inspect --format "{{{{.Id}}}}" {shlex.quote(image)})"'
    return f'"sha256:$(sha256sum < {shlex.quote(image)} | cut -d " " -f 1)"'


def _check_image(runtime: str, image: str) -> None:
    if runtime == 'Docker' or (runtime == 'Pyxis' and re.search(r'@sha256:[0-9a-f]{64}$', image)):
        return
    if not PurePosixPath(image).is_absolute():
        hint = ', or a registry reference that ends with @sha256:...' if runtime == 'Pyxis' else ''
        raise UserError(f'image {image!r}: {runtime} needs the absolute path of an image file{hint}')


def _pyxis_mount(source: str, destination: str) -> str:
    for part in (source, destination):
        if ',' in part:
            raise UserError(f'mount {part!r}: Pyxis separates mounts by commas; use a path without one')
    return f'{source}:{destination}'


def _enroot_mount(source: str, destination: str) -> str:
    place, _, mode = destination.partition(':')
    return f'{source}:{place}:none:x-create=auto,bind,{mode or "rw"}'


def _one_mount_a_line(command: str) -> str:
    # Mounts are absolute paths between double quotes, and double quotes in them are escaped.
    return re.sub(r' (-B"/|-v "/)', r' \\\n    \1', command)


def _in_double_quotes(text: str) -> str:
    return re.sub(r'([$`"\\])', r'\\\1', text)


def runtime_of(partition: Any, asked: str = '') -> str:
    """Return the name of the container runtime of a partition; `NONE` where it has none.

    Args:
        partition: ReFrame's partition.
        asked: what the user asks for, which wins.
    """
    configured = partition.extras.get('container_runtime')
    if asked or configured:
        return str(asked or configured)
    default = getattr(partition, 'container_runtime', None) or next(iter(partition.container_environs), None)
    return str(default or NONE)
