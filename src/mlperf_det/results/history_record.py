"""One run in the history, whichever place recorded it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run in the history.

    Attributes:
        identifier: the test case's UUID in ReFrame, or the path of the run folder.
        origin: ``reframe`` or ``run folder``.
        time: Unix seconds at its end (ReFrame) or start; None: not known.
        case: what is compared over time: check and place, or benchmark, recipe and hardware.
        result: ``pass``, ``fail`` ... (ReFrame) or the status of the run.
        metrics: by name, in the units of references.
        facts: what the run stood on, by name.
    """

    identifier: str
    origin: str
    time: float | None
    case: str
    system: str
    result: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
