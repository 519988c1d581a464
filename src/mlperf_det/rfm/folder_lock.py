"""Locks on folders that several processes may want at once: who comes second gets another folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import IO

from mlperf_det.errors import UserError

LOCK_FILE = '.session'
#: Sessions that may run in one place at a time.
MOST_SESSIONS = 100


def take(folder: Path) -> tuple[Path, IO[bytes]]:
    """Lock a folder, or the first of ``folder-2``, ``folder-3``... that nobody has; return it with its lock.

    Where the file system has no locks, the folder is named after this process.

    Raises:
        UserError: the folder cannot be written, or all are taken.
    """
    for number in range(1, MOST_SESSIONS + 1):
        place = folder if number == 1 else folder.with_name(f'{folder.name}-{number}')
        lock = _open(place)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.close()
            continue
        except OSError:
            lock.close()
            place = folder.with_name(f'{folder.name}-{socket.gethostname()}-{os.getpid()}')
            return place, _open(place)
        return place, lock
    raise UserError(f'{folder}: {MOST_SESSIONS} sessions are at work there; give this one a folder of its own')


def _open(place: Path) -> IO[bytes]:
    try:
        place.mkdir(parents=True, exist_ok=True)
        return (place / LOCK_FILE).open('ab')
    except OSError as error:
        raise UserError(f'{place}: cannot be written ({error.strerror}); choose another place') from error
