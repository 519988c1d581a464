"""metrics.jsonl: the course of a run and where the time of each rank went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import msgspec

from mlperf_det.results.run import RankTime, TrackPoint

PHASES = ('data_wait', 'step', 'evaluation', 'score_wait', 'checkpoint')


class _Step(msgspec.Struct, tag_field='kind', tag='step'):
    """A look at the running training, as written by the training program."""

    time: float
    step: float
    loss: float | msgspec.UnsetType | None = msgspec.UNSET
    images_per_second: float | None = None
    data_wait_share: float | None = None


class _Epoch(msgspec.Struct, tag_field='kind', tag='epoch'):
    """Where the time of one rank went in one epoch."""

    rank: int
    host: str
    seconds: float
    data_wait: float | None = None
    step: float | None = None
    evaluation: float | None = None
    score_wait: float | None = None
    checkpoint: float | None = None


class _SteadyState(msgspec.Struct, tag_field='kind', tag='steady_state'):
    """The rate after warm-up."""

    images_per_second: float | None = None


class _Attempt(msgspec.Struct, tag_field='kind', tag='attempt'):
    """A start of the program: of no interest here, as the next two."""


class _Checkpoint(msgspec.Struct, tag_field='kind', tag='checkpoint'):
    pass


class _Evaluation(msgspec.Struct, tag_field='kind', tag='evaluation'):
    pass


_Line = _Step | _Epoch | _SteadyState | _Attempt | _Checkpoint | _Evaluation
_lines = msgspec.json.Decoder(_Line)
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


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
        content: of the file; a line that cannot be read is left out and mentioned in `RunMetrics.forgiven`.
        run_start: Unix seconds that `TrackPoint.seconds` counts from.
    """
    track: list[TrackPoint] = []
    seconds: dict[tuple[int, str], float] = defaultdict(float)
    phases: dict[tuple[int, str], dict[str, float]] = defaultdict(lambda: dict.fromkeys(PHASES, 0.0))
    steady, diverged = None, False
    lines, broken = _read_lines(content)
    for line in lines:
        if isinstance(line, _Step):
            loss = None if line.loss is msgspec.UNSET else line.loss
            diverged |= line.loss is None
            track.append(TrackPoint(seconds=line.time - run_start, step=line.step, loss=loss,
                                    images_per_second=line.images_per_second, data_wait_share=line.data_wait_share))
        elif isinstance(line, _Epoch):
            seconds[line.rank, line.host] += line.seconds
            for phase, total in phases[line.rank, line.host].items():
                phases[line.rank, line.host][phase] = total + (getattr(line, phase) or 0.0)
        elif isinstance(line, _SteadyState):
            steady = line.images_per_second
    return RunMetrics(
        track=tuple(track), diverged=diverged, steady_images_per_second=steady,
        ranks=tuple(RankTime(rank=rank, host=host, seconds=seconds[rank, host], phases=phases[rank, host])
                    for rank, host in sorted(seconds)),
        forgiven=(f'metrics.jsonl: {broken} line(s) that cannot be read left out',) if broken else ())


def _read_lines(content: bytes) -> tuple[list[_Line], int]:
    """Return the lines of known kinds, and how many lines cannot be read."""
    try:
        return _lines.decode_lines(content), 0
    except (msgspec.DecodeError, RecursionError):
        pass    # some line is broken, or of a kind that a later program writes
    lines: list[_Line] = []
    broken = 0
    for text in content.splitlines():
        try:
            lines.append(_lines.decode(text))
        except (msgspec.DecodeError, RecursionError):
            broken += bool(text.strip()) and not _is_of_another_kind(text)
    return lines, broken


def _is_of_another_kind(text: bytes) -> bool:
    """Say whether a line is sound, but of a kind that is of no interest here."""
    try:
        kind = _decode_any(text).get('kind')
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(kind, str) and kind not in ('step', 'epoch', 'steady_state')
