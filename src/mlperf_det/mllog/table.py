"""One row a log, under stable column names."""

from __future__ import annotations

import json
import math
from pathlib import PurePath
from typing import Any

from mlperf_det.mllog.collection import Collection, Log
from mlperf_det.mllog.rounds import benchmark_of, folders_of, round_in
from mlperf_det.mllog.systems import SystemDescription, accelerator_class

COLUMNS = (
    'round', 'submitter', 'system', 'benchmark', 'file', 'counted', 'model', 'status', 'status_raw', 'ttt_minutes',
    'init_minutes', 'final_accuracy', 'final_segm', 'best_accuracy', 'target_accuracy', 'target_segm', 'target_reached',
    'reached_at_any_eval', 'final_epoch_num', 'epoch_base', 'epochs_to_converge', 'samples_to_converge',
    'global_batch_size', 'seed', 'n_seeds', 'train_samples_logged', 'eval_samples_logged', 'train_samples_used',
    'throughput', 'throughput_train_only', 'train_interval', 'throughput_logged_median', 'throughput_run_stop',
    'n_evals', 'n_evals_after_stop', 'submission_benchmark', 'submission_division', 'submission_org',
    'submission_platform', 'submission_status', 'run_start_ms', 'run_stop_ms', 'n_events', 'number_of_nodes',
    'accelerators_per_node', 'accelerator_model_name', 'framework', 'division', 'availability', 'system_name',
    'host_processor_model_name', 'accelerators', 'accelerator_class', 'throughput_logged_scope', 'path', 'problem',
    'forgiven',
)
_LOGGED = ('submission_benchmark', 'submission_division', 'submission_org', 'submission_platform', 'submission_status')


def log_row(log: Log, collection: Collection) -> dict[str, Any]:
    """Return a log's facts by column name; what it does not say is None.

    Times are minutes (columns ``_minutes``) or Unix milliseconds (``_ms``), throughput is images per second.
    ``counted`` is 0 for a file that is not named ``result_*.txt``; ``status`` is success, aborted or none.
    """
    system = collection.system(log)
    row: dict[str, Any] = {**_names(log), **_system(system), 'path': str(log.path), 'problem': log.problem,
                           'file': log.path.name, 'counted': int(log.path.name.startswith('result_')),
                           'status': 'none'}
    summary = log.summary
    if summary is None:
        return row
    own, final = summary.hyperparameters, summary.final
    best = max((accuracy.metrics.get('bbox', -math.inf) for accuracy in summary.evaluations), default=None)
    raw = summary.status_raw
    accelerators = system.accelerators if system else None
    return row | {name: own.get(name) for name in _LOGGED} | {
        'round': row['round'] or summary.round,
        'division': row.get('division') or own.get('submission_division'),
        'model': summary.model, 'status': summary.status,
        'status_raw': json.dumps(raw) if isinstance(raw, dict) else raw,
        'ttt_minutes': _minutes(summary.seconds), 'init_minutes': _minutes(summary.init_seconds),
        'final_accuracy': final and final.metrics.get('bbox'), 'final_segm': final and final.metrics.get('segm'),
        'best_accuracy': best,
        'target_accuracy': summary.target.get('bbox'), 'target_segm': summary.target.get('segm'),
        'target_reached': int(summary.target_reached),
        'reached_at_any_eval': int(any(accuracy.reaches(summary.target) for accuracy in summary.evaluations)),
        'final_epoch_num': _whole(final.epoch if final else None), 'epoch_base': summary.epoch_base,
        'epochs_to_converge': _whole(summary.epochs), 'samples_to_converge': _whole(summary.samples),
        'global_batch_size': summary.batch, 'seed': summary.seeds[0] if summary.seeds else None,
        'n_seeds': summary.seed_count, 'train_samples_logged': own.get('train_samples'),
        'eval_samples_logged': own.get('eval_samples'), 'train_samples_used': summary.images,
        'throughput': summary.throughput, 'throughput_train_only': summary.throughput_train_only,
        'train_interval': summary.train_interval, 'throughput_logged_median': summary.throughput_logged_median,
        'throughput_run_stop': summary.run_stop_throughput, 'n_evals': len(summary.evaluations),
        'n_evals_after_stop': summary.evaluations_after_stop, 'run_start_ms': _milliseconds(summary.run_start_ms),
        'run_stop_ms': _milliseconds(summary.run_stop_ms), 'n_events': summary.event_count,
        'throughput_logged_scope': summary.throughput_scope(accelerators), 'forgiven': '; '.join(summary.forgiven),
    }


def published_place(path: PurePath) -> tuple[str, str, str, str] | None:
    """Return (round, submitter, system, benchmark folder) of a log in a published tree; None for another place.

    Known trees: ``<round>/<submitter>/<system>/<benchmark>/``, and the same with a folder ``results`` before the
    system; the round may also be a repository's name such as ``training_results_v3.1``.
    """
    parts = folders_of(path)
    if len(parts) < 4 or not benchmark_of(parts[-1]) or not (found := round_in(path)):
        return None
    submitter = parts[-4] if parts[-3] == 'results' else parts[-3]
    return found, submitter, parts[-2], parts[-1]


def _names(log: Log) -> dict[str, Any]:
    """Return round, submitter, system and benchmark: from a published tree's folders, else as logged."""
    place = published_place(log.path)
    own = log.summary.hyperparameters if log.summary else {}
    if place is None:
        place = (round_in(log.path), own.get('submission_org') or '', own.get('submission_platform') or '',
                 log.summary.benchmark if log.summary else '')
    found, submitter, system, benchmark = place
    return {'round': found, 'submitter': submitter, 'system': system,
            'benchmark': 'maskrcnn' if benchmark_of(benchmark) == 'maskrcnn' else benchmark}


def _system(system: SystemDescription | None) -> dict[str, Any]:
    if system is None:
        return {}
    return {'number_of_nodes': system.nodes, 'accelerators_per_node': system.accelerators_per_node,
            'accelerators': system.accelerators, 'accelerator_model_name': system.accelerator_model,
            'accelerator_class': accelerator_class(system.accelerator_model), 'framework': system.framework,
            'division': system.division.lower(), 'availability': system.availability,
            'system_name': system.system_name, 'host_processor_model_name': system.processor}


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _milliseconds(value: float | None) -> int | None:
    return None if value is None else int(value)


def _whole(value: float | None) -> float | None:
    """Return a number without fraction as an integer."""
    return int(value) if value is not None and value == int(value) else value
