"""Height and width of JPEG files from their headers: of a million files in seconds, where no pixel is needed."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlperf_det.data.bounded_map import bounded_map
from mlperf_det.data.progress import Progress

_UNEXPECTED, _SEGMENT, _FRAME, _FILL = range(4)
#: Second byte of a marker -> what follows before the image data, by ITU-T T.81, table B.1. Frame headers are SOF0 to
#: SOF15 less DHT, JPG and DAC, which share their range; RST, SOI, EOI and SOS have no place before one.
_KINDS = bytes(
    _FILL if code == 0xFF else _UNEXPECTED if code < 0xC0 or 0xD0 <= code <= 0xDA
    else _FRAME if code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) else _SEGMENT for code in range(256))
#: A frame header starts in the first bytes, unless a thumbnail or a colour profile comes before it.
_READ_BYTES = 1024
_FRAME_HEADER_BYTES = 9
_CHUNK = 8192
#: files of a chunk that are timed before the rest is read
_PROBE = 64
#: From here on a file system answers from afar or from a disk, and waiting for many files at once pays.
_SLOW_SECONDS = 60e-6
_THREADS = 48
#: From here on, reading in processes saves more time than starting them costs.
_WORTH_PROCESSES = 100_000


class HeaderError(ValueError):
    """Not a JPEG file, or one whose header does not state its size."""


@dataclass(frozen=True, kw_only=True)
class ImageSizes:
    """Sizes of a list of images.

    Attributes:
        sizes: (N, 2) int32, height and width in pixels, in the order asked for; 0 where the image cannot be used.
        missing: names of files that do not exist.
        unreadable: ``name (reason)`` of files that are no images.
    """

    sizes: NDArray[np.int32]
    missing: tuple[str, ...]
    unreadable: tuple[str, ...]


def read_sizes(folder: Path, names: Sequence[str], *, workers: int = 1, label: str = 'image headers') -> ImageSizes:
    """Read the sizes of images. The result does not depend on ``workers``.

    Args:
        folder: what the names are relative to.
        names: file names.
        workers: processes, used where there are enough files; on a slow file system each waits for many at once.
        label: what the progress bar says.

    Raises:
        OSError: the folder itself cannot be read.
    """
    chunks = [names[start:start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    # Fresh processes: a fork would copy the locks of the caller's threads.
    pool = (ProcessPoolExecutor(workers, mp_context=get_context('spawn'))
            if workers > 1 and len(names) >= _WORTH_PROCESSES else None)
    sizes: list[NDArray[np.int32]] = []
    missing: list[str] = []
    unreadable: list[str] = []
    read = partial(_read_chunk, folder)
    with Progress(label, len(names), 'images') as progress, pool or nullcontext():
        for found in bounded_map(pool, read, chunks, ahead=2 * workers) if pool else map(read, chunks):
            sizes.append(found.sizes)
            missing += found.missing
            unreadable += found.unreadable
            progress.advance(len(found.sizes))
    return ImageSizes(sizes=np.concatenate([*sizes, np.zeros((0, 2), np.int32)]), missing=tuple(missing),
                      unreadable=tuple(unreadable))


def read_size(path: str | Path, *, folder: int | None = None) -> tuple[int, int]:
    """Return height and width of one image file.

    What is unusual in the header (stray bytes, no height) is left to Pillow, as in decoding.

    Args:
        path: the file.
        folder: descriptor of the open folder that the path is relative to.

    Raises:
        FileNotFoundError: there is no such file.
        HeaderError: it is not an image.
    """
    descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
    try:
        return _frame_size(descriptor) or _size_by_pillow(descriptor)
    finally:
        os.close(descriptor)


def _frame_size(descriptor: int) -> tuple[int, int] | None:
    """Walk from segment to segment to the frame header; None where the file is not plain JPEG up to there."""
    content = os.read(descriptor, _READ_BYTES)
    if content[:2] != b'\xff\xd8':
        return None
    start, at, end = 0, 2, len(content) - _FRAME_HEADER_BYTES
    while True:
        if at > end:
            start, at = start + at, 0
            content = os.pread(descriptor, _READ_BYTES, start)
            end = len(content) - _FRAME_HEADER_BYTES
            if end < 0:
                return None
        kind = _KINDS[content[at + 1]] if content[at] == 0xFF else _UNEXPECTED
        if kind == _SEGMENT:
            at += 2 + (content[at + 2] << 8 | content[at + 3])
        elif kind == _FRAME:
            height, width = content[at + 5] << 8 | content[at + 6], content[at + 7] << 8 | content[at + 8]
            return (height, width) if height and width else None
        elif kind == _FILL:
            at += 1
        else:
            return None


def _size_by_pillow(descriptor: int) -> tuple[int, int]:
    # Imported here: hardly any file needs it.
    from PIL import Image, UnidentifiedImageError

    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        with warnings.catch_warnings(), os.fdopen(os.dup(descriptor), 'rb') as stream, Image.open(stream) as image:
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            return image.height, image.width
    except UnidentifiedImageError as error:
        raise HeaderError('not an image') from error
    # SyntaxError and ValueError: what Pillow's parsers raise for broken headers.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HeaderError(' '.join(str(error).split())) from error


def _read_chunk(folder: Path, names: Sequence[str]) -> ImageSizes:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        read = partial(_try_read, descriptor)
        began = time.perf_counter()
        found = [read(name) for name in names[:_PROBE]]
        if time.perf_counter() - began < _SLOW_SECONDS * len(found) or len(names) <= _PROBE:
            found += [read(name) for name in names[_PROBE:]]
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                found += pool.map(read, names[_PROBE:])
    finally:
        os.close(descriptor)
    wrong = {index: size for index, size in enumerate(found) if isinstance(size, Exception)}
    sizes = [(0, 0) if isinstance(size, Exception) else size for size in found]
    return ImageSizes(
        sizes=np.fromiter(chain.from_iterable(sizes), np.int32, 2 * len(sizes)).reshape(-1, 2),
        missing=tuple(names[index] for index, error in wrong.items() if isinstance(error, FileNotFoundError)),
        unreadable=tuple(f'{names[index]} ({getattr(error, "strerror", None) or error})'
                         for index, error in wrong.items() if not isinstance(error, FileNotFoundError)))


def _try_read(folder: int, name: str) -> tuple[int, int] | Exception:
    try:
        return read_size(name, folder=folder)
    except (OSError, HeaderError) as error:
        return error
