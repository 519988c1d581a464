"""One comparison: a peer, ours, and the proof that both give the same result."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared.

    Attributes:
        name: the row's title.
        peer: the straightforward form; returns its result.
        ours: our form; returns its result.
        equal: called once with (peer's result, ours); raises AssertionError where they differ.
        target: least ratio of CPU seconds, peer / ours; None reports without judging.
        rounds: interleaved rounds; the ratio is the median over them.
        note: what the row does not show, in a few words.
    """

    name: str
    peer: Callable[[], Any]
    ours: Callable[[], Any]
    equal: Callable[[Any, Any], None]
    target: float | None
    rounds: int = 3
    note: str = ''


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The outcome of a case: median seconds of CPU and wall time, and the median of the ratios per round."""

    case: Case
    peer_cpu: float
    our_cpu: float
    cpu_ratio: float
    wall_ratio: float

    @property
    def passed(self) -> bool:
        """Say whether the target was reached (always true for a row without one)."""
        return self.case.target is None or self.cpu_ratio >= self.case.target


def measure(case: Case) -> Measurement:
    """Check equality on a warm-up run of both sides, then time them in turn: peer, ours, peer, ours, ..."""
    case.equal(case.peer(), case.ours())
    peer, ours = [], []
    for _ in range(case.rounds):
        peer.append(_timed(case.peer))
        ours.append(_timed(case.ours))
    return Measurement(
        case=case,
        peer_cpu=statistics.median(cpu for cpu, _ in peer),
        our_cpu=statistics.median(cpu for cpu, _ in ours),
        cpu_ratio=statistics.median(p[0] / max(o[0], 1e-9) for p, o in zip(peer, ours, strict=True)),
        wall_ratio=statistics.median(p[1] / max(o[1], 1e-9) for p, o in zip(peer, ours, strict=True)))


def _timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Return CPU seconds (this process and its finished children, user and system) and wall seconds of a call."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    function()
    return _cpu_seconds() - cpu, time.perf_counter() - wall


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
