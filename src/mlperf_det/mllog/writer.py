"""Write the MLPerf log of a run, a line an event, through the MLPerf logging package."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mlperf_logging.mllog.mllog import MLLogger

from mlperf_det.errors import UserError

#: removed from the file names in the events, so that a log does not tell where the package is installed
_SOURCE_ROOT = Path(__file__).resolve().parents[2]
#: frames from the caller of `MLPerfLog.event` to the package's own function, which would name its caller by 1
_STACK_OFFSET = 3


class MLPerfLog:
    """The MLPerf log of one run, written by rank 0; on other ranks every call does nothing.

    Each event reaches the file as one line before the call returns. Times never run backwards within a log, even when
    the clock is set. Values may be numbers of Python, NumPy or PyTorch (one element), strings, None, and lists, tuples
    and dicts of them. Not-a-number and infinities, which JSON lacks, are written as the strings ``NaN``,
    ``Infinity`` and ``-Infinity``: the fact stays readable, and no reader takes it for a number that reaches a target.

    Use as a context manager, or call `close`.
    """

    def __init__(self, path: Path, *, rank: int = 0, echo: TextIO | None = None) -> None:
        """Open the log for appending.

        Args:
            path: the log; its folder exists.
            rank: of this process; only rank 0 opens the file.
            echo: also written to, e.g. ``sys.stdout`` for sites that keep job output as the log.

        Raises:
            UserError: the file cannot be opened.
        """
        self._time_ms = 0
        self._handler: _LineHandler | None = None
        if rank != 0:
            return
        self._handler = _LineHandler(path, echo)
        # An instance of its own: the package's default logger is global and prints.
        logger = logging.Logger('mlperf_det.mllog', level=logging.INFO)
        logger.addHandler(self._handler)
        self._mllogger = MLLogger(logger=logger, root_dir=re.escape(str(_SOURCE_ROOT)))

    def event(self, key: str, value: Any = None, metadata: Mapping[str, Any] | None = None, *,
              stack_offset: int = 0) -> None:
        """Write a point in time.

        Args:
            key: see `mllog.keys`.
            value: see the class.
            metadata: besides ``file`` and ``lineno`` of the caller, which are added.
            stack_offset: frames above the caller that ``file`` and ``lineno`` should name.

        Raises:
            TypeError: a value that JSON cannot hold.
            OSError: the line could not be written.
        """
        self._log('event', key, value, metadata, stack_offset)

    def start(self, key: str, value: Any = None, metadata: Mapping[str, Any] | None = None, *,
              stack_offset: int = 0) -> None:
        """Write the start of an interval; see `event`."""
        self._log('start', key, value, metadata, stack_offset)

    def end(self, key: str, value: Any = None, metadata: Mapping[str, Any] | None = None, *,
            stack_offset: int = 0) -> None:
        """Write the end of an interval; see `event`."""
        self._log('end', key, value, metadata, stack_offset)

    def offset(self) -> int:
        """Flush the log to disk and return its length in bytes, as kept in a checkpoint; 0 on other ranks."""
        return 0 if self._handler is None else self._handler.sync()

    def close(self) -> None:
        """Close the file; later events raise. May be called twice."""
        if self._handler is not None:
            self._handler.close()

    def __enter__(self) -> MLPerfLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _log(self, method: str, key: str, value: Any, metadata: Mapping[str, Any] | None, stack_offset: int) -> None:
        if self._handler is None:
            return
        if metadata and not metadata.keys().isdisjoint(('file', 'lineno')):
            raise ValueError(f'metadata of {key!r}: file and lineno are those of the caller and cannot be given')
        self._time_ms = max(self._time_ms, time.time_ns() // 1_000_000)
        getattr(self._mllogger, method)(
            key, _plain(value), metadata=_plain(dict(metadata or {})), time_ms=self._time_ms,
            stack_offset=_STACK_OFFSET + stack_offset)
        self._handler.raise_failure()


class _LineHandler(logging.Handler):
    """Appends each message as one line with one system call.

    The package catches what a handler raises, so a failure is kept for `raise_failure`.
    """

    def __init__(self, path: Path, echo: TextIO | None) -> None:
        super().__init__()
        self._echo = echo
        self._failure: Exception | None = None
        try:
            self._stream = path.open('ab', buffering=0)
        except OSError as error:
            raise UserError(f'{path}: cannot be written ({error.strerror})') from error

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno > logging.INFO:
            # The package would write its own failures into the log.
            self._failure = ValueError(message.strip())
            return
        try:
            self._write(message)
        except (OSError, ValueError) as error:
            self._failure = error

    def _write(self, message: str) -> None:
        line = message.encode() + b'\n'
        if self._stream.write(line) != len(line):
            raise OSError(f'{self._stream.name}: the disk took only a part of a line')
        if self._echo is not None:
            self._echo.write(message + '\n')
            self._echo.flush()

    def raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def sync(self) -> int:
        os.fsync(self._stream.fileno())
        return os.fstat(self._stream.fileno()).st_size

    def close(self) -> None:
        self._stream.close()
        super().close()


def cut(path: Path, offset: int, keep_tail_as: Path) -> int:
    """Cut a log back to the state of a checkpoint, so that a resumed run continues it.

    What lies behind ``offset`` is appended to ``keep_tail_as`` and on disk before the log is cut, so nothing is lost.

    Args:
        path: the log.
        offset: bytes to keep, as `MLPerfLog.offset` returned them.
        keep_tail_as: file for the events after the checkpoint, of all interruptions.

    Returns:
        The number of bytes cut off.

    Raises:
        UserError: the log is absent or shorter than ``offset``, or ``offset`` is not at the end of a line: then log and
            checkpoint do not belong together.
    """
    try:
        stream = path.open('r+b')
    except OSError as error:
        raise UserError(f'{path}: cannot be opened ({error.strerror}); the checkpoint needs the log it was made with'
                        ) from error
    with stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, offset - 1))
        at_line_end = offset == 0 or stream.read(1) == b'\n'
        if not 0 <= offset <= size or not at_line_end:
            raise UserError(f'{path}: {size} bytes, but the checkpoint was made at byte {offset} of its log; '
                            'resume in the run folder that the checkpoint belongs to')
        tail = stream.read()
        if tail:
            with keep_tail_as.open('ab') as kept:
                kept.write(tail)
                kept.flush()
                os.fsync(kept.fileno())
            stream.truncate(offset)
            os.fsync(stream.fileno())
    return len(tail)


def _plain(value: Any) -> Any:
    """Return the value in types that JSON has; see `MLPerfLog` for not-a-number and infinities."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    # NumPy and PyTorch, arrays and scalars alike, without importing either.
    if hasattr(value, 'tolist'):
        return _plain(value.tolist())
    raise TypeError(f'{type(value).__name__} cannot be written to an MLPerf log: {value!r}')
