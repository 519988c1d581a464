"""One comparison: a peer, ours, and the proof that both give the same result."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


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
        warm_up: run both sides once before they are timed; not where a run takes long.
        peer_share: the peer gets this share of our input, and its seconds are divided by it.
        prepare: makes the input, outside of what is timed.
    """

    name: str
    peer: Callable[[], Any]
    ours: Callable[[], Any]
    equal: Callable[[Any, Any], None]
    target: float | None
    rounds: int = 3
    note: str = ''
    warm_up: bool = True
    peer_share: float = 1.0
    prepare: Callable[[], Any] = lambda: None


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


class Timing(NamedTuple):
    """What a call took and gave. CPU: this process and its finished children, user and system."""

    cpu: float
    wall: float
    result: Any


def measure(case: Case) -> Measurement:
    """Time both sides in turn, peer, ours, peer, ours, ..., and compare their first results."""
    case.prepare()
    gc.collect()
    gc.freeze()  # Millions of objects of input would slow down the collector, and with it the side with more garbage.
    try:
        return _measure(case)
    finally:
        gc.unfreeze()


def _measure(case: Case) -> Measurement:
    if case.warm_up:
        case.equal(case.peer(), case.ours())
    peer, ours = [], []
    for _ in range(case.rounds):
        theirs, mine = timed(case.peer), timed(case.ours)
        if not case.warm_up and not ours:
            case.equal(theirs.result, mine.result)
        peer.append((theirs.cpu / case.peer_share, theirs.wall / case.peer_share))
        ours.append((mine.cpu, mine.wall))
    return Measurement(
        case=case,
        peer_cpu=statistics.median(cpu for cpu, _ in peer),
        our_cpu=statistics.median(cpu for cpu, _ in ours),
        cpu_ratio=statistics.median(p[0] / max(o[0], 1e-9) for p, o in zip(peer, ours, strict=True)),
        wall_ratio=statistics.median(p[1] / max(o[1], 1e-9) for p, o in zip(peer, ours, strict=True)))


def timed(function: Callable[[], Any]) -> Timing:
    """Call a function and return what it took and gave."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    result = function()
    return Timing(_cpu_seconds() - cpu, time.perf_counter() - wall, result)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
