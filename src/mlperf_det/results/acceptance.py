"""``acceptance.yaml``: what the contract promises, benchmark by benchmark, and how sure the buyer wants to be.

::

    confidence: 0.95                # of every statement; 0.95 where it is left out
    promises:
      - benchmark: ssd              # ssd, retinanet or maskrcnn
        accelerator: H100-SXM5-80GB # in the spelling of references
        nodes: 4
        accelerators_per_node: 8
        precision: bf16             # optional: any, where it is left out
        time_to_train: {value: 2.5, unit: min, tolerance: 0.05}        # unit s, min or h; tolerance is a fraction
        throughput: {value: 46000, unit: images/s, tolerance: 0.02}    # at least one of the two
        runs: 5                     # that the acceptance takes
        quality: {bbox: 0.23}       # optional: least AP, where the contract asks for more than the benchmark
        document: offer 17, page 3  # where the promise is written
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from mlperf_det.mllog.systems import accelerator_class
from mlperf_det.results.references.table import (
    BENCHMARKS,
    METRICS,
    PRECISIONS,
    Direction,
    Reference,
    ReferenceSource,
    SourceKind,
)
from mlperf_det.results.run import Run
from mlperf_det.yaml_files import as_mapping, check_known, fail, read_yaml

#: that the runs lie on the side of the promise where the verdict says they lie
CONFIDENCE = 0.95
#: promised field -> (metric of references, unit -> how many of the metric's units it is)
_PROMISED: Mapping[str, tuple[str, Mapping[str, float]]] = MappingProxyType({
    'time_to_train': ('time_to_train', MappingProxyType({'s': 1.0, 'min': 60.0, 'h': 3600.0})),
    'throughput': ('images_per_second', MappingProxyType({'images/s': 1.0})),
})
_QUALITIES = ('bbox', 'segm')
_FIX = 'give an acceptance.yaml'


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A promised figure as the contract states it: `tolerance` is the fraction by which it may be missed."""

    value: float
    unit: str
    tolerance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is promised of one benchmark at one geometry.

    Attributes:
        runs: how many the acceptance takes.
        quality: metric -> least AP as a fraction; empty: the benchmark's own target.
        document: where the promise is written.
    """

    benchmark: str
    accelerator: str
    nodes: int
    accelerators_per_node: int
    runs: int
    precision: str = ''
    time_to_train: Amount | None = None
    throughput: Amount | None = None
    quality: Mapping[str, float] = field(default_factory=dict)
    document: str = ''

    @property
    def title(self) -> str:
        """What is promised, in words."""
        precision = f', {self.precision}' if self.precision else ''
        return (f'{self.benchmark} on {self.nodes} node(s) with {self.accelerators_per_node} x {self.accelerator}'
                f'{precision}')

    def covers(self, run: Run) -> bool:
        """Say whether the promise is about a run of this kind.

        Runs of the throughput tier train to no target, so a promised time is not about them.
        """
        place = run.geometry
        if run.tier == 'throughput' and self.time_to_train is not None:
            return False
        return (self.benchmark == run.benchmark and self.nodes == place.nodes
                and self.accelerators_per_node == place.accelerators_per_node
                and accelerator_class(self.accelerator) == place.accelerator
                and self.precision in ('', run.precision))

    def references(self) -> dict[str, Reference]:
        """Return metric -> the promise as a reference, in the units of references."""
        found = {}
        for name, (metric, units) in _PROMISED.items():
            amount: Amount | None = getattr(self, name)
            if amount is not None:
                unit, direction = METRICS[metric]
                found[metric] = Reference(
                    value=amount.value * units[amount.unit], unit=unit, direction=Direction(direction), n=0,
                    tolerance=amount.tolerance, date=datetime.date.min,
                    source=ReferenceSource(kind=SourceKind.PROMISED, document=self.document or 'acceptance.yaml'))
        return found


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """The content of an acceptance file."""

    path: Path
    promises: tuple[Promise, ...]
    confidence: float = CONFIDENCE

    def promise_for(self, run: Run) -> Promise | None:
        """Return the promise about runs like this one; None: nothing is promised of them."""
        return next((promise for promise in self.promises if promise.covers(run)), None)


def load_acceptance(path: Path) -> Acceptance:
    """Read an acceptance file.

    Raises:
        UserError: the file cannot be read, a key is unknown (the nearest known one is named), a unit or type is wrong,
            or two promises are about the same runs; the message names file and field.
    """
    content = as_mapping(read_yaml(path, _FIX) or {}, str(path))
    for key in content:
        check_known(key, ('confidence', 'promises'), 'field', str(path))
    confidence = content.get('confidence', CONFIDENCE)
    if not isinstance(confidence, float) or not 0.5 < confidence < 1:
        fail(f'{path}: confidence', f'is {confidence!r}, it must be a number between 0.5 and 1, e.g. 0.95')
    listed = content.get('promises')
    if not isinstance(listed, list) or not listed:
        fail(f'{path}: promises', 'must be a list of at least one promise; without one nothing is accepted')
    promises = tuple(_promise(fields, f'{path}: promises[{number}]') for number, fields in enumerate(listed))
    for number, promise in enumerate(promises):
        for earlier in promises[:number]:
            if _overlap(earlier, promise):
                fail(f'{path}: promises[{number}]', f'{promise.title} is promised twice')
    return Acceptance(path=path, promises=promises, confidence=confidence)


def _promise(fields: Any, where: str) -> Promise:
    fields = as_mapping(fields, where)
    for key in fields:
        check_known(key, Promise.__dataclass_fields__, 'field', where)
    check_known(fields.get('benchmark'), BENCHMARKS, 'benchmark', where)
    if fields.get('precision'):
        check_known(fields['precision'], PRECISIONS, 'precision', where)
    for name, (_, units) in _PROMISED.items():
        if name in fields:
            _check_amount(fields[name], units, f'{where}.{name}')
    try:
        promise = msgspec.convert(fields, Promise)
    except msgspec.ValidationError as error:
        fail(where, str(error).replace('$.', ''))
    for name in ('nodes', 'accelerators_per_node', 'runs'):
        if getattr(promise, name) < 1:
            fail(f'{where}.{name}', f'is {getattr(promise, name)}, it must be a whole number from 1')
    if not promise.references():
        fail(where, 'promises nothing; give time_to_train, throughput or both')
    for metric, least in promise.quality.items():
        check_known(metric, _QUALITIES, 'quality', f'{where}.quality')
        if not 0 < least < 1:
            fail(f'{where}.quality.{metric}', f'is {least}, it is a fraction: 0.23 means 23 %')
    return promise


def _check_amount(fields: Any, units: Mapping[str, float], where: str) -> None:
    fields = as_mapping(fields, where)
    for key in fields:
        check_known(key, Amount.__dataclass_fields__, 'field', where)
    if fields.get('unit') not in units:
        fail(f'{where}.unit', f'is {fields.get("unit")!r}, it must be {" or ".join(units)}')
    value, tolerance = fields.get('value'), fields.get('tolerance', 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float('inf'):
        fail(f'{where}.value', f'is {value!r}, it must be a positive number')
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        fail(f'{where}.tolerance', f'is {tolerance!r}, it is a fraction of the value: 0.05 means 5 %')


def _overlap(one: Promise, other: Promise) -> bool:
    same = ('benchmark', 'nodes', 'accelerators_per_node')
    return (all(getattr(one, name) == getattr(other, name) for name in same)
            and accelerator_class(one.accelerator) == accelerator_class(other.accelerator)
            and (one.precision == other.precision or '' in (one.precision, other.precision)))
