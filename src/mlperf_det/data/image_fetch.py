"""Fetching many small files from one address: one connection kept open, polite when the server is busy."""

from __future__ import annotations

import base64
import hashlib
import http.client
import random
import re
import threading
import urllib.request
from email.message import Message
from pathlib import Path
from types import TracebackType
from urllib.parse import SplitResult, quote, unquote, urlsplit

from mlperf_det import __version__
from mlperf_det.data.fetch import TRANSIENT_STATUS, Retries
from mlperf_det.errors import UserError

_TIMEOUT_SECONDS = 60
#: No photo of a dataset is larger; a server that sends more is not answering what was asked.
_LARGEST_IMAGE = 256 << 20
#: longest pause that a server may ask for
_MOST_PAUSE_SECONDS = 300.0
_MD5_TAG = re.compile('^"[0-9a-f]{32}"$')
_JPEG_BEGIN, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'


class NotOfferedError(Exception):
    """The source does not have the file, or not all of it."""


class FetchFailedError(Exception):
    """The source gave no usable answer, however often it was asked."""


class _BusyError(Exception):
    """A failure that may pass; the server may have said when to come back."""

    def __init__(self, message: str, seconds: float = 0) -> None:
        super().__init__(message)
        self.seconds = seconds


class _IncompleteError(_BusyError):
    """An answer that is not the whole image."""


class ImageFetcher:
    """Fetches JPEG files of one folder; a context manager, for one thread.

    As `fetch.fetch`, it goes through the proxy that ``https_proxy``, ``http_proxy`` and ``no_proxy`` name.

    Args:
        base: http, https or file address of the folder.
        retries: attempts for one file, and the pause after the first, doubled after each and spread at random.
        stop: ends pauses early.

    Raises:
        UserError: another kind of address.
    """

    def __init__(self, base: str, retries: Retries, stop: threading.Event) -> None:
        self._base = urlsplit(base.rstrip('/'))
        if self._base.scheme not in ('http', 'https', 'file'):
            raise UserError(f'{base}: must be an http, https or file address')
        self._proxy = _proxy_for(self._base)
        self._retries, self._stop = retries, stop
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> ImageFetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._close()

    def fetch(self, name: str) -> bytes:
        """Return a file's content: as many bytes as announced, beginning and ending as a JPEG.

        Raises:
            NotOfferedError: the source does not have it, or only a damaged one.
            FetchFailedError: the source failed too often, or refuses.
        """
        for attempt in range(1, self._retries.attempts + 1):
            try:
                if self._base.scheme == 'file':
                    return _checked(name, self._read(name))
                return _checked(name, self._request(name))
            except _BusyError as error:
                problem = error
            except (OSError, http.client.HTTPException) as error:
                problem = _BusyError(str(error) or type(error).__name__)
            self._close()
            if attempt < self._retries.attempts:
                # Spread, so that connections that failed together do not come back together.
                pause = self._retries.pause_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                if self._stop.wait(min(max(pause, problem.seconds), _MOST_PAUSE_SECONDS)):
                    break
        if isinstance(problem, _IncompleteError):
            raise NotOfferedError(name)
        raise FetchFailedError(f'{self._base.geturl()}/{name}: {problem}; gave up after {attempt} attempts')

    def _read(self, name: str) -> bytes:
        try:
            return (Path(unquote(self._base.path)) / name).read_bytes()
        except FileNotFoundError as error:
            raise NotOfferedError(name) from error

    def _request(self, name: str) -> bytes:
        if self._connection is None:
            self._connection = self._connect()
        address, headers = f'{self._base.path}/{quote(name)}', {
            'User-Agent': f'mlperf-det/{__version__}', 'Accept-Encoding': 'identity'}
        if self._proxy is not None and self._base.scheme == 'http':
            address, headers = f'http://{self._base.netloc}{address}', {**headers, **_authorisation(self._proxy)}
        self._connection.request('GET', address, headers=headers)
        response = self._connection.getresponse()
        if response.status != 200:
            response.read(_LARGEST_IMAGE)  # so that the connection can be used again
            raise self._refusal(name, response)
        content = response.read(_LARGEST_IMAGE)
        announced = response.headers.get('Content-Length')
        if announced is not None and len(content) != int(announced):
            raise _BusyError(f'{len(content):,} of {announced} bytes arrived')
        expected = _md5(response.headers)
        if expected is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != expected:
            raise _BusyError('the content does not have the MD5 that the server states')
        return content

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._base.scheme == 'https' else http.client.HTTPConnection
        if self._proxy is None:
            return kind(self._base.netloc, timeout=_TIMEOUT_SECONDS)
        connection = kind(self._proxy.hostname or '', self._proxy.port, timeout=_TIMEOUT_SECONDS)
        if self._base.scheme == 'https':
            connection.set_tunnel(self._base.netloc, headers=_authorisation(self._proxy))
        return connection

    def _refusal(self, name: str, response: http.client.HTTPResponse) -> Exception:
        if response.status in TRANSIENT_STATUS:
            after = response.headers.get('Retry-After', '')
            return _BusyError(f'the server answers {response.status} {response.reason}',
                              float(after) if after.isdigit() else 0)
        # S3 answers 403 for what it does not have to those who may not list its folders.
        if response.status in (403, 404, 410):
            return NotOfferedError(name)
        return FetchFailedError(f'{self._base.geturl()}/{name}: the server answers {response.status} {response.reason}')

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _proxy_for(base: SplitResult) -> SplitResult | None:
    """Return the address of the proxy that the environment asks for."""
    address = urllib.request.getproxies().get(base.scheme)
    if not address or urllib.request.proxy_bypass(base.hostname or ''):
        return None
    return urlsplit(address if '//' in address else f'//{address}')


def _authorisation(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    words = f'{unquote(proxy.username)}:{unquote(proxy.password or "")}'
    return {'Proxy-Authorization': f'Basic {base64.b64encode(words.encode()).decode()}'}


def _md5(headers: Message) -> str | None:
    """Return the MD5 of a plain S3 object, its ETag; an ETag of other servers or of encrypted objects is none."""
    tag = headers.get('ETag', '')
    plain = 'x-amz-request-id' in headers and headers.get('x-amz-server-side-encryption', 'AES256') == 'AES256'
    return tag.strip('"') if plain and _MD5_TAG.match(tag) else None


def _checked(name: str, content: bytes) -> bytes:
    # Some photos have stray bytes after the end marker, but none lacks it.
    if not content.startswith(_JPEG_BEGIN) or _JPEG_END not in content[-65536:]:
        raise _IncompleteError(f'{name}: {len(content):,} bytes that are not a complete JPEG file')
    return content
