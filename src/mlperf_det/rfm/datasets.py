"""The dataset of a training check, as a fixture: generated once and kept, or the site's own; verified either way."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import reframe as rfm
import reframe.core.runtime as rt
from reframe.core.builtins import parameter, run_after, run_before, sanity_function, variable
from reframe.core.exceptions import SanityError

import mlperf_det
from mlperf_det.errors import UserError
from mlperf_det.rfm import site
from mlperf_det.rfm.no_silent_pass import NoSilentPass
from mlperf_det.rfm.own_folders import OwnFolders, session_folders
from mlperf_det.rfm.user_errors import user_errors

#: Where generated datasets are kept between sessions, before the system's ``resourcesdir`` and ReFrame's stage folder.
CACHE_VARIABLE = 'MLPERF_DET_CACHE'
#: Cards of datasets that ``mlperf-det data generate`` makes; all others are the site's own.
GENERATED = ('generated-coco', 'generated-openimages')
INSTALLED = ('coco2017', 'openimages-mlperf')


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What ``mlperf-det data verify`` found.

    Attributes:
        fingerprint: of the dataset.
        evaluation_images: images of its validation split.
        negative_control: what the dataset declares as spoilt on purpose; empty: nothing.
    """

    fingerprint: str
    evaluation_images: int
    negative_control: str = ''


class training_dataset(rfm.RunOnlyRegressionTest, NoSilentPass, OwnFolders):  # noqa: N801 (ReFrame names tests so)
    """A dataset that ``mlperf-det data verify`` has passed. Checks share it: ``-S training_dataset.VARIABLE=VALUE``.

    A generated one lies in a store under a name made from everything that determines its content, so it is made once
    and never stale. It comes to be under a temporary name; of several sessions that make it at once, the first wins.
    """

    #: Folder of the site's own dataset, as the job sees it. Empty: ``extras['datasets']`` of the partition, else
    #: $MLPERF_DET_DATASETS, else ``datasets`` in the system's ``resourcesdir``; in it a folder named after the card.
    #:
    #: :type: :class:`str`
    data_dir = variable(str, value='')

    #: Folder of a dataset to use in place of the generated one.
    #:
    #: :type: :class:`str`
    generated_dir = variable(str, value='')

    #: Arguments of ``mlperf-det data generate``: seed, number of scenes and so on.
    #:
    #: :type: :class:`str`
    generator_arguments = variable(str, value='')

    card = parameter([*GENERATED, *INSTALLED])
    local = True
    descr = 'verified dataset'
    sourcesdir = None
    executable = sys.executable

    @run_after('setup')
    def locate(self) -> None:
        """Settle where the dataset lies."""
        if self.card in GENERATED:
            self.root = self.generated_dir or str(store() / f'{self.card}-{self._key()}')
        else:
            self.root = self.data_dir or site.dataset_folder(self.current_partition, self.card)

    @run_before('run')
    def generate_unless_there(self) -> None:
        """Make the generated dataset where the store does not have it yet."""
        if self.card not in GENERATED or self.generated_dir:
            return
        python, root = shlex.quote(sys.executable), shlex.quote(self.root)
        arguments = ''.join(f' {shlex.quote(word)}' for word in shlex.split(self.generator_arguments))
        self.prerun_cmds = [
            '# Made under a temporary name and renamed: nobody ever sees half a dataset.',
            f'root={root}',
            'if [ ! -e "$root/dataset.json" ]; then',
            '  new="$root.$(hostname).$$"; trap \'rm -rf "$new"\' EXIT',
            '  mkdir -p "$(dirname "$root")" || exit',
            f'  {python} -m mlperf_det data generate {self.card} --root "$new"{arguments} || exit',
            f'  {python} -m mlperf_det data prepare {self.card} --root "$new" || exit',
            f'  {python} -m mlperf_det data verify {self.card} --root "$new" || exit',
            '  # Where another session was faster, the name is taken, and its dataset is the same as ours.',
            '  mv -T "$new" "$root" || [ -e "$root/dataset.json" ] || exit',
            'fi',
        ]

    @run_before('run')
    def verify(self) -> None:
        """Verify the dataset whoever made it; of installed ones, which are large, read the headers only."""
        quick = [] if self.card in GENERATED else ['--quick']
        self.executable_opts = ['-m', 'mlperf_det', 'data', 'verify', self.card, '--root', shlex.quote(self.root),
                                *quick]

    @sanity_function
    def is_verified(self) -> bool:
        """The manifest that the check relies on is there."""
        with user_errors(SanityError):
            self.verified()
        return True

    def verified(self) -> Verified:
        """Return what the manifest in the dataset's folder says.

        Raises:
            UserError: it is missing or unreadable.
        """
        path = Path(self.root) / 'dataset.json'
        try:
            content = msgspec.json.decode(path.read_bytes())
            return Verified(fingerprint=content['fingerprint'], evaluation_images=content['splits']['val']['images'],
                            negative_control=content.get('negative_control', ''))
        except OSError as error:
            raise UserError(f'{path}: the dataset was not verified ({error.strerror})') from error
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise UserError(f'{path}: is no manifest of `mlperf-det data verify` ({error})') from error

    def _key(self) -> str:
        """Return a name for the content: the code that makes it, this package's version and the arguments."""
        content = hashlib.sha256(f'{mlperf_det.__version__}\n{self.card}\n{self.generator_arguments}\n'.encode())
        for source in sorted((Path(mlperf_det.__file__).parent / 'data').rglob('*.py')):
            content.update(source.read_bytes())
        return content.hexdigest()[:12]


def store() -> Path:
    """Return the folder in which generated datasets outlive the session."""
    runtime = rt.runtime()
    configured = runtime.system.resourcesdir
    place = os.environ.get(CACHE_VARIABLE) or (
        session_folders(runtime).configured_stage if configured in ('', '.') else configured)
    return Path(place).absolute() / 'datasets'
