"""What an ``eval_accuracy`` event says, in the five shapes that rounds v0.5 to v5.1 have used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

from mlperf_det.mllog.events import Event

#: above every seed of 64 bits and every time in milliseconds; JSON integers may have thousands of digits
_LARGEST = 1e20


@dataclass(frozen=True, kw_only=True)
class LoggedAccuracy:
    """One evaluation: metric (``bbox``, ``segm``) -> AP as a fraction, and the epoch number as logged."""

    metrics: Mapping[str, float]
    epoch: float | None
    time_ms: float

    def reaches(self, target: Mapping[str, float]) -> bool:
        """Say whether every metric of a non-empty target is reached; a NaN or absent metric reaches nothing.

        A value above 1 is no AP: percent logged by mistake must not count as success.
        """
        return bool(target) and all(
            least <= self.metrics.get(metric, math.nan) <= 1 for metric, least in target.items())


def read_accuracy(event: Event) -> LoggedAccuracy:
    """Return the accuracy of an event; a value that is no number (words, null, another shape) is a NaN.

    Shapes: a number; ``{"BBOX":, "SEGM":}``; the same under ``accuracy`` (v0.6 NVIDIA); ``[bbox, segm]`` (v0.6
    Google); ``{"epoch":, "value":}`` (v0.5).
    """
    value = event.value
    epoch = event.meta('epoch_num')
    if isinstance(value, dict) and 'value' in value:
        epoch, value = value.get('epoch', epoch), value['value']
    if isinstance(value, dict) and 'accuracy' in value:
        value = value['accuracy']
    return LoggedAccuracy(metrics=_metrics(value), time_ms=event.time_ms, epoch=as_number(epoch))


def _metrics(value: Any) -> dict[str, float]:
    if isinstance(value, (list, tuple)):
        value = dict(zip(('bbox', 'segm'), value, strict=False))
    elif not isinstance(value, dict):
        value = {'bbox': value}
    found = {str(name).lower(): as_number(number) for name, number in value.items()}
    return {name: math.nan if number is None else float(number) for name, number in found.items()} or {'bbox': math.nan}


def as_number(value: Any) -> int | float | None:
    """Return a usable number, also one that was logged as text (``"0.34"``); None for all else."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                value = kind(value)
                break
    return value if is_usable(value) else None


def is_usable(value: Any) -> TypeGuard[int | float]:
    """Say whether a JSON value is a number to reckon with: not NaN, infinite or larger than anything a run counts."""
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST    # a bool is no number
