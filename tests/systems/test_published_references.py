"""The references that we ship are the results that were published: recomputed from the figures of the logs."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest

from mlperf_det.results.published import ROUND_DATES
from mlperf_det.results.references.table import Key, Reference, SourceKind, load_references

SYSTEMS = Path(__file__).resolve().parents[2] / 'systems'
#: metric -> column of a group's score, column of a run, seconds or images/s of one unit of theirs
COLUMNS = {'time_to_train': ('score_minutes', 'ttt_minutes', 60.0),
           'images_per_second': ('throughput_train_only_mean', 'throughput_train_only', 1.0)}


def published() -> list[tuple[str, Key, Reference]]:
    return [(file.parent.name, key, reference) for file in sorted(SYSTEMS.glob('*/references.yaml'))
            for key, reference in load_references(file).items() if reference.source.kind is SourceKind.PUBLISHED]


def rows(file: Path, reference: Reference, benchmark: str) -> list[dict[str, str]]:
    """Return the rows of a table about the system and the model of a reference."""
    wanted = (reference.source.round, (reference.source.submitter or '').lower(), reference.source.system,
              {'ssd': 'ssd300'}.get(benchmark, benchmark))
    with file.open(encoding='utf-8') as stream:
        return [row for row in csv.DictReader(stream)
                if (row['round'], row['submitter'].lower(), row['system'], row['model']) == wanted]


@pytest.mark.shared
def test_every_published_reference_is_what_the_logs_say(shared_data: Path) -> None:
    references = published()
    assert len(references) >= 20
    for site, (benchmark, accelerator, nodes, _, metric), reference in references:
        of_group, of_run, unit = COLUMNS[metric]
        group, = rows(shared_data / 'mlperf-logs' / 'scores.csv', reference, benchmark)
        runs = [row for row in rows(shared_data / 'mlperf-logs' / 'truth.csv', reference, benchmark)
                if row['counted'] == '1' and row['status'] == 'success']
        values = [float(row[of_run]) * unit for row in runs]
        name = f'{site}: {benchmark} {metric} of {reference.source.system}'
        assert (group['accelerator_class'], int(group['number_of_nodes'])) == (accelerator, nodes), name
        assert reference.value == pytest.approx(float(group[of_group]) * unit, abs=0.06), name
        assert (reference.n, reference.spread) == (len(runs), pytest.approx(statistics.stdev(values), abs=0.06)), name


@pytest.mark.shared
def test_a_result_is_dated_by_the_round_that_first_had_it(shared_data: Path) -> None:
    with (shared_data / 'mlperf-logs' / 'truth.csv').open(encoding='utf-8') as stream:
        # Rounds list older results again: the same run has the same start.
        first = {}
        for row in csv.DictReader(stream):
            first.setdefault((row['model'], row['run_start_ms'], row['run_stop_ms']), row['round'])
    for site, (benchmark, *_), reference in published():
        for row in rows(shared_data / 'mlperf-logs' / 'truth.csv', reference, benchmark):
            assert first[row['model'], row['run_start_ms'], row['run_stop_ms']] == reference.source.round, site
        assert reference.date == ROUND_DATES[reference.source.round or ''], site
