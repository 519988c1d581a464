"""How a run ended. Only a log that ends in success at the target, and a run.json that agrees, make a converged run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlperf_det.mllog.summary import LogSummary
from mlperf_det.results.run import RunStatus
from mlperf_det.results.run_metrics import RunMetrics
from mlperf_det.run_folder import Outcome, RunRecord

#: What run.json tells of a process that was killed, as a reader of the folder sees it.
WITHOUT_A_WORD = ('run.json still says running: the process ended without a word (killed? out of memory?), unless it '
                  'is at work right now')


def judge_status(summary: LogSummary, record: RunRecord | None, metrics: RunMetrics) -> tuple[RunStatus, str]:
    """Return the status of a run and the reason in one line.

    Args:
        summary: the log's facts, with the target that this run must reach.
        record: run.json; None for a published log.
        metrics: of metrics.jsonl; empty for a published log.
    """
    reason = record.reason if record and record.reason else ''
    if record is not None and record.outcome is Outcome.RUNNING:
        reason = WITHOUT_A_WORD
    if metrics.diverged or (record and record.outcome is Outcome.DIVERGED):
        return RunStatus.DIVERGED, reason or 'a loss was not finite'
    if summary.run_start_ms is None:
        before = 'the log has no run_start: the run ended before training began'
        return RunStatus.INCOMPLETE, f'{before} ({reason})' if reason else before
    if summary.status == 'none':
        return RunStatus.INCOMPLETE, _unfinished(summary, reason)
    if summary.seconds is None:
        return RunStatus.UNREADABLE, 'run_stop lies before run_start: the clock of the log cannot be trusted'
    if not summary.target:
        return RunStatus.UNREADABLE, 'no quality target is known: neither the log nor run.json names a known benchmark'
    if summary.status != 'success':
        return _not_successful(summary, record, reason)
    if not summary.target_reached:
        return RunStatus.ABORTED, f'the log claims success, but {_shortfall(summary)}'
    if record is not None and record.outcome is not Outcome.CONVERGED:
        status = RunStatus.INCOMPLETE if record.outcome is Outcome.RUNNING else RunStatus.ABORTED
        claim = f'the log claims success, but run.json says {record.outcome.value}'
        return status, f'{claim}: {reason}' if reason else claim
    contradiction = _contradiction(summary, record)
    if contradiction:
        return RunStatus.ABORTED, contradiction
    return RunStatus.CONVERGED, f'{_accuracies(summary.final.metrics if summary.final else {})} reached the target'


def _unfinished(summary: LogSummary, reason: str) -> str:
    last = f'after epoch {summary.epochs:g}' if summary.epochs is not None else 'before the first evaluation'
    return f'no run_stop: the run ended {last}' + (f' ({reason})' if reason else '')


def _not_successful(summary: LogSummary, record: RunRecord | None, reason: str) -> tuple[RunStatus, str]:
    if record is not None and record.outcome is Outcome.FINISHED:
        return RunStatus.ABORTED, reason or 'did the steps it was asked for; no target was tried'
    if record is not None and record.outcome is Outcome.CONVERGED:
        return RunStatus.ABORTED, 'run.json says converged, but run_stop has no status success'
    final = summary.final
    risen = any(not _is_nothing(earlier.metrics) for earlier in summary.evaluations[:-1])
    if final is not None and risen and _is_nothing(final.metrics):
        return RunStatus.DIVERGED, f'accuracy fell to {_accuracies(final.metrics)}'
    return RunStatus.ABORTED, reason or f'gave up: {_shortfall(summary)}'


def _is_nothing(metrics: Mapping[str, float]) -> bool:
    """Say whether a model detects nothing any more; published diverged runs end at exactly 0 (or below 0.001)."""
    return all(not value >= 1e-3 for value in metrics.values())


def _contradiction(summary: LogSummary, record: RunRecord | None) -> str:
    """Return where run.json and the log contradict each other; empty where they agree."""
    if record is None:
        return ''
    batch = record.recipe.get('global_batch_size')
    checks = (('benchmark', record.benchmark, 'ssd' if summary.model == 'ssd300' else summary.model),
              ('seed', record.seed, summary.seeds[0] if summary.seeds else None),
              ('global batch size', batch, summary.batch if batch is not None else None))
    for name, ours, logged in checks:
        if ours != logged:
            return f'run.json and the log contradict each other: {name} is {ours!r} and {logged!r}'
    return ''


def _shortfall(summary: LogSummary) -> str:
    if summary.final is None:
        return 'there is no evaluation before run_stop'
    wanted = ', '.join(f'{metric} AP {least:.4g}' for metric, least in summary.target.items())
    return f'the last evaluation is {_accuracies(summary.final.metrics)}, the target is {wanted}'


def _accuracies(metrics: Mapping[str, float]) -> str:
    return ', '.join(f'{metric} AP {"NaN" if math.isnan(value) else format(value, ".4f")}'
                     for metric, value in metrics.items()) or 'no accuracy'
