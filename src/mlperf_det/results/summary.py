"""summary.json: verdicts, scores and runs as plain values, under a versioned schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlperf_det.results.convergence_points import ConvergenceCheck
from mlperf_det.results.energy import energy_score
from mlperf_det.results.judging import Judged
from mlperf_det.results.performance import Judgement
from mlperf_det.results.run import Run
from mlperf_det.results.score import Score
from mlperf_det.results.verdict import EXIT_CODES, Verdict, overall

SCHEMA_VERSION = 1
#: columns of runs.csv, and keys of a run in summary.json
RUN_COLUMNS = (
    'source', 'log', 'benchmark', 'model', 'round', 'submitter', 'system', 'status', 'reason', 'tier', 'division',
    'precision', 'seed', 'nodes', 'accelerators_per_node', 'accelerators', 'accelerator', 'global_batch_size',
    'time_to_train_seconds', 'init_seconds', 'epochs_to_target', 'samples', 'images_per_second',
    'images_per_second_training', 'images_per_second_steady', 'bbox_ap', 'segm_ap', 'bbox_target', 'segm_target',
    'data_wait_share', 'evaluation_seconds', 'energy_joules', 'deviations', 'forgiven',
)


def summary_of(judged: Judged) -> dict[str, Any]:
    """Return the content of summary.json; times in seconds or minutes as the names say, None: not known."""
    state = overall(judged.verdicts)
    runs = [group.runs for group in judged.groups]
    runs += [()] * (len(judged.verdicts) - len(runs))
    return {'schema_version': SCHEMA_VERSION, 'state': state.value, 'exit_code': EXIT_CODES[state],
            'groups': [_group(verdict, members, judged)
                       for verdict, members in zip(judged.verdicts, runs, strict=True)]}


def _group(verdict: Verdict, runs: tuple[Run, ...], judged: Judged) -> dict[str, Any]:
    score = verdict.score
    energy = energy_score(runs, judged.energies, score.scaling_factor) if score is not None else None
    return {'title': verdict.title, 'state': verdict.state.value, 'exit_code': EXIT_CODES[verdict.state],
            'cause': verdict.cause, 'marks': list(verdict.marks), 'notes': list(verdict.notes),
            'score': None if score is None else _score(score) | {'energy_joules': energy},
            'convergence': _convergence(verdict.convergence),
            'judgements': [_judgement(item) for item in verdict.judgements],
            'runs': [run_facts(run, judged.energies) | {
                'rules_checked': str(run.log) in judged.findings,
                'rule_findings': list(judged.findings.get(str(run.log), ()))} for run in runs]}


def _convergence(check: ConvergenceCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    return {'passed': check.passed, 'basis': check.basis.name.lower(), 'epochs': check.epochs, 'factor': check.factor,
            'reference_epochs': check.point.mean if check.point else None,
            'least_epochs': check.point.least if check.point else None, 'sentence': check.sentence}


def _score(score: Score) -> dict[str, Any]:
    return {'minutes': score.minutes, 'olympic_minutes': score.olympic, 'scaling_factor': score.scaling_factor,
            'runs': score.runs, 'converged': score.converged, 'best_minutes': score.best, 'worst_minutes': score.worst,
            'mean_minutes': score.mean, 'stdev_minutes': score.stdev, 'epochs': score.epochs, 'reason': score.reason}


def _judgement(judgement: Judgement) -> dict[str, Any]:
    reference = judgement.reference
    return {'metric': judgement.metric, 'unit': judgement.unit, 'mean': judgement.mean, 'n': judgement.n,
            'standing': judgement.standing.value, 'limit': judgement.limit, 'sure': judgement.sure,
            'interval': judgement.interval, 'more_runs': judgement.more_runs,
            'sentence': judgement.sentence, 'reference': None if reference is None else {
                'value': reference.value, 'n': reference.n, 'spread': reference.spread,
                'date': reference.date.isoformat(), 'image': reference.image, 'kind': reference.source.kind.value}}


def run_facts(run: Run, energies: Mapping[str, float]) -> dict[str, Any]:
    """Return a run's facts by column name, as in runs.csv; `energies` as in `Judged`."""
    place, rates = run.geometry, run.throughput
    return {
        'source': str(run.source), 'log': None if run.log is None else run.log.name, 'benchmark': run.benchmark,
        'model': run.model, 'round': run.round, 'submitter': run.submitter, 'system': run.system,
        'status': run.status.value, 'reason': run.reason, 'tier': run.tier, 'division': run.division,
        'precision': run.precision, 'seed': run.seed, 'nodes': place.nodes,
        'accelerators_per_node': place.accelerators_per_node, 'accelerators': place.accelerators,
        'accelerator': place.accelerator, 'global_batch_size': run.batch,
        'time_to_train_seconds': run.time_to_train_seconds, 'init_seconds': run.init_seconds,
        'epochs_to_target': run.epochs_to_target, 'samples': run.samples,
        'images_per_second': _finite(rates.overall), 'images_per_second_training': _finite(rates.training),
        'images_per_second_steady': _finite(rates.steady),
        'bbox_ap': _finite(run.final_metrics.get('bbox')), 'segm_ap': _finite(run.final_metrics.get('segm')),
        'bbox_target': run.target.get('bbox'), 'segm_target': run.target.get('segm'),
        'data_wait_share': run.data_wait_share, 'evaluation_seconds': run.evaluation_seconds,
        'energy_joules': energies.get(str(run.log)),
        'deviations': '; '.join(run.deviations), 'forgiven': '; '.join(run.forgiven),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
