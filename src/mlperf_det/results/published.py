"""Published MLPerf results of the three benchmarks: the best of each accelerator and count, with its provenance.

``published.csv`` beside this file has one row for each benchmark, accelerator and number of accelerators in the closed
division of MLPerf Training v0.5 to v5.1: time to train by the rules of the round (best, median and worst of all
results), and round, submitter, system, batch, epochs and training images/s of the best.
"""

from __future__ import annotations

import csv
import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlperf_det.results.references.table import METRICS, Direction, Reference, ReferenceSource, SourceKind

#: days on which MLCommons published the rounds
ROUND_DATES: Mapping[str, datetime.date] = MappingProxyType({
    'v0.5': datetime.date(2018, 12, 12), 'v0.6': datetime.date(2019, 7, 10), 'v0.7': datetime.date(2020, 7, 29),
    'v1.0': datetime.date(2021, 6, 30), 'v1.1': datetime.date(2021, 12, 1), 'v2.0': datetime.date(2022, 6, 29),
    'v2.1': datetime.date(2022, 11, 9), 'v3.0': datetime.date(2023, 6, 27), 'v3.1': datetime.date(2023, 11, 8),
    'v4.0': datetime.date(2024, 6, 12), 'v4.1': datetime.date(2024, 11, 13), 'v5.0': datetime.date(2025, 6, 4),
    'v5.1': datetime.date(2025, 11, 12)})
#: runs that a published result stands on
RUNS = 5
#: Standard deviation of the five times of a published result as a fraction of their mean: the median range of all
#: results (0.7 %, 0.3 % and 5 %), divided by the expected range of five normal values, 2.326 standard deviations.
TYPICAL_SPREAD: Mapping[str, float] = MappingProxyType({'ssd': 0.003, 'retinanet': 0.0013, 'maskrcnn': 0.0215})
_TABLE = Path(__file__).with_name('published.csv')


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """The results of one benchmark on one number of accelerators of one kind.

    Attributes:
        results: how many there are.
        best_minutes, median_minutes, worst_minutes: times to train.
        round, submitter, system, global_batch_size, epochs, images_per_second: of the best one.
    """

    benchmark: str
    accelerator: str
    accelerators: int
    results: int
    best_minutes: float
    median_minutes: float
    worst_minutes: float
    round: str
    submitter: str
    system: str
    global_batch_size: int
    epochs: float
    images_per_second: float

    def reference(self, metric: str) -> Reference | None:
        """Return ``time_to_train`` or ``images_per_second`` of the best result as a reference; None for others."""
        value = {'time_to_train': self.best_minutes * 60, 'images_per_second': self.images_per_second}.get(metric)
        if value is None:
            return None
        unit, direction = METRICS[metric]
        return Reference(
            value=round(value, 1), unit=unit, direction=Direction(direction), n=RUNS, date=ROUND_DATES[self.round],
            spread=round(value * TYPICAL_SPREAD[self.benchmark], 2),
            source=ReferenceSource(kind=SourceKind.PUBLISHED, round=self.round, submitter=self.submitter,
                                   system=self.system, note='spread typical of published runs of this benchmark'))


@functools.lru_cache(maxsize=1)
def published_results() -> tuple[PublishedResult, ...]:
    """Return all of them, by benchmark, accelerator and number."""
    with _TABLE.open(encoding='utf-8', newline='') as stream:
        return tuple(sorted((_result(row) for row in csv.DictReader(stream)), key=lambda result: (
            result.benchmark, result.accelerator, result.accelerators)))


def published_result(benchmark: str, accelerator: str, accelerators: int) -> PublishedResult | None:
    """Return the published results of a number of accelerators; None: nobody published any."""
    return next((result for result in published_results() if (
        result.benchmark, result.accelerator, result.accelerators) == (benchmark, accelerator, accelerators)), None)


def _result(row: Mapping[str, str]) -> PublishedResult:
    return PublishedResult(
        benchmark=row['benchmark'], accelerator=row['accelerator'], accelerators=int(row['accelerators']),
        results=int(row['results']), best_minutes=float(row['best_minutes']),
        median_minutes=float(row['median_minutes']), worst_minutes=float(row['worst_minutes']), round=row['round'],
        submitter=row['submitter'], system=row['system'], global_batch_size=int(row['global_batch_size']),
        epochs=float(row['epochs']), images_per_second=float(row['images_per_second_training']))
