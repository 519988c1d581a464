"""Find logs and what lies beside them: in files, folders and archives. Nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, cast

from mlperf_det.errors import UserError

_ARCHIVE = re.compile(r'\.(?:tar(?:\.(?:gz|xz|bz2|zst))?|tgz|txz)$')
_COMPRESSED = re.compile(r'\.(?:gz|xz|bz2|zst)$')
#: ``result_3.txt``, also as a hidden partial copy such as ``.!65506!result_4.txt``
_LOG = re.compile(r'(?:\..*)?result_[^/]*\.txt')
COMPANIONS = frozenset({'scaling.json', 'system.json', 'run.json', 'metrics.jsonl'})
#: what a damaged archive or compressed file raises
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file found. `open` may be called once, before the next file is asked for (archives are streams).

    Attributes:
        path: where it lies; members of an archive lie below the archive's path. Without a compression suffix.
        is_log: False for a companion (`COMPANIONS` and system descriptions).
        problem: why the file cannot be read; empty for a good one.
    """

    path: PurePath
    is_log: bool
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    problem: str = ''


def find(paths: Iterable[Path]) -> Iterator[SourceFile]:
    """Yield logs and companions below ``paths``, in natural order (``result_2`` before ``result_10``).

    A file named explicitly is a log (or an archive of logs) whatever it is called. Folders are searched for
    ``result_*.txt``; symbolic links are followed, each folder is visited once.

    Raises:
        UserError: a path does not exist.
    """
    visited: set[tuple[int, int]] = set()
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}; name a log, archive, run folder or result tree') from error
        if stat.S_ISDIR(mode):
            yield from _folder(path, visited)
        elif not stat.S_ISREG(mode):
            raise UserError(f'{path}: neither a file nor a folder')
        elif _ARCHIVE.search(path.name):
            yield from _archive(path)
        else:
            yield _file(path, is_log=True)


def _folder(folder: Path, visited: set[tuple[int, int]]) -> Iterator[SourceFile]:
    try:
        status = folder.stat()
        names = sorted((entry.name for entry in folder.iterdir()), key=natural_key)
    except OSError as error:
        yield _broken(folder, f'cannot be read ({error.strerror})')
        return
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    for name in names:
        path = folder / name
        try:
            mode = path.stat().st_mode
        except OSError:    # a dangling link, or a link to itself
            if is_log_name(name):
                yield _broken(path, 'cannot be read (dangling link)')
            continue
        if stat.S_ISDIR(mode):
            yield from _folder(path, visited)
        elif stat.S_ISREG(mode):
            if _ARCHIVE.search(name):
                yield from _archive(path)
            elif is_log_name(name) or is_companion(path):
                yield _file(path, is_log=is_log_name(name))


def _file(path: Path, *, is_log: bool) -> SourceFile:
    return SourceFile(path=_without_suffix(path), is_log=is_log, open=lambda: open_stream(path))


def _broken(path: Path, problem: str) -> SourceFile:
    return SourceFile(path=path, is_log=True, open=lambda: open_stream(path), problem=problem)


def _archive(path: Path) -> Iterator[SourceFile]:
    """Yield the members of a tar archive; links and special files in it are left out."""
    try:
        with open_stream(path) as stream, tarfile.open(fileobj=stream, mode='r|') as archive:
            for member in archive:
                inner = PurePath(member.name)
                if member.isreg() and (is_log_name(inner.name) or is_companion(inner)):
                    yield _member(path, archive, member)
    except DAMAGED as error:
        yield _broken(path, f'damaged archive ({error})')


def _member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> SourceFile:
    inner = _without_suffix(PurePath(member.name))
    packed = _COMPRESSED.search(member.name)

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        stream = archive.extractfile(member)
        assert stream is not None
        yield _decompressed(stream, packed.group() if packed else '')

    return SourceFile(path=path / inner, is_log=is_log_name(inner.name), open=opened)


def is_log_name(name: str) -> bool:
    """Say whether a folder search takes a file of this name for a log."""
    return _LOG.fullmatch(_COMPRESSED.sub('', name)) is not None


def is_companion(path: PurePath) -> bool:
    """Say whether a file says something about logs: system descriptions, scaling factors, run records."""
    return path.name in COMPANIONS or (path.suffix == '.json' and path.parent.name == 'systems')


def natural_key(text: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that takes digits as numbers."""
    return [(not part.isdigit(), int(part) if part.isdigit() and part.isascii() else 0, part)
            for part in re.split(r'(\d+)', text)]


def _without_suffix(path: PurePath) -> PurePath:
    return path.with_name(_COMPRESSED.sub('', path.name))


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading and decompress it by its suffix (``.gz``, ``.tgz``, ``.xz``, ``.bz2``, ``.zst``).

    Raises:
        OSError: the file cannot be opened.
        UserError: Zstandard data, and nothing here can read it.
    """
    suffix = path.suffix
    if suffix == '.zst':
        with _zstandard(path) as unpacked:
            yield unpacked
        return
    with path.open('rb', buffering=0) as stream:
        yield _decompressed(cast('IO[bytes]', stream), {'.tgz': '.gz', '.txz': '.xz'}.get(suffix, suffix))


def _decompressed(stream: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == '.gz':
        return cast('IO[bytes]', gzip.GzipFile(fileobj=stream))
    if suffix == '.xz':
        return cast('IO[bytes]', lzma.LZMAFile(stream))
    if suffix == '.bz2':
        return cast('IO[bytes]', bz2.BZ2File(stream))
    if suffix == '.zst':
        raise OSError('Zstandard inside an archive: unpack the archive first')
    return stream


@contextmanager
def _zstandard(path: Path) -> Iterator[IO[bytes]]:
    """Decompress with Python 3.14's own module, the zstandard package or the ``zstd`` program, whichever is there."""
    try:
        module = importlib.import_module('compression.zstd')
    except ImportError:
        module = None
    if module is not None:
        with module.open(path, 'rb') as stream:
            yield stream
        return
    try:
        module = importlib.import_module('zstandard')
    except ImportError:
        module = None
    if module is not None:
        with path.open('rb') as packed, module.ZstdDecompressor().stream_reader(
                packed, read_across_frames=True) as unpacked:
            yield unpacked
        return
    program = shutil.which('zstd')
    if program is None:
        raise UserError(f'{path}: Zstandard needs the Python package zstandard or the program zstd; '
                        'install one, or decompress the file first')
    with subprocess.Popen([program, '-dcq', '--', os.fspath(path)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        yield process.stdout
        process.stdout.close()
        complaint = process.stderr.read().decode('utf-8', 'replace').strip()
    # -13: we closed the pipe before its end, which is no damage
    if process.returncode not in (0, -13):
        raise OSError(f'zstd: {complaint}')
