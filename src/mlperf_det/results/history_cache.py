"""What was read of run folders before, so that a history of thousands is listed at once.

The cache is no source of truth. An entry counts as long as the files of its run folder are those it was made from (by
name, size, inode and time of change) and the program is the one that made it; the file may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from mlperf_det import __version__
from mlperf_det.results.history_record import Record
from mlperf_det.run_folder import write_atomically

#: name, size, inode and time of change of each file of a run folder
Stamp = tuple[tuple[str, int, int, int], ...]


class _Entry(msgspec.Struct, array_like=True):
    """Made from files of this stamp."""

    stamp: Stamp
    records: list[Record]


class _Content(msgspec.Struct):
    program: str
    entries: dict[str, _Entry]


class HistoryCache:
    """The cache of the run folders below some paths; `save` keeps what was read anew.

    Args:
        paths: that the history is read from; each choice of paths has a file of its own.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        names = '\0'.join(sorted(str(path.absolute()) for path in paths))
        self._file = _folder() / f'history-{hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()}'
        self._known = self._load()
        self._used: dict[str, _Entry] = {}

    def records(self, folders: Sequence[Path], read: Callable[[Sequence[Path]], list[list[Record]]]) -> list[Record]:
        """Return the records of run folders: as they were, or read anew where their files have changed.

        Args:
            folders: each once.
            read: returns the records of each folder it is given.
        """
        found = {str(folder): _stamp(folder) for folder in folders}
        self._used = {name: self._known[name] for name, stamp in found.items()
                      if name in self._known and self._known[name].stamp == stamp}
        new = [folder for folder in folders if str(folder) not in self._used]
        for folder, records in zip(new, read(new), strict=True):
            self._used[str(folder)] = _Entry(found[str(folder)], records)
        return [record for name in found for record in self._used[name].records]

    def save(self) -> None:
        """Keep what was read, unless all of it was known; a place that cannot be written to keeps nothing."""
        if self._used == self._known:
            return
        content = msgspec.msgpack.encode(_Content(program=_program(), entries=self._used))
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, content)

    def _load(self) -> Mapping[str, _Entry]:
        try:
            content = msgspec.msgpack.decode(self._file.read_bytes(), type=_Content)
        except (OSError, msgspec.DecodeError):
            return {}
        return content.entries if content.program == _program() else {}


def _folder() -> Path:
    base = os.environ.get('XDG_CACHE_HOME')
    return Path(base) / 'mlperf-det' if base else Path('~/.cache/mlperf-det').expanduser()


def _stamp(folder: Path) -> Stamp:
    found = []
    with suppress(OSError), os.scandir(folder) as entries:    # one that cannot be listed is the reader's to report
        for entry in entries:
            if entry.is_file():
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_ino, status.st_mtime_ns))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1)
def _program() -> str:
    """Return the version, and when the code that reads runs was last changed: also of a checkout under development."""
    code = Path(__file__).parents[1]
    newest = max(path.stat().st_mtime_ns for room in ('mllog', 'results') for path in (code / room).glob('*.py'))
    return f'{__version__} {newest}'
