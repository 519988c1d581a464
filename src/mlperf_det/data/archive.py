"""Unpacking archives from the network: nothing outside the folder, no links, no more than was announced."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlperf_det.data.cards import Member, is_relative
from mlperf_det.data.fetch import require_space
from mlperf_det.data.progress import Progress
from mlperf_det.errors import UserError

_CHUNK = 1 << 20


def extract_zip(archive: Path, root: Path, *, wanted: Sequence[str], bytes_limit: int,
                members: Mapping[str, Member] | None = None) -> int:
    """Unpack members of a zip below ``root``; every file gets its name only when it is complete.

    Files that are there already with the right size are kept, so a broken-off extraction continues.

    Args:
        archive: the zip file.
        root: where its paths start.
        wanted: members to unpack, a path or, ending in '/', a folder.
        bytes_limit: most bytes that the wanted members may take together.
        members: expected sizes.

    Returns:
        The number of files that the wanted members make.

    Raises:
        UserError: the archive is damaged, lacks a wanted member, is larger than stated, or holds an absolute path,
            a path with '..', a link, a device, an encrypted or a repeated member. Nothing is written in these cases,
            except that damage inside a member is found only when it is reached.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = _choose(archive, opened, wanted, bytes_limit, members or {})
            missing = [info for info in chosen if not _is_complete(root / info.filename, info)]
            total = sum(info.file_size for info in missing)
            require_space(root, total, f'to unpack {archive.name}')
            with Progress(f'unpacking {archive.name}', total) as progress:
                for info in missing:
                    _extract_member(opened, info, root / info.filename)
                    progress.advance(info.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f'{archive}: is damaged ({error}); delete it and download it again') from error
    except OSError as error:
        raise UserError(f'{archive}: cannot be unpacked into {root} ({error.strerror})') from error
    return len(chosen)


def _choose(archive: Path, opened: zipfile.ZipFile, wanted: Sequence[str], bytes_limit: int,
            members: Mapping[str, Member]) -> list[zipfile.ZipInfo]:
    """Return the wanted files after a look at every member of the archive."""
    names: set[str] = set()
    for info in opened.infolist():
        wrong = _danger(info) or ('occurs more than once' if info.filename in names else None)
        if wrong:
            raise UserError(f'{archive}: member {info.filename!r} {wrong}; the archive was not unpacked')
        names.add(info.filename)
    chosen = []
    for want in wanted:
        found = [info for info in opened.infolist() if not info.is_dir()
                 and (info.filename.startswith(want) if want.endswith('/') else info.filename == want)]
        if not found:
            raise UserError(f'{archive}: has no member {want!r}; is this the right file?')
        chosen += found
    for info in chosen:
        expected = members.get(info.filename, Member()).bytes
        if expected is not None and info.file_size != expected:
            raise UserError(f'{archive}: member {info.filename!r} has {info.file_size:,} bytes, its card states '
                            f'{expected:,}; the archive was not unpacked')
    total = sum(info.file_size for info in chosen)
    if total > bytes_limit:
        raise UserError(f'{archive}: its members take {total:,} bytes, its card allows {bytes_limit:,}; '
                        'the archive was not unpacked')
    return chosen


def _danger(info: zipfile.ZipInfo) -> str | None:
    """Return why a member must not be unpacked. The original name counts: zipfile cuts a name at a zero byte."""
    mode = info.external_attr >> 16
    if not is_relative(info.orig_filename) or info.filename[1:2] == ':':
        return 'points outside the folder'
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return 'is a link or a special file'
    if info.flag_bits & 0x1:
        return 'is encrypted'
    return None


def _is_complete(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size


def _extract_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write one member. zipfile stops at the announced size and compares the CRC at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.name}.part')
    try:
        with opened.open(info) as source, temporary.open('wb') as stream:
            shutil.copyfileobj(source, stream, _CHUNK)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
