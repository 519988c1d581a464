"""How accuracy rose in published MLPerf runs: the middle 80 % at each completed epoch, by benchmark and batch size.

``published_courses.csv`` beside this file has one row for each model, range of batch sizes, metric and epoch. Batch
sizes are put together by half octaves (90 to 128 and 128 to 181 are neighbours), as more epochs are needed at larger
ones. Runs end when they reach the target, so only epochs that more than half of the runs evaluated are in the table:
at later ones only the slow runs would be left. A run that was submitted several times counts once.

Made from the logs of MLPerf Training v0.5 to v5.1 by::

    python -m mlperf_det.results.published_courses LOGS > published_courses.csv
"""

from __future__ import annotations

import csv
import functools
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.results.run import Run
from mlperf_det.tables import csv_bytes

COLUMNS = ('model', 'metric', 'least_batch', 'most_batch', 'runs', 'epoch', 'evaluated', 'low', 'median', 'high')
#: fewer runs make no band
LEAST_RUNS = 5
#: more than this share of the runs must have evaluated an epoch
_LEAST_SHARE = 0.5
_TABLE = Path(__file__).with_suffix('.csv')


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of published runs.

    Attributes:
        runs: how many; least_batch, most_batch: their global batch sizes.
        points: (completed epochs, 10th percentile, median, 90th percentile of the AP) by rising epoch.
    """

    model: str
    metric: str
    least_batch: int
    most_batch: int
    runs: int
    points: tuple[tuple[float, float, float, float], ...]


def published_course(model: str, metric: str, batch: float | None) -> Course | None:
    """Return the course of the published runs whose batch size is about the same; None: there are too few."""
    if batch is None or not 0 < batch < math.inf:
        return None
    return _courses().get((model, metric, _half_octave(batch)))


@functools.lru_cache(maxsize=1)
def _courses() -> Mapping[tuple[str, str, int], Course]:
    rows: dict[tuple[str, str, int], list[dict[str, str]]] = defaultdict(list)
    with _TABLE.open(encoding='utf-8', newline='') as stream:
        for row in csv.DictReader(stream):
            rows[row['model'], row['metric'], _half_octave(int(row['least_batch']))].append(row)
    return {key: Course(
        model=key[0], metric=key[1], least_batch=int(found[0]['least_batch']), most_batch=int(found[0]['most_batch']),
        runs=int(found[0]['runs']), points=tuple(
            (float(row['epoch']), float(row['low']), float(row['median']), float(row['high'])) for row in found))
        for key, found in rows.items()}


def course_rows(runs: Iterable[Run]) -> list[dict[str, object]]:
    """Return the rows of the table, by model, metric, batch size and epoch."""
    members: dict[tuple[str, int], dict[tuple[object, object], Run]] = defaultdict(dict)
    for run in runs:
        if run.converged and run.batch and run.summary is not None:
            members[run.model, _half_octave(run.batch)].setdefault(
                (run.summary.run_start_ms, run.summary.run_stop_ms), run)
    rows: list[dict[str, object]] = []
    for (model, _), found in sorted(members.items()):
        if len(found) >= LEAST_RUNS:
            for metric in ('bbox', 'segm'):
                rows += _rows_of(model, metric, list(found.values()))
    return rows


def _rows_of(model: str, metric: str, runs: Sequence[Run]) -> Iterable[dict[str, object]]:
    values: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        for evaluation in run.evaluations:
            if evaluation.epoch is not None and metric in evaluation.metrics:
                values[evaluation.epoch].append(evaluation.metrics[metric])
    batches = [int(run.batch or 0) for run in runs]
    for epoch, found in sorted(values.items()):
        if len(found) >= LEAST_RUNS and len(found) > _LEAST_SHARE * len(runs):
            tenths = statistics.quantiles(found, n=10, method='inclusive')
            yield {'model': model, 'metric': metric, 'least_batch': min(batches), 'most_batch': max(batches),
                   'runs': len(runs), 'epoch': f'{epoch:g}', 'evaluated': len(found), 'low': f'{tenths[0]:.4f}',
                   'median': f'{tenths[4]:.4f}', 'high': f'{tenths[8]:.4f}'}


def _half_octave(batch: float) -> int:
    return round(2 * math.log2(batch))


def main(paths: Sequence[str]) -> int:
    """Write the table of the logs below ``paths`` to standard output."""
    from mlperf_det.results.reading import read_runs
    sys.stdout.buffer.write(csv_bytes(COLUMNS, course_rows(read_runs([Path(path) for path in paths]))))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
