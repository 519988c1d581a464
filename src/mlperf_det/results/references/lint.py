"""What is doubtful in a references file that can be read."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from mlperf_det.mllog.systems import accelerator_class
from mlperf_det.results.references.table import Key, Reference, References, SourceKind

#: a measured value this old says little of today's software
OLDEST_DAYS = 400
#: a spread of this share of the value excludes next to nothing
LARGEST_SPREAD = 0.25


def findings(references: References, today: datetime.date) -> list[str]:
    """Return what is doubtful, one line each, with the entry's name; an empty list: nothing."""
    if not len(references):
        return [f'{references.path}: has no reference at all; every judged metric will fail for want of one']
    return [f'{references.path}: {".".join(map(str, key))}: {problem}'
            for key, reference in references.items() for problem in _problems(key, reference, today)]


def _problems(key: Key, reference: Reference, today: datetime.date) -> Iterator[str]:
    kind, limit = reference.source.kind, reference.limit()
    if limit is None:
        yield f'stands on n = {reference.n} without spread, so it has no limit; measure it at least twice'
    elif limit <= 0:
        yield f'its limit is {limit:.4g}: the spread is so large that nothing is excluded'
    elif reference.spread is not None and reference.spread > LARGEST_SPREAD * reference.value:
        yield f'its spread is {reference.spread / reference.value:.0%} of the value; it excludes next to nothing'
    if reference.date > today:
        yield f'its date {reference.date} lies in the future'
    if kind is SourceKind.MEASURED and (today - reference.date).days > OLDEST_DAYS:
        yield f'was measured on {reference.date}, more than {OLDEST_DAYS} days ago; measure it again'
    if kind is SourceKind.MEASURED and not reference.source.runs:
        yield 'does not say which runs it was measured by (source.runs)'
    if kind is SourceKind.MODELLED:
        yield 'is modelled, not measured; measure it before it decides anything'
    if (spelling := accelerator_class(key[1])) != key[1] and key[1] != 'cpu':
        yield f'runs are looked up under {spelling!r}, so this entry is never found'
