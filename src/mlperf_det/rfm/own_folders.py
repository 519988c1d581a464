"""The plugin that gives every ReFrame session folders of its own, even where several start together in one place.

ReFrame clears a case's stage and output folder when it sets the case up. A second session with the same prefix would
so take the folder from under a running job. Here the first session locks the site's folders and the next one moves
to ``stage-2`` and ``output-2``; the lock goes with the session, so sessions that follow each other share the folders.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import reframe as rfm
import reframe.core.runtime as rt
from reframe.core.builtins import run_before
from reframe.core.exceptions import ReframeError
from reframe.core.logging import getlogger

from mlperf_det.errors import UserError
from mlperf_det.rfm.folder_lock import take


class OwnFolders(rfm.RegressionTestPlugin):
    """Settles the folders of the session before a case gets any. Nothing is to be set."""

    @run_before('setup')
    def own_folders_take(self) -> None:
        """Lock the folders, or move to others."""
        try:
            session_folders(rt.runtime())
        except UserError as error:
            raise ReframeError(f'{error} (--prefix)') from None


@dataclass(frozen=True, kw_only=True)
class SessionFolders:
    """Where a session works.

    Attributes:
        configured_stage: the site's stage folder, which sessions may share.
        locks: of the folders taken; held as long as they are open.
    """

    configured_stage: Path
    locks: tuple[IO[bytes], ...]


@functools.cache
def session_folders(runtime: Any) -> SessionFolders:
    """Take the folders of a session, once; they are its own until it ends.

    Args:
        runtime: ReFrame's; its stage and output folder are changed where another session has them.

    Raises:
        UserError: a folder cannot be written, or a hundred sessions run in it.
    """
    configured = Path(runtime.stage_prefix)
    locks = []
    for option, folder in (('stagedir', configured), ('outputdir', Path(runtime.output_prefix))):
        own, lock = take(folder)
        locks.append(lock)
        if own != folder:
            # What the command line sets, it sets in the same way.
            runtime.site_config.add_sticky_option(f'systems/{option}', str(own))
            getlogger().info(f'{folder}: another session is at work there; this one uses {own}')
    return SessionFolders(configured_stage=configured, locks=tuple(locks))
