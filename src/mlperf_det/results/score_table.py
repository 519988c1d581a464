"""One row a group, under stable column names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlperf_det.mllog.collection import Collection, Log
from mlperf_det.mllog.table import log_row, published_place
from mlperf_det.results.groups import Group
from mlperf_det.results.score import Score

COLUMNS = (
    'round', 'submitter', 'system', 'benchmark', 'model', 'half', 'shared_run_cluster', 'division', 'availability',
    'number_of_nodes', 'accelerators_per_node', 'accelerators', 'accelerator_model_name', 'accelerator_class',
    'framework', 'global_batch_size', 'n_logs', 'n_logs_not_in_snapshot', 'n_converged', 'best_minutes',
    'worst_minutes', 'mean_minutes', 'stdev_minutes', 'olympic_minutes', 'scaling_factor', 'score_minutes',
    'olympic_epochs', 'throughput_mean', 'throughput_train_only_mean', 'library_score', 'library_runs_used',
    'library_rcp', 'library_rcp_norm', 'path', 'no_score_because', 'remarks',
)
_FROM_LOG = ('round', 'submitter', 'system', 'benchmark', 'model', 'division', 'availability', 'number_of_nodes',
             'accelerators_per_node', 'accelerators', 'accelerator_model_name', 'accelerator_class', 'framework')


def score_row(group: Group, score: Score, collection: Collection, cluster: str) -> dict[str, Any]:
    """Return a group's score by column name; what there is not is None. Minutes and images per second.

    ``n_logs_not_in_snapshot`` counts logs that are there by name alone (dangling links, damaged files); ``half`` is for
    collections that are split in two, which no log tells of.
    """
    first = group.runs[0]
    described = log_row(Log(path=first.log or first.source, summary=first.summary), collection)
    batches = Counter(run.batch for run in group.runs if run.batch is not None)
    mixed = f'global batch sizes differ: {", ".join(map(str, sorted(batches)))}' if len(batches) > 1 else ''
    return {name: described.get(name) for name in _FROM_LOG} | {
        'shared_run_cluster': cluster, 'path': str(group.folder),
        # Of most runs: where they differ, `remarks` has all of them.
        'global_batch_size': batches.most_common(1)[0][0] if batches else None,
        'n_logs': score.runs, 'n_logs_not_in_snapshot': sum(run.summary is None for run in group.runs),
        'n_converged': score.converged, 'best_minutes': score.best, 'worst_minutes': score.worst,
        'mean_minutes': score.mean, 'stdev_minutes': score.stdev, 'olympic_minutes': score.olympic,
        'scaling_factor': score.scaling_factor, 'score_minutes': score.minutes, 'olympic_epochs': score.epochs,
        'throughput_mean': score.throughput, 'throughput_train_only_mean': score.throughput_training,
        'no_score_because': score.reason, 'remarks': mixed,
    }


def clusters_of_shared_runs(groups: Sequence[Group]) -> list[str]:
    """Return for each group the first name of those that share a run with it; empty for one that shares none.

    Submitters hand in the same runs under several systems and rounds; a run is recognised by its start and stop.
    """
    first_with: dict[tuple[float, float], int] = {}
    parent = list(range(len(groups)))

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    for number, group in enumerate(groups):
        for run in group.runs:
            if run.summary is None or run.summary.run_start_ms is None or run.summary.run_stop_ms is None:
                continue
            other = root(first_with.setdefault((run.summary.run_start_ms, run.summary.run_stop_ms), number))
            mine = root(number)
            parent[max(mine, other)] = min(mine, other)
    roots = [root(number) for number in range(len(groups))]
    sharing: dict[int, list[str]] = {}
    for found, group in zip(roots, groups, strict=True):
        sharing.setdefault(found, []).append(_name(group))
    return [min(sharing[found]) if len(sharing[found]) > 1 else '' for found in roots]


def _name(group: Group) -> str:
    """Return round, submitter, system and benchmark of a published group; of others, where it lies."""
    return '/'.join(published_place(group.folder / 'log') or group.folder.parts[-4:])
