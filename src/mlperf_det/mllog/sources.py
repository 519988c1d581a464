"""Find logs and what lies beside them in files, folders, archives and ReFrame sessions; nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import IO

from mlperf_det.errors import UserError
from mlperf_det.mllog.decompress import COMPRESSED, decompressed, open_stream
from mlperf_det.reframe_sessions import is_session, kept_runs, split_session

_TAR = re.compile(r'\.(?:tar(?:\.(?:gz|xz|bz2|zst))?|tgz|txz|tbz2|tzst)$')
_ZIP = '.zip'
#: ``result_3.txt``, also as a hidden partial copy such as ``.!65506!result_4.txt``
_LOG = re.compile(r'(?:\..*)?result_[^/]*\.txt')
#: archive of logs that a report leaves beside it
EVIDENCE = 'evidence.zip'
COMPANIONS = frozenset({'scaling.json', 'system.json', 'run.json', 'metrics.jsonl'})
#: what a damaged archive or compressed file raises
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
#: flag of a ZIP member that needs a password
_ENCRYPTED = 1


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file found. `open` may be called once, before the next file is asked for (archives are streams).

    Attributes:
        path: where it lies; members of an archive lie below the archive's path. Without a compression suffix.
        is_log: False for a companion (`COMPANIONS` and system descriptions).
        problem: why the file cannot be read; empty for a good one.
        on_disk: it lies at `path` itself, neither compressed nor in an archive.
    """

    path: PurePath
    is_log: bool
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    problem: str = ''
    on_disk: bool = False


def find(paths: Iterable[Path], skip: Callable[[Path], bool] = lambda folder: False) -> Iterator[SourceFile]:
    """Yield logs and companions below ``paths``, in natural order (``result_2`` before ``result_10``).

    A file named explicitly is a log, an archive of logs, or a ReFrame session (see `sessions`), of which the run
    folders that its test cases kept are searched. Folders are searched for ``result_*.txt``; symbolic links are
    followed, each folder is visited once.

    Args:
        paths: logs, folders, archives, sessions.
        skip: says of a folder below them that it is of no interest.

    Raises:
        UserError: a path does not exist, or the session in it that is asked for.
    """
    visited: set[tuple[int, int]] = set()
    for given in paths:
        path, session = split_session(given)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}; name a log, archive, run folder, result tree or ReFrame '
                            'session') from error
        if stat.S_ISDIR(mode):
            yield from _folder(path, visited, skip)
        elif not stat.S_ISREG(mode):
            raise UserError(f'{path}: neither a file nor a folder')
        elif _is_archive(path.name):
            yield from _archive(path)
        elif is_session(path):
            yield from _session(path, session, visited, skip)
        else:
            yield _file(path, is_log=True)


def _session(path: Path, session: str, visited: set[tuple[int, int]],
             skip: Callable[[Path], bool]) -> Iterator[SourceFile]:
    folders, lost = kept_runs(path, session)
    for folder in folders:
        yield from _folder(folder, visited, skip)
    for name, problem in lost:
        yield _broken(path / name.replace('/', '_'), problem)


def _folder(folder: Path, visited: set[tuple[int, int]], skip: Callable[[Path], bool]) -> Iterator[SourceFile]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            return
        visited.add((status.st_dev, status.st_ino))
        if skip(folder):
            return
        names = sorted((entry.name for entry in folder.iterdir()), key=natural_key)
    except OSError as error:
        yield _broken(folder, f'cannot be read ({error.strerror})')
        return
    # An archive beside logs is a packed copy of something, not a place of further logs; so is evidence.
    foreign = any(map(is_log_name, names)) or EVIDENCE in names
    for name in names:
        path = folder / name
        try:
            mode = path.stat().st_mode
        except OSError:    # a dangling link, or a link to itself
            if is_log_name(name):
                yield _broken(path, 'cannot be read (dangling link)')
            continue
        if stat.S_ISDIR(mode):
            yield from _folder(path, visited, skip)
        elif stat.S_ISREG(mode):
            if _is_archive(name):
                yield from () if foreign else _archive(path)
            elif _is_wanted(path) and not _is_copy(name, names):
                yield _file(path, is_log=is_log_name(name))


def _file(path: Path, *, is_log: bool) -> SourceFile:
    return SourceFile(path=_without_suffix(path), is_log=is_log, open=lambda: open_stream(path),
                      on_disk=COMPRESSED.search(path.name) is None)


def _broken(path: Path, problem: str) -> SourceFile:
    return SourceFile(path=path, is_log=True, open=lambda: open_stream(path), problem=problem)


def _is_archive(name: str) -> bool:
    return _TAR.search(name) is not None or name.endswith(_ZIP)


def _archive(path: Path) -> Iterator[SourceFile]:
    """Yield the members of an archive; links and special files in it are left out."""
    try:
        yield from _zip(path) if path.name.endswith(_ZIP) else _tar(path)
    except DAMAGED as error:
        yield _broken(path, f'damaged archive ({error})')


def _tar(path: Path) -> Iterator[SourceFile]:
    with open_stream(path) as stream, tarfile.open(fileobj=stream, mode='r|') as archive:
        for member in archive:
            if member.isreg() and _is_wanted(PurePath(member.name)):
                yield _member(path, member.name, partial(archive.extractfile, member))


def _zip(path: Path) -> Iterator[SourceFile]:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: natural_key(member.filename)):
            inner = PurePath(member.filename)
            if member.is_dir() or not _is_wanted(inner):
                continue
            if member.flag_bits & _ENCRYPTED:
                yield _broken(path / inner, 'needs a password; unpack the archive first')
            else:
                yield _member(path, member.filename, partial(archive.open, member))


def _is_copy(name: str, names: Collection[str]) -> bool:
    """Say whether a file is the compressed copy of one beside it."""
    plain = COMPRESSED.sub('', name)
    return plain != name and plain in names


def _is_wanted(path: PurePath) -> bool:
    return is_log_name(path.name) or is_companion(path)


def _member(archive: Path, name: str, open_member: Callable[[], IO[bytes] | None]) -> SourceFile:
    inner = _without_suffix(PurePath(name))

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        stream = open_member()
        assert stream is not None
        with stream, decompressed(stream, name) as unpacked:
            yield unpacked

    return SourceFile(path=archive / inner, is_log=is_log_name(inner.name), open=opened)


def is_log_name(name: str) -> bool:
    """Say whether a folder search takes a file of this name for a log."""
    return _LOG.fullmatch(COMPRESSED.sub('', name)) is not None


def is_companion(path: PurePath) -> bool:
    """Say whether a file says something about logs: system descriptions, scaling factors, run records."""
    return path.name in COMPANIONS or (path.suffix == '.json' and path.parent.name == 'systems')


def natural_key(text: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that takes digits as numbers."""
    return [(not part.isdigit(), int(part) if part.isdigit() and part.isascii() else 0, part)
            for part in re.split(r'(\d+)', text)]


def _without_suffix(path: PurePath) -> PurePath:
    return path.with_name(COMPRESSED.sub('', path.name))
