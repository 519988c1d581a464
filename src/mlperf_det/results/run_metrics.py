"""metrics.jsonl: the course of a run and where the time of each rank went."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mlperf_det.results.run import RankTime, TrackPoint

PHASES = ('data_wait', 'step', 'evaluation', 'score_wait', 'checkpoint')
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The content of metrics.jsonl as the later stations need it."""

    track: tuple[TrackPoint, ...] = ()
    ranks: tuple[RankTime, ...] = ()
    steady_images_per_second: float | None = None
    #: a loss was logged that is not a finite number
    diverged: bool = False
    forgiven: tuple[str, ...] = ()


def parse_metrics(content: bytes, run_start: float) -> RunMetrics:
    """Read metrics.jsonl.

    Args:
        content: of the file; a line that is not JSON is left out and mentioned in `RunMetrics.forgiven`.
        run_start: Unix seconds that `TrackPoint.seconds` counts from.
    """
    track: list[TrackPoint] = []
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    phases: dict[tuple[int, str], dict[str, float]] = defaultdict(lambda: dict.fromkeys(PHASES, 0.0))
    steady, diverged, broken = None, False, 0
    for line in content.splitlines():
        try:
            entry = _decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            broken += bool(line.strip())
            continue
        kind = entry.get('kind')
        if kind == 'step':
            point = _point(entry, run_start)
            diverged |= 'loss' in entry and point.loss is None
            track.append(point)
        elif kind == 'epoch':
            key = (int(_number(entry.get('rank')) or 0), str(entry.get('host') or ''))
            seconds[key] += _number(entry.get('seconds')) or 0.0
            for phase in PHASES:
                phases[key][phase] += _number(entry.get(phase)) or 0.0
        elif kind == 'steady_state':
            steady = _number(entry.get('images_per_second'))
    return RunMetrics(
        track=tuple(track), diverged=diverged, steady_images_per_second=steady,
        ranks=tuple(RankTime(rank=rank, host=host, seconds=seconds[rank, host], phases=phases[rank, host])
                    for rank, host in sorted(seconds)),
        forgiven=(f'metrics.jsonl: {broken} line(s) that are not JSON left out',) if broken else ())


def _point(entry: Mapping[str, Any], run_start: float) -> TrackPoint:
    return TrackPoint(seconds=(_number(entry.get('time')) or run_start) - run_start,
                      step=_number(entry.get('step')) or 0, loss=_number(entry.get('loss')),
                      images_per_second=_number(entry.get('images_per_second')),
                      data_wait_share=_number(entry.get('data_wait_share')))


def _number(value: Any) -> float | None:
    """Return a finite number, else None (JSON has no NaN: a loss that is none is written as null)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
