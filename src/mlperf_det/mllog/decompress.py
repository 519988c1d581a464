"""Decompress streams by file suffix: ``.gz``, ``.xz``, ``.bz2`` and ``.zst``; nothing is unpacked to disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from backports.zstd import ZstdError, ZstdFile

#: suffix of a compressed file
COMPRESSED = re.compile(r'\.(?:gz|xz|bz2|zst)$')
#: short suffixes of compressed archives
_SHORT = {'.tgz': '.gz', '.txz': '.xz', '.tbz2': '.bz2', '.tzst': '.zst'}


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading and decompress it by its suffix.

    Raises:
        OSError: the file cannot be opened, or its compression is damaged.
    """
    with path.open('rb', buffering=0) as stream, decompressed(cast('IO[bytes]', stream), path.name) as unpacked:
        yield unpacked


@contextmanager
def decompressed(stream: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Decompress a stream by the suffix of its name; raises as `open_stream` does."""
    suffix = Path(name).suffix
    suffix = _SHORT.get(suffix, suffix)
    if suffix == '.gz':
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield cast('IO[bytes]', unpacked)
    elif suffix == '.xz':
        with lzma.LZMAFile(stream) as unpacked:
            yield cast('IO[bytes]', unpacked)
    elif suffix == '.bz2':
        with bz2.BZ2File(stream) as unpacked:
            yield cast('IO[bytes]', unpacked)
    elif suffix == '.zst':
        with ZstdFile(stream) as unpacked:
            yield cast('IO[bytes]', _Checked(unpacked))
    else:
        yield stream


class _Checked(io.RawIOBase):
    """Zstandard data whose own kind of error becomes an OSError, as other damage is."""

    def __init__(self, stream: ZstdFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except ZstdError as error:
            raise OSError(str(error)) from error
