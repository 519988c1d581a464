"""New references from what is known: recorded runs, published results, a scaling law, a bidder's promise."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from mlperf_det.results.acceptance import Acceptance
from mlperf_det.results.groups import Group
from mlperf_det.results.published import ROUND_DATES, published_result
from mlperf_det.results.references.table import (
    METRICS,
    Direction,
    Key,
    Reference,
    References,
    ReferenceSource,
    SourceKind,
)
from mlperf_det.results.run import Run
from mlperf_det.results.scaling import MODELLED_METRICS, modelled_reference

#: a value gives way to one of the same or a higher rank
_RANKS: Mapping[SourceKind, int] = MappingProxyType({
    SourceKind.MODELLED: 0, SourceKind.PUBLISHED: 1, SourceKind.MEASURED: 2, SourceKind.PROMISED: 3})


def from_runs(groups: Iterable[Group], precision: str) -> dict[Key, Reference]:
    """Return references from recorded runs that reached their end: mean and sample standard deviation of each metric.

    Args:
        groups: of our own runs (measured) or of published ones (published by MLPerf).
        precision: of runs that do not say it, as published logs.
    """
    found: dict[Key, Reference] = {}
    for group in groups:
        runs = [run for run in group.runs if run.converged or run.finished_steps]
        first = next(iter(runs), None)
        if first is None or not first.geometry.accelerator or first.geometry.nodes is None:
            continue
        for metric in METRICS:
            values = [run.figures[metric] for run in runs if run.figures.get(metric, 0) > 0]
            if values:
                key = (first.benchmark, first.geometry.accelerator, first.geometry.nodes,
                       first.precision or precision, metric)
                found[key] = _of_values(metric, values, runs)
    return found


def _of_values(metric: str, values: Sequence[float], runs: Sequence[Run]) -> Reference:
    unit, direction = METRICS[metric]
    first = runs[0]
    started = max((run.started for run in runs if run.started is not None), default=0.0)
    date = datetime.datetime.fromtimestamp(started, datetime.timezone.utc).date()
    image = (first.record.image or {}).get('digest', '') if first.record else ''
    if first.record is None:
        source = ReferenceSource(kind=SourceKind.PUBLISHED, round=first.round, submitter=first.submitter or 'unknown',
                                 system=first.system or 'unknown')
        date = ROUND_DATES.get(first.round, date)
    else:
        source = ReferenceSource(kind=SourceKind.MEASURED, runs=tuple(str(run.source) for run in runs))
    return Reference(value=_rounded(statistics.fmean(values)), unit=unit, direction=Direction(direction),
                     n=len(values), spread=_rounded(statistics.stdev(values)) if len(values) > 1 else None, date=date,
                     image=str(image or ''), source=source)


def from_published(benchmark: str, accelerator: str, accelerators_per_node: int, nodes: Iterable[int],
                   precision: str, *, modelled: bool) -> dict[Key, Reference]:
    """Return references from published results; where nobody published any, from the scaling law if ``modelled``."""
    found: dict[Key, Reference] = {}
    for count in nodes:
        result = published_result(benchmark, accelerator, count * accelerators_per_node)
        for metric in MODELLED_METRICS:
            reference = result.reference(metric) if result else None
            if reference is None and modelled:
                reference = modelled_reference(benchmark, accelerator, count * accelerators_per_node, metric)
            if reference is not None:
                found[benchmark, accelerator, count, precision, metric] = reference
    return found


def from_promises(acceptance: Acceptance, precision: str, date: datetime.date) -> dict[Key, Reference]:
    """Return what a bidder promised as references.

    Args:
        acceptance: the promises.
        precision: of promises that leave it out.
        date: of the promise; acceptance files have none.
    """
    found: dict[Key, Reference] = {}
    for promise in acceptance.promises:
        for metric, reference in promise.references().items():
            source = ReferenceSource(kind=SourceKind.PROMISED, document=promise.document or acceptance.path.name)
            found[promise.benchmark, promise.accelerator, promise.nodes, promise.precision or precision, metric] = (
                Reference(value=reference.value, unit=reference.unit, direction=reference.direction, n=0, date=date,
                          tolerance=reference.tolerance, source=source))
    return found


def worth_proposing(new: Mapping[Key, Reference], known: References) -> tuple[dict[Key, Reference], list[str]]:
    """Return what is new, and why the rest is left out.

    A measured or promised value never gives way to a published or modelled one.
    """
    present = dict(known.items())
    chosen: dict[Key, Reference] = {}
    skipped = []
    for key, reference in new.items():
        there = present.get(key)
        if there == reference:
            continue
        if there is not None and there.source.kind is SourceKind.PUBLISHED and not there.source.note \
                and reference.source.kind is SourceKind.PUBLISHED and reference.source.note:
            skipped.append(f'{" ".join(map(str, key))}: the published value stays, whose spread was measured')
            continue
        if there is not None and _RANKS[reference.source.kind] < _RANKS[there.source.kind]:
            skipped.append(f'{" ".join(map(str, key))}: the {there.source.kind.value} value stays, '
                           f'the {reference.source.kind.value} one is left out')
            continue
        chosen[key] = reference
    return chosen, skipped


def _rounded(value: float) -> float:
    """Return a value to six significant digits, more than any measurement has."""
    return float(f'{value:.6g}')
