"""Groups of runs that are judged together: the repeated runs of one benchmark on one system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mlperf_det.results.run import Run


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one benchmark at one geometry.

    Attributes:
        key: identifies the group; the folder of a published group.
        title: for people.
        runs: in natural order of their paths.
    """

    key: str
    title: str
    runs: tuple[Run, ...]

    @property
    def folder(self) -> PurePath:
        """Where the first run's files lie."""
        first = self.runs[0]
        return first.log.parent if first.log is not None else first.source


def group_runs(runs: Iterable[Run]) -> list[Group]:
    """Put runs together: published logs by their folder, our own by benchmark, recipe, precision and hardware.

    Hidden files, such as partial copies beside results, are left out.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.log is None or not run.log.name.startswith('.'):
            found.setdefault(_key(run), []).append(run)
    return [Group(key=key, title=_title(members), runs=tuple(members)) for key, members in found.items()]


def _key(run: Run) -> str:
    if run.record is None:
        folder = run.log.parent if run.log is not None else run.source
        return str(folder)
    place = run.geometry
    return '/'.join(map(str, (run.benchmark, run.record.recipe.get('name'), run.tier, run.precision, place.nodes,
                              place.accelerators_per_node, place.accelerator)))


def _title(runs: Sequence[Run]) -> str:
    first = runs[0]
    if first.record is None:
        parts = (first.round, first.submitter, first.system, first.model or first.benchmark)
        return ' '.join(part for part in parts if part) or '/'.join(first.source.parts[-2:])
    place = first.geometry
    hardware = 'CPU' if place.accelerator == 'cpu' else f'{place.accelerators} x {place.accelerator}'
    nodes = f'{place.nodes} node{"s" if place.nodes != 1 else ""}'
    return f'{first.benchmark} {first.record.recipe.get("name", "")}, {nodes}, {hardware}'
