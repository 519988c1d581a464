"""References with provenance: what a metric is held against, where the value comes from, and how far a run may stray.

``systems/<site>/references.yaml``::

    ssd:                              # benchmark
      A100-SXM4-80GB:                 # accelerator, in the spelling of `mllog.systems.accelerator_class`
        1:                            # nodes
          bf16:                       # precision
            time_to_train:            # metric
              value: 512.4
              unit: s
              direction: lower        # lower or higher values are better
              n: 5                    # runs it stands on
              spread: 3.1             # their sample standard deviation, in the same unit
              date: 2026-03-01
              image: sha256:1f0c...
              source: {kind: measured, runs: [/results/ssd/2026-03-01]}

Bounds come from the spread: one more run of the same kind stays on the good side of them with a stated confidence. A
promised value is its own bound.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from mlperf_det.results.student_t import student_t_quantile
from mlperf_det.yaml_files import as_mapping, check_known, fail, read_yaml

BENCHMARKS = ('ssd', 'retinanet', 'maskrcnn')
PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp16', 'mixed')
#: metric -> (unit, which direction is better)
METRICS: Mapping[str, tuple[str, str]] = MappingProxyType({
    'time_to_train': ('s', 'lower'),
    'images_per_second': ('images/s', 'higher'),
    'epochs_to_target': ('epochs', 'lower'),
    'evaluation_seconds': ('s', 'lower'),
    'data_wait_share': ('fraction', 'lower'),
    'bbox_ap': ('fraction', 'higher'),
    'segm_ap': ('fraction', 'higher'),
    'result_seconds': ('s', 'lower'),
    'jobs_per_day_by_result': ('jobs/day', 'higher'),
    'jobs_per_day_by_time_to_train': ('jobs/day', 'higher'),
})
#: benchmark, accelerator, nodes, precision, metric
Key = tuple[str, str, int, str, str]
#: A good run is called bad once in a hundred.
CONFIDENCE = 0.99


class Direction(str, Enum):
    """Which values are better."""

    LOWER = 'lower'
    HIGHER = 'higher'


class SourceKind(str, Enum):
    """Where a reference comes from."""

    MEASURED = 'measured'      # on this system
    PROMISED = 'promised'      # by the vendor, in the contract
    PUBLISHED = 'published'    # by MLPerf; needs round, submitter and system
    MODELLED = 'modelled'      # by a scaling law; needs a note that says what it was fitted to


@dataclass(frozen=True, kw_only=True)
class ReferenceSource:
    """Provenance of a value; which fields are needed depends on the kind."""

    kind: SourceKind
    #: published: MLPerf round, submitter and system
    round: str = ''
    submitter: str = ''
    system: str = ''
    #: promised: the document; measured: run folders or a session
    document: str = ''
    runs: tuple[str, ...] = ()
    note: str = ''


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One reference value.

    Attributes:
        value: in `unit`.
        n: runs it stands on.
        spread: their sample standard deviation in `unit`; None: not known.
        tolerance: fraction by which the contract lets a promised value be missed; only for promised values.
    """

    value: float
    unit: str
    direction: Direction
    n: int
    source: ReferenceSource
    date: datetime.date
    spread: float | None = None
    tolerance: float = 0.0
    image: str = ''

    def limit(self, confidence: float = CONFIDENCE) -> float | None:
        """Return the worst acceptable value of one run; None where nothing tells how far runs scatter.

        Measured, published and modelled values: the one-sided prediction bound of one further run,
        ``value +- t(confidence, n - 1) * spread * sqrt(1 + 1/n)`` (normal scatter; Hahn & Meeker, Statistical
        Intervals). Promised values: the value itself, widened by the contract's tolerance.
        """
        sign = 1 if self.direction is Direction.LOWER else -1
        if self.source.kind is SourceKind.PROMISED:
            return self.value * (1 + sign * self.tolerance)
        if self.spread is None or self.n < 2:
            return None
        width: float = student_t_quantile(confidence, self.n - 1) * self.spread * (1 + 1 / self.n) ** 0.5
        return self.value + sign * width


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """The answer to a look-up: a reference with its bounds, or the reason why there is none.

    Attributes:
        reference: None: missing; ``reason`` says what is there instead.
        lower, upper: acceptable range; None: open on that side.
        reason: why the reference, or its bound, is missing; empty when all is there.
    """

    reference: Reference | None
    lower: float | None = None
    upper: float | None = None
    reason: str = ''


class References:
    """The references of a site; `load_references` makes them."""

    def __init__(self, values: Mapping[Key, Reference], path: Path) -> None:
        self._values = dict(values)
        self.path = path

    def items(self) -> Iterable[tuple[Key, Reference]]:
        """Return key (benchmark, accelerator, nodes, precision, metric) and reference of each entry."""
        return self._values.items()

    def __len__(self) -> int:
        return len(self._values)

    def lookup(self, benchmark: str, accelerator: str, nodes: int, precision: str, metric: str,
               *, confidence: float = CONFIDENCE) -> Lookup:
        """Return the reference of a metric with its bounds, or the reason why there is none."""
        key = (benchmark, accelerator, nodes, precision, metric)
        reference = self._values.get(key)
        if reference is None:
            return Lookup(reference=None, reason=self._missing(key))
        limit = reference.limit(confidence)
        reason = '' if limit is not None else (
            f'{self.path}: {_where(key)} stands on n = {reference.n} without spread; measure it at least twice')
        lower_is_better = reference.direction is Direction.LOWER
        return Lookup(reference=reference, reason=reason, upper=limit if lower_is_better else None,
                      lower=None if lower_is_better else limit)

    def _missing(self, key: Key) -> str:
        """Say at which level the look-up fails, and what there is."""
        names = ('benchmark', 'accelerator', 'nodes', 'precision', 'metric')
        for depth, name in enumerate(names):
            there = sorted({str(known[depth]) for known in self._values if known[:depth] == key[:depth]})
            if str(key[depth]) not in there:
                return (f'{self.path}: no reference for {_where(key)}: {name} {key[depth]} is missing'
                        + (f', there is {", ".join(there)}' if there else ''))
        return f'{self.path}: no reference for {_where(key)}'


def load_references(path: Path) -> References:
    """Read a references file.

    Raises:
        UserError: the file cannot be read, a key is unknown (the nearest known one is named), a value has the wrong
            type, or a reference contradicts itself; the message names file and field.
    """
    return parse_references(read_yaml(path, 'give a references.yaml'), path)


def parse_references(content: Any, path: Path) -> References:
    """Return the references in the content of a YAML file; raises as `load_references` does, naming ``path``."""
    found: dict[Key, Reference] = {}
    for benchmark, accelerators in as_mapping(content or {}, str(path)).items():
        where = f'{path}: {benchmark}'
        check_known(benchmark, BENCHMARKS, 'benchmark', str(path))
        for accelerator, node_counts in as_mapping(accelerators, where).items():
            if not isinstance(accelerator, str):
                fail(f'{where}.{accelerator}', 'the accelerator must be text, e.g. H100-SXM5-80GB')
            for nodes, precisions in as_mapping(node_counts, f'{where}.{accelerator}').items():
                if not isinstance(nodes, int) or isinstance(nodes, bool) or nodes < 1:
                    fail(f'{where}.{accelerator}.{nodes}', 'the number of nodes must be a whole number from 1')
                for precision, metrics in as_mapping(precisions, f'{where}.{accelerator}.{nodes}').items():
                    inner = f'{where}.{accelerator}.{nodes}'
                    check_known(precision, PRECISIONS, 'precision', inner)
                    for metric, fields in as_mapping(metrics, f'{inner}.{precision}').items():
                        check_known(metric, METRICS, 'metric', f'{inner}.{precision}')
                        found[benchmark, accelerator, nodes, precision, metric] = _reference(
                            fields, metric, f'{inner}.{precision}.{metric}')
    return References(found, path)


def _reference(fields: Any, metric: str, where: str) -> Reference:
    fields = as_mapping(fields, where)
    for key in fields:
        check_known(key, Reference.__dataclass_fields__, 'field', where)
    if isinstance(source := fields.get('source'), dict):
        for key in source:
            check_known(key, ReferenceSource.__dataclass_fields__, 'field', f'{where}.source')
    try:
        reference = msgspec.convert(fields, Reference)
    except msgspec.ValidationError as error:
        fail(where, str(error).replace('$.', ''))
    for problem in _contradictions(reference, metric):
        fail(where, problem)
    return reference


def _contradictions(reference: Reference, metric: str) -> Iterable[str]:
    unit, direction = METRICS[metric]
    source = reference.source
    if reference.unit != unit:
        yield f'unit is {reference.unit!r}, {metric} is given in {unit!r}'
    if reference.direction.value != direction:
        yield f'direction is {reference.direction.value!r}, of {metric} {direction} values are better'
    if not 0 < reference.value < float('inf'):
        yield f'value is {reference.value}, it must be positive'
    if reference.spread is not None and not 0 <= reference.spread < float('inf'):
        yield f'spread is {reference.spread}, a standard deviation is not negative'
    if reference.n < (0 if source.kind is SourceKind.PROMISED else 1):
        yield f'n is {reference.n}, a {source.kind.value} value stands on at least one run'
    if reference.tolerance and source.kind is not SourceKind.PROMISED:
        yield 'tolerance belongs to promised values; the others get their bounds from the spread'
    if not 0 <= reference.tolerance < 1:
        yield f'tolerance is {reference.tolerance}, it is a fraction of the value'
    if source.kind is SourceKind.PUBLISHED and not (source.round and source.submitter and source.system):
        yield 'a published value needs source.round, source.submitter and source.system'
    if source.kind is SourceKind.MODELLED and not source.note:
        yield 'a modelled value needs source.note: what the model was fitted to'
    if source.kind is SourceKind.PROMISED and not source.document:
        yield 'a promised value needs source.document: where the promise is written'


def _where(key: Key) -> str:
    benchmark, accelerator, nodes, precision, metric = key
    return f'{metric} of {benchmark} on {nodes} node(s) of {accelerator} at {precision}'
