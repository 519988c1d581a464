"""Regressions: where the history of a metric turned worse, and what changed in the machine at that date."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlperf_det.results.references.table import METRICS
from mlperf_det.results.run import Run
from mlperf_det.run_folder import RunRecord

if TYPE_CHECKING:
    from mlperf_det.results.change_points import ChangePoint, Kind

#: metrics that are shares already: changes are meant as differences, not as ratios
_SHARES = ('data_wait_share',)
#: a change of less than half a per cent (of a share: half a percentage point) is of no interest
LEAST_CHANGE = 0.005


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One value of a metric.

    Attributes:
        time: Unix seconds.
        value: in the metric's unit.
        source: run folder or test case that it comes from.
        facts: what the run stood on: software, image, driver and node list by name.
    """

    time: float
    value: float
    source: str = ''
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Series:
    """The history of one metric of one case (benchmark, recipe and hardware)."""

    case: str
    metric: str
    observations: tuple[Observation, ...]


@dataclass(frozen=True, kw_only=True)
class FactChange:
    """Something that is different from the first bad run on; empty text: it was not there.

    ``lasting`` says that all good runs before had the old value and all bad ones after have the new one, as a cause
    would; else it changes at other times as well.
    """

    name: str
    before: str
    after: str
    lasting: bool


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A lasting change of a metric.

    Attributes:
        series: that it was found in.
        kind: step or drift.
        index: of the first bad observation.
        before, after: typical value on either side, in the metric's unit; of a drift, at its start and its end.
        change: relative change (of a share: the difference); positive: the value rose.
        worse: it changed for the worse; an improvement is worth knowing as well.
        causes: what changed with it, what lasts first.
    """

    series: Series
    kind: Kind
    index: int
    before: float
    after: float
    change: float
    worse: bool
    causes: tuple[FactChange, ...]

    @property
    def first_bad(self) -> Observation:
        """The first observation after the change."""
        return self.series.observations[self.index]

    @property
    def last_good(self) -> Observation:
        """The last observation before the change (of a drift from the start, the first)."""
        return self.series.observations[max(0, self.index - 1)]


def find_regressions(series: Iterable[Series], *, least_change: float = LEAST_CHANGE) -> list[Regression]:
    """Return the lasting changes in some histories, in order; histories of fewer than eleven values have none."""
    from mlperf_det.results.change_points import change_points  # needs numpy, which a list of runs does not
    found = []
    for each in series:
        values = [observation.value for observation in each.observations]
        shares = each.metric in _SHARES
        if not shares and not all(value > 0 for value in values):
            continue
        scaled = values if shares else [math.log(value) for value in values]
        found += [_regression(each, point, shares=shares)
                  for point in change_points(scaled, least_change=least_change)]
    return found


def _regression(series: Series, point: ChangePoint, *, shares: bool) -> Regression:
    before, after = (point.before, point.after) if shares else (math.exp(point.before), math.exp(point.after))
    rose = after > before
    return Regression(series=series, kind=point.kind, index=point.index, before=before, after=after,
                      change=after - before if shares else after / before - 1,
                      worse=rose == (METRICS[series.metric][1] == 'lower'),
                      causes=tuple(_causes(series.observations, point.index)))


def _causes(observations: Sequence[Observation], index: int) -> list[FactChange]:
    """Return the facts that differ between the last good and the first bad observation."""
    if index == 0:
        return []
    last, first = observations[index - 1].facts, observations[index].facts
    found = []
    for name in dict.fromkeys([*last, *first]):
        old, new = last.get(name, ''), first.get(name, '')
        if old != new:
            lasting = (all(each.facts.get(name, '') == old for each in observations[:index])
                       and all(each.facts.get(name, '') == new for each in observations[index:]))
            found.append(FactChange(name=name, before=old, after=new, lasting=lasting))
    return sorted(found, key=lambda change: not change.lasting)


def facts_of(run: Run) -> dict[str, str]:
    """Return what a run stood on, for `Observation.facts`: empty for a published log."""
    return {} if run.record is None else facts_of_record(run.record)


def facts_of_record(record: RunRecord) -> dict[str, str]:
    """Return what a run stood on by its run.json: software, image, nodes, devices, data, settings and environment."""
    image = record.image or {}
    host = record.hosts[0] if record.hosts else {}
    facts = {f'software: {name}': version for name, version in record.software.items()}
    facts |= {'image': str(image.get('digest') or image.get('path') or 'none'),
              'nodes': ', '.join(sorted(str(each.get('name')) for each in record.hosts)),
              'devices': ', '.join(map(str, host.get('devices') or ())),
              'CPU': str(host.get('cpu') or ''), 'dataset': str(record.dataset.get('fingerprint') or ''),
              'recipe': str(record.recipe.get('name') or '')}
    facts |= {f'runtime: {name}': str(value) for name, value in record.runtime.items()}
    facts |= {f'environment: {name}': value for name, value in record.environment.items()
              if name.startswith(('NCCL_', 'OMP_', 'UCX_', 'RCCL_'))}
    return facts
