"""Fetching one file: resumed where it broke off, checked before it gets its final name."""

from __future__ import annotations

import fcntl
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from mlperf_det import __version__
from mlperf_det.data.layout import file_hash
from mlperf_det.data.progress import Progress
from mlperf_det.errors import UserError

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60
_SCHEMES = ('http', 'https', 'file')
#: answers after which trying again helps
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Attempts that bring no new byte before giving up, and the pause after the first, doubled after each."""

    attempts: int = 5
    pause_seconds: float = 2.0


DEFAULT_RETRIES = Retries()


class _TransientError(Exception):
    """A failure after which the same request may succeed."""


def fetch(url: str, target: Path, *, check: Callable[[Path], str | None], size: int | None = None,
          retries: Retries = DEFAULT_RETRIES) -> bool:
    """Fetch a file, unless it is there already and passes the check.

    An interrupted download is kept as ``<name>.part`` and continued by the next call.

    Args:
        url: http, https or file address.
        target: where the file goes.
        check: returns what is wrong with a complete file, or None.
        size: expected size in bytes, if known.
        retries: how often to try again after a failure that may pass.

    Returns:
        True if anything was fetched.

    Raises:
        UserError: the address answers with an error, the disk is too small or cannot be written, or the content is not
            what was expected.
    """
    if urlsplit(url).scheme not in _SCHEMES:
        raise UserError(f'{url}: must be an http, https or file address')
    try:
        if target.is_file() and check(target) is None:
            return False
        _fetch(url, target, check, size, retries)
    except OSError as error:
        raise UserError(f'{target}: cannot be written ({error.strerror or error}); mend that and run the same command '
                        'again: it continues') from error
    return True


def _fetch(url: str, target: Path, check: Callable[[Path], str | None], size: int | None, retries: Retries) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'{target.name}.part')
    with _locked(part) as stream:
        have = part.stat().st_size
        require_space(target.parent, (size or 0) - have, f'to fetch {target.name}')
        with Progress(target.name, size) as progress:
            progress.advance(have)
            resumed = _fill(url, stream, size, retries, progress)
            wrong = check(part)
            if wrong is not None and resumed:
                # What an earlier call had left may belong to another version of the file: start over, once.
                stream.truncate(0)
                progress.advance(-progress.done)
                _fill(url, stream, size, retries, progress)
                wrong = check(part)
        if wrong is not None:
            part.unlink()
            raise UserError(f'{url}: {wrong}; it was discarded. Try again, or name another source with --mirror')
        part.replace(target)


def digest_check(algorithm: str, expected: str, size: int | None) -> Callable[[Path], str | None]:
    """Return a check for `fetch`: the size, then the digest."""
    def check(path: Path) -> str | None:
        found_size = path.stat().st_size
        if size is not None and found_size != size:
            return f'the file has {found_size:,} bytes, its card states {size:,}'
        found = file_hash(path, algorithm)
        return None if found == expected else f'the {algorithm} is {found}, its card states {expected}'
    return check


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse work that the disk has no room for.

    Raises:
        UserError: fewer than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f'{folder}: {needed / 1e9:,.1f} GB are needed {purpose}, {free / 1e9:,.1f} GB are free; '
                        'make room or choose another --root')


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open the unfinished file for appending, alone: two writers would mix their bytes."""
    with part.open('ab') as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'{part}: another download is writing it; wait for it to end') from error
        except OSError:
            pass  # a file system without locks: the check at the end still catches mixed bytes
        yield stream


def _fill(url: str, stream: IO[bytes], size: int | None, retries: Retries, progress: Progress) -> bool:
    """Append until the file is complete; say whether earlier bytes were kept."""
    resumed = stream.seek(0, 2) > 0
    failures = 0
    while True:
        before = stream.seek(0, 2)
        try:
            if size is None or before < size:
                resumed = _request(url, stream, size, progress) and resumed
            stream.flush()
            return resumed
        except _TransientError as error:
            failures = 1 if stream.seek(0, 2) > before else failures + 1
            if failures >= retries.attempts:
                raise UserError(f'{url}: {error}; gave up after {failures} attempts without progress. '
                                'Run the same command again to continue, or name another source with --mirror'
                                ) from error
            time.sleep(retries.pause_seconds * 2 ** (failures - 1))


def _request(url: str, stream: IO[bytes], size: int | None, progress: Progress) -> bool:
    """Ask for the bytes that are missing and append them; say whether earlier bytes were kept."""
    have = stream.tell()
    headers = {'User-Agent': f'mlperf-det/{__version__}', 'Accept-Encoding': 'identity'}
    if have:
        headers['Range'] = f'bytes={have}-'
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - fetch() has checked the scheme
    kept = True
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310
            if urlsplit(url).scheme == 'file':
                response.fp.seek(have)
            elif have and response.status != 206:
                stream.truncate(0)  # the server cannot continue a file
                progress.advance(-have)
                kept, have = False, 0
            announced = response.headers.get('Content-Length')
            _copy(response, stream, size, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return kept  # nothing is missing; the check decides
        if error.code in TRANSIENT_STATUS:
            raise _TransientError(f'the server answers {error.code} {error.reason}') from error
        raise UserError(f'{url}: the server answers {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
        if urlsplit(url).scheme == 'file':
            raise UserError(f'{url}: {error.reason}') from error
        raise _TransientError(str(error.reason)) from error
    except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        raise _TransientError(str(error) or type(error).__name__) from error
    expected = size if size is not None else have + int(announced) if announced else None
    if expected is not None and stream.tell() < expected:
        raise _TransientError(f'the connection ended {expected - stream.tell():,} bytes early')
    return kept


def _copy(response: IO[bytes], stream: IO[bytes], size: int | None, progress: Progress) -> None:
    while chunk := response.read(_CHUNK):
        stream.write(chunk)
        progress.advance(len(chunk))
        if size is not None and stream.tell() > size:
            return  # longer than it may be: the check says so
