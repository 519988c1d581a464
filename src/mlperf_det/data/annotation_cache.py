"""Ground truth in columns beside its JSON file, so that training on millions of boxes starts in seconds.

``<name>.json.columns.safetensors`` holds the arrays of `Annotations`. It is mapped into memory: all processes of a node
share one copy, and sending it to a worker process sends its path. It states the SHA-256 of the JSON file it was made
from, so it follows a copied dataset and is made anew when the JSON file changes.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.layout import check_unchanged, file_hash
from mlperf_det.errors import UserError

SUFFIX = '.columns.safetensors'
#: Raised when the columns change, so that files of an older program are made anew.
_VERSION = '1'
_ARRAYS = ('image_ids', 'heights', 'widths', 'category_ids', 'offsets', 'boxes', 'labels', 'areas', 'crowd',
           'annotation_ids')
_DTYPES = {'I64': np.dtype(np.int64), 'F64': np.dtype(np.float64), 'BOOL': np.dtype(np.bool_), 'U8': np.dtype(np.uint8)}
#: bytes before the header: its length (the safetensors format)
_PREFIX = 8
_LARGEST_HEADER = 1 << 27


class FileNames(Sequence[str]):
    """File names, decoded one at a time from an (N, width) uint8 array of UTF-8 text padded with zeros."""

    def __init__(self, text: NDArray[np.uint8]) -> None:
        self._text = text

    def __len__(self) -> int:
        return len(self._text)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileNames: ...
    def __getitem__(self, index: int | slice) -> str | FileNames:
        if isinstance(index, slice):
            return FileNames(self._text[index])
        return bytes(self._text[index]).rstrip(b'\0').decode()

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Sequence) and len(self) == len(other)
                and all(mine == theirs for mine, theirs in zip(self, other, strict=True)))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class MappedAnnotations(Annotations):
    """`Annotations` whose arrays are views of a file."""

    columns: Path

    def __reduce__(self) -> tuple[Callable[[Path, Path], MappedAnnotations], tuple[Path, Path]]:
        """Send the path instead of the arrays."""
        return _open, (self.columns, self.path)


def read_cached(path: Path, sha256: str | None = None) -> Annotations:
    """Return what `read_annotations` returns, from the columns beside the file; they are written if need be.

    Of many processes that find no columns at the same time, one a node (one at all, where the file system shares locks)
    reads the JSON file; the others wait for it. Where the folder cannot be written, the JSON file is read each time.

    Args:
        path: the JSON file.
        sha256: what the file must have; None: whatever it has now. Columns state the file that they were made from,
            so the file itself is compared only where they are made.

    Raises:
        UserError: as `read_annotations`, and where the file has another SHA-256.
    """
    expected = sha256
    try:
        sha256 = sha256 or file_hash(path, 'sha256')
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    columns = columns_path(path)
    found = _open_if_fresh(columns, path, sha256)
    if found is not None:
        return found
    with _alone(columns):
        found = _open_if_fresh(columns, path, sha256)
        if found is not None:
            return found
        annotations = read_annotations(path if expected is None else check_unchanged(path, expected))
        try:
            write_columns(annotations, sha256)
        except OSError:
            return annotations  # a dataset that cannot be written; it trains as well, only its start is slow
        return _open(columns, path)


def columns_path(path: Path) -> Path:
    """Return where the columns of an annotation file are."""
    return path.with_name(path.name + SUFFIX)


def write_columns(annotations: Annotations, sha256: str) -> None:
    """Write the columns beside the JSON file, in one step.

    Args:
        annotations: what `read_annotations` returned.
        sha256: of the JSON file it read.

    Raises:
        OSError: the file cannot be written.
    """
    # Imported here: reading, which every rank does, needs numpy alone.
    from safetensors.numpy import save

    names = np.array([name.encode() for name in annotations.file_names])
    arrays = {name: np.ascontiguousarray(getattr(annotations, name)) for name in _ARRAYS}
    arrays['file_names'] = names.view(np.uint8).reshape(len(names), names.itemsize)
    scalars = {'category_names': list(annotations.category_names), 'degenerate': annotations.degenerate,
               'unknown_images': list(annotations.unknown_images), 'scorable': annotations.scorable}
    content = save(arrays, {'version': _VERSION, 'sha256': sha256, 'scalars': json.dumps(scalars)})
    target = columns_path(annotations.path)
    temporary = target.with_name(f'.{target.name}.{platform.node()}.{os.getpid()}.part')
    try:
        # Not by the library's save_file(), which makes files that no other user may read, and raises no OSError.
        temporary.write_bytes(content)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _open_if_fresh(columns: Path, path: Path, sha256: str) -> MappedAnnotations | None:
    try:
        metadata = _header(columns)[0].get('__metadata__', {})
        fresh = metadata.get('version') == _VERSION and metadata.get('sha256') == sha256
        return _open(columns, path) if fresh else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or damaged: it is made anew


def _open(columns: Path, path: Path) -> MappedAnnotations:
    """Map the columns.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it is damaged.
    """
    header, begin = _header(columns)
    # Copy on write: PyTorch warns of arrays that it must not write, and the file stays as it is either way.
    content = np.memmap(columns, mode='c', dtype=np.uint8)
    arrays: dict[str, Any] = {}
    for name in (*_ARRAYS, 'file_names'):
        first, last = header[name]['data_offsets']
        dtype = _DTYPES[header[name]['dtype']]
        arrays[name] = np.asarray(content[begin + first:begin + last]).view(dtype).reshape(header[name]['shape'])
    arrays['file_names'] = FileNames(arrays['file_names'])
    scalars = json.loads(header['__metadata__']['scalars'])
    scalars.update({name: tuple(scalars[name]) for name in ('category_names', 'unknown_images')})
    return MappedAnnotations(path=path, columns=columns, **arrays, **scalars)


def _header(columns: Path) -> tuple[dict[str, Any], int]:
    """Return the header and where the data begins."""
    with columns.open('rb') as stream:
        length = int.from_bytes(stream.read(_PREFIX), 'little')
        if length > _LARGEST_HEADER:
            raise ValueError('is no safetensors file')
        return msgspec.json.decode(stream.read(length), type=dict[str, Any]), _PREFIX + length


@contextmanager
def _alone(columns: Path) -> Iterator[None]:
    """Hold the lock of the columns while they are made; without one where the folder cannot be written."""
    lock = columns.with_name(f'.{columns.name}.lock')
    with ExitStack() as stack:
        # On a file system without locks several processes may do the same work, each under a name of its own.
        with suppress(OSError):
            try:
                stream: IO[bytes] = lock.open('ab')
            except PermissionError:
                stream = lock.open('rb')  # another user has made it
            fcntl.flock(stack.enter_context(stream), fcntl.LOCK_EX)
        yield
