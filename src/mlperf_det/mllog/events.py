"""The event: one fact of an MLPerf log, whatever round's form it was written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

import msgspec

#: a time beyond this (30 million years from 1970) is no time; JSON integers may have thousands of digits
LATEST_MS = 10**18
_Time = (Annotated[int, msgspec.Meta(ge=-LATEST_MS, le=LATEST_MS)]
         | Annotated[float, msgspec.Meta(ge=-float(LATEST_MS), le=float(LATEST_MS))])


class Form(str, Enum):
    """The three line forms that MLPerf Training has had."""

    V05 = ':::MLPv0.5.0'
    V06 = ':::MLL'
    MLLOG = ':::MLLOG'


class Event(msgspec.Struct, gc=False):
    """One event. Decoded straight from the JSON of a ``:::MLLOG`` line; older forms are brought into this shape.

    Attributes:
        key: the name of the fact, e.g. ``eval_accuracy``.
        time_ms: Unix time in milliseconds (v0.5 and v0.6 log seconds, which are converted).
        value: any JSON value.
        metadata: epoch numbers, ``status`` and the place in the source code.
        event_type: ``POINT_IN_TIME``, ``INTERVAL_START`` or ``INTERVAL_END``; empty where the log leaves it out.
        line: line of the file, from 1.
    """

    key: str
    time_ms: _Time
    value: Any = None
    metadata: Mapping[str, Any] | None = None
    event_type: str = ''
    line: int = 0

    def meta(self, name: str) -> Any:
        """Return a metadata entry, or None where it is absent."""
        return self.metadata.get(name) if self.metadata else None


@dataclass
class Forgiven:
    """What a reader had to forgive: kinds, how often, and the first line of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, line: int) -> None:
        """Count one more occurrence of ``kind``."""
        self.counts[kind] += 1
        self.first_lines.setdefault(kind, line)

    def lines(self) -> tuple[str, ...]:
        """Return one readable line a kind, in the order of first occurrence."""
        return tuple(f'{kind} ({count}x, first at line {self.first_lines[kind]})'
                     for kind, count in self.counts.items())
