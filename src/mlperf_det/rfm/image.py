"""The container image of a site, as a fixture: one that lies ready, or one built from this package's own recipe.

A built image is named after everything that determines its content, so it is built once and never stale.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Any

import reframe as rfm
import reframe.core.runtime as rt
from reframe.core.builtins import run_after, run_before, sanity_function, variable
from reframe.core.exceptions import SanityError

import mlperf_det
from mlperf_det.errors import UserError
from mlperf_det.rfm import containers
from mlperf_det.rfm.constants import Extra
from mlperf_det.rfm.no_silent_pass import NoSilentPass
from mlperf_det.rfm.own_folders import OwnFolders
from mlperf_det.rfm.user_errors import user_errors

#: Stands in ``extras['image']`` for an image that the fixture builds.
BUILD = 'build'
#: What an image is made of, relative to the checkout. Sites' folders are not: an image would be another one with every
#: new reference, which carries the digest of the image that it was measured in.
BUILD_INPUTS = ('Singularity.def', 'Dockerfile', 'images', 'src', 'pyproject.toml', 'README.md', 'LICENSE',
                'datasets', 'systems/local', 'checks')
_SIF = ('Singularity', 'Apptainer')
_SUFFIX = {'Singularity': 'sif', 'Apptainer': 'sif', 'Pyxis': 'sqsh', 'Enroot': 'sqsh'}


class training_image(rfm.RunOnlyRegressionTest, NoSilentPass, OwnFolders):  # noqa: N801 (ReFrame names tests so)
    """The image of the partition: checked where it lies ready, else built. Without one there is nothing to do."""

    #: Base image to build from; the one of images/image.env where empty. A change of it changes the image's name.
    #:
    #: :type: :class:`str`
    image_base = variable(str, value='')

    #: Further options of the program that builds, as ``--fakeroot`` of Apptainer.
    #:
    #: :type: :class:`str`
    build_options = variable(str, value='')

    local = True
    descr = 'container image'
    sourcesdir = None
    executable = 'true'
    time_limit = '3h'

    @run_after('setup')
    def locate(self) -> None:
        """Settle which image it is."""
        configured = str(self.current_partition.extras.get(Extra.IMAGE, ''))
        self.runtime = containers.runtime_of(self.current_partition)
        self.path = configured
        if configured == BUILD:
            with user_errors():
                self.path = self._built_image()

    @run_before('run')
    def build_unless_there(self) -> None:
        """Build the image where the store does not have it; ask for it where it must be there."""
        if not self.path:
            self.descr = 'no container image: checks run in the Python of this installation'
        elif self.current_partition.extras.get(Extra.IMAGE) == BUILD:
            self.prerun_cmds = build_commands(self.runtime, self.path, base=self.image_base,
                                              options=shlex.split(self.build_options))
        else:
            self.executable, self.executable_opts = presence_command(self.runtime, self.path)

    @sanity_function
    def is_there(self) -> bool:
        """The image can be read."""
        if self.path.startswith('/') and not Path(self.path).is_file():
            raise SanityError(f"{self.path}: is no file; correct extras['image'] of the partition")
        return True

    def no_silent_pass_explain(self) -> str:
        """Return which image is missing, or the last word of the program that built it."""
        last = str(super().no_silent_pass_explain())
        if self.current_partition.extras.get(Extra.IMAGE) == BUILD:
            return f'{self.path} was not built: {last}'
        return f"{self.path}: cannot be read; correct extras['image'] of the partition" + (f' ({last})' if last else '')

    def _built_image(self) -> str:
        name = f'mlperf-det-{mlperf_det.__version__}-{content_key(checkout(), self.image_base)}'
        if self.runtime == 'Docker':
            return f'mlperf-det:{mlperf_det.__version__}-{name.rpartition("-")[2]}'
        if self.runtime not in _SUFFIX:
            raise UserError(f"extras['image'] is {BUILD!r}, but the partition has no container platform to build for")
        folder = self.current_partition.extras.get(Extra.IMAGES) or f'{rt.runtime().system.resourcesdir}/images'
        return str(Path(folder).absolute() / f'{name}.{_SUFFIX[self.runtime]}')


def checkout() -> Path:
    """Return the folder with the recipes of the image.

    Raises:
        UserError: this installation is not a checkout.
    """
    folder = Path(mlperf_det.__file__).resolve().parents[2]
    if not (folder / 'Singularity.def').is_file():
        raise UserError(f'{folder}: has no Singularity.def; images are built from a checkout of mlperf-det, '
                        "or name a ready one in extras['image']")
    return folder


def content_key(folder: Path, base: str) -> str:
    """Return twelve digits that change with anything that an image is built from.

    Args:
        folder: of the checkout.
        base: base image where it is not that of the recipes.
    """
    content = hashlib.sha256(base.encode())
    for name in BUILD_INPUTS:
        path = folder / name
        files = [path] if path.is_file() else sorted(path.rglob('*'))
        for file in files:
            if file.is_file() and '__pycache__' not in file.parts:
                content.update(f'\0{file.relative_to(folder).as_posix()}\0'.encode())
                content.update(file.read_bytes())
    return content.hexdigest()[:12]


def build_commands(runtime: str, image: str, *, base: str, options: list[str]) -> list[str]:
    """Return the script lines that build an image unless it is there, under a temporary name."""
    quoted, folder = shlex.quote(image), shlex.quote(str(checkout()))
    extra = ''.join(f' {shlex.quote(option)}' for option in options)
    argument = f' --build-arg {shlex.quote(f"BASE={base}")}' if base else ''
    # A Dockerfile cannot ask what it has installed; Singularity.def does.
    versioned = f'{argument} --build-arg VERSION={mlperf_det.__version__}'
    if runtime == 'Docker':
        return ['# The name says what the image was made of, so one that is there is the right one.',
                f'docker image inspect {quoted} > /dev/null 2>&1 || \\',
                f'  docker build{versioned}{extra} --tag {quoted} {folder} || exit']
    return [
        '# Built under a temporary name and renamed: nobody ever sees half an image. The lock lets sessions that start',
        '# together wait for the first; where the file system has no locks, each builds, and the last name wins.',
        f'image={quoted}', 'mkdir -p "$(dirname "$image")" || exit', 'exec 9> "$image.lock"; flock 9 || true',
        'if [ ! -e "$image" ]; then',
        '  new="$image.$(hostname).$$"; trap \'rm -f "$new"\' EXIT',
        *(f'  {line}' for line in _build_lines(runtime, folder, argument if runtime in _SIF else versioned, extra)),
        '  mv -T "$new" "$image" || exit',
        'fi']


def _build_lines(runtime: str, folder: str, argument: str, extra: str) -> list[str]:
    if runtime in _SIF:
        # The recipe copies files from the folder it is run in.
        return [f'( cd {folder} && {runtime.lower()} build{argument}{extra} "$new" Singularity.def ) || exit']
    tag = '"mlperf-det-build:$$"'
    return [f'docker build{argument}{extra} --tag {tag} {folder} || exit',
            f'enroot import --output "$new" dockerd://{tag} || exit', f'docker image rm {tag} > /dev/null']


def presence_command(runtime: str, image: str) -> tuple[str, list[Any]]:
    """Return the command that fails, with a reason, where a ready image is not there."""
    if runtime == 'Docker':
        return 'docker', ['image', 'inspect', '--format', '"{{.Id}}"', shlex.quote(image)]
    if not image.startswith('/'):
        return 'true', []
    # Unlike `test -r` it says what is wrong, and that becomes the reason of the failure.
    return 'head', ['--bytes=1', shlex.quote(image), '> /dev/null']
