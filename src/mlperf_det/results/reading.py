"""From files to runs: joins the log, run.json, metrics.jsonl and the system description, and decides the status."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.mllog.accuracy import as_number, is_usable
from mlperf_det.mllog.collection import Collection, Log, collect
from mlperf_det.mllog.rounds import benchmark_of, target_of
from mlperf_det.mllog.summary import LogSummary
from mlperf_det.mllog.systems import SystemDescription, accelerator_class
from mlperf_det.mllog.table import published_place
from mlperf_det.results.run import Evaluation, Geometry, Run, RunStatus, Throughput, TrackPoint
from mlperf_det.results.run_metrics import RunMetrics, parse_metrics
from mlperf_det.results.status import judge_status
from mlperf_det.run_folder import METRICS_JSONL, RUN_JSON, RunRecord, parse_record, read_record


def read_runs(paths: Sequence[Path], skip: Callable[[Path], bool] = lambda folder: False) -> list[Run]:
    """Read all runs below ``paths``: run folders, published result trees, archives, single logs, ReFrame sessions.

    Args:
        paths: of any of these; the order of the runs is the natural order of their paths.
        skip: says of a folder below them that it is of no interest.

    Returns:
        One `Run` for each log, and one for each run.json that has no log. Never fails on what a file contains.

    Raises:
        UserError: a path does not exist, or needs a decompressor that is not installed.
    """
    return runs_in(collect(paths, skip))


def runs_in(collection: Collection) -> list[Run]:
    """Return the runs of a collection in its order, then run folders without any log."""
    records: dict[PurePath, RunRecord | str] = {}
    for log in collection.logs:
        _find_record(log.path.parent, collection, records)
    for path in collection.companions:
        if path.name == RUN_JSON:
            _find_record(path.parent, collection, records)
    runs = [_run(log, _record_of(log, records), collection) for log in collection.logs]
    with_logs = {log.path.parent for log in collection.logs}
    for folder, record in records.items():
        if folder not in with_logs:
            runs.append(_without_log(folder, record))
    return runs


def _find_record(folder: PurePath, collection: Collection, records: dict[PurePath, RunRecord | str]) -> None:
    """Read run.json of a folder, on disk or in an archive, once; a broken one is kept as its error."""
    path = folder / RUN_JSON
    if folder in records:
        return
    try:
        if isinstance(path, Path) and path.is_file():
            records[folder] = read_record(path.parent)
        elif (content := collection.companions.get(path)) is not None:
            records[folder] = parse_record(content, path)
    except UserError as error:
        records[folder] = str(error)
    except (OSError, RecursionError, AttributeError) as error:
        records[folder] = f'{path}: not a run record ({error})'


def _record_of(log: Log, records: Mapping[PurePath, RunRecord | str]) -> RunRecord | str | None:
    """Return the record that belongs to a log: run.json of its folder, if that names this log."""
    record = records.get(log.path.parent)
    return None if isinstance(record, RunRecord) and record.log != log.path.name else record


def _without_log(folder: PurePath, record: RunRecord | str) -> Run:
    if isinstance(record, str):
        return Run(source=folder, status=RunStatus.UNREADABLE, reason=record)
    reason = f'{record.log} is missing' + (f': {record.reason}' if record.reason else '')
    return Run(source=folder, status=RunStatus.UNREADABLE, reason=reason, record=record, seed=record.seed,
               benchmark=record.benchmark, model=_model(record.benchmark), geometry=_geometry_of_record(record),
               deviations=_deviations(record, None), tier=_text(record.recipe.get('tier')),
               division=_text(record.recipe.get('division')), precision=_text(record.runtime.get('precision')))


def _run(log: Log, record: RunRecord | str | None, collection: Collection) -> Run:
    system = collection.system(log) or SystemDescription()
    source = log.path.parent if record is not None else log.path
    if isinstance(record, str) or log.summary is None or not log.summary.event_count:
        problem = record if isinstance(record, str) else log.problem or _no_events(log.summary)
        return Run(source=source, log=log.path, status=RunStatus.UNREADABLE, reason=problem, summary=log.summary,
                   forgiven=log.summary.forgiven if log.summary else ())
    summary = log.summary
    if record is not None:
        summary = _by_record(summary, record)
    metrics = RunMetrics()
    if record is not None and (content := collection.content(log.path.parent / METRICS_JSONL)) is not None:
        metrics = parse_metrics(content, (summary.run_start_ms or 0) / 1000)
    status, reason = judge_status(summary, record, metrics)
    converged = status is RunStatus.CONVERGED
    published = published_place(log.path)
    geometry = _geometry_of_record(record) if record else _geometry_of_system(system)
    own = summary.hyperparameters
    return Run(
        source=source, log=log.path, benchmark=_benchmark(summary), model=summary.model, round=summary.round,
        system=published[2] if published else _text(own.get('submission_platform')),
        submitter=published[1] if published else system.submitter or _text(own.get('submission_org')),
        status=status, reason=reason,
        seed=record.seed if record else (summary.seeds[0] if summary.seeds else None), geometry=geometry,
        batch=as_number(summary.batch), target=summary.target, evaluations=_evaluations(summary),
        time_to_train_seconds=summary.seconds, init_seconds=summary.init_seconds,
        started=None if summary.run_start_ms is None else summary.run_start_ms / 1000,
        epochs_to_target=summary.epochs if converged else None, samples=summary.samples if converged else None,
        throughput=Throughput(overall=summary.throughput, training=summary.throughput_train_only,
                              steady=metrics.steady_images_per_second),
        ranks=metrics.ranks, track=metrics.track or _logged_track(summary, geometry.accelerators),
        deviations=_deviations(record, summary), forgiven=summary.forgiven + metrics.forgiven, record=record,
        summary=summary, tier=_text(record.recipe.get('tier')) if record else '',
        division=_text(record.recipe.get('division')) if record else
        _text(own.get('submission_division')).lower() or system.division.lower(),
        precision=_text(record.runtime.get('precision')) if record else '')


def _no_events(summary: LogSummary | None) -> str:
    return 'the file has no MLPerf event' + (f'; {summary.forgiven[0]}' if summary and summary.forgiven else '')


def _by_record(summary: LogSummary, record: RunRecord) -> LogSummary:
    """Return the summary with the target and dataset size of our own run: its log states true training samples.

    A closed run never has a lower target than the rules.
    """
    asked = record.recipe.get('quality_target')
    target = {str(metric).lower(): float(least) for metric, least in asked.items()} if isinstance(asked, dict) else {}
    if record.recipe.get('division') != 'open':
        rules = target_of(summary.model, summary.round)
        target = {metric: max(target.get(metric, 0.0), rules.get(metric, 0.0)) for metric in {**target, **rules}}
    images = summary.hyperparameters.get('train_samples')
    own = images if is_usable(images) and isinstance(images, int) and images > 0 else None
    return replace(summary, target=target, images=own)


def _evaluations(summary: LogSummary) -> tuple[Evaluation, ...]:
    """Return the evaluations; the same one logged by several ranks counts once."""
    start = summary.run_start_ms
    found: dict[tuple[Any, ...], Evaluation] = {}
    for accuracy in summary.evaluations:
        epoch = None if accuracy.epoch is None else accuracy.epoch + 1 - summary.epoch_base
        key = (epoch, *sorted(accuracy.metrics.items())) if epoch is not None else (len(found),)
        found.setdefault(key, Evaluation(epoch=epoch, metrics=accuracy.metrics,
                                         seconds=math.nan if start is None else (accuracy.time_ms - start) / 1000))
    return tuple(found.values())


def _logged_track(summary: LogSummary, accelerators: int | None) -> tuple[TrackPoint, ...]:
    """Return loss and rate as the log tracks them, rates in images per second of the whole system."""
    factor = {'total': 1, 'per_accelerator': accelerators}.get(summary.throughput_scope(accelerators))
    start, stop = summary.run_start_ms, summary.run_stop_ms or math.inf
    if start is None:
        return ()
    points: dict[float, TrackPoint] = {}
    for number, (time_ms, rate) in enumerate(summary.rates):
        if time_ms <= stop:
            points[time_ms] = TrackPoint(seconds=(time_ms - start) / 1000, step=number,
                                         images_per_second=rate * factor if factor else None)
    for time_ms, step, loss in summary.losses:
        if time_ms <= stop:
            known = points.get(time_ms, TrackPoint(seconds=(time_ms - start) / 1000, step=step))
            points[time_ms] = msgspec.structs.replace(known, step=step, loss=loss if math.isfinite(loss) else None)
    return tuple(points[time_ms] for time_ms in sorted(points))


def _geometry_of_record(record: RunRecord) -> Geometry:
    hosts = record.hosts
    devices = [str(device) for host in hosts for device in host.get('devices') or ()]
    ranks = sum(len(host.get('ranks') or ()) for host in hosts)
    return Geometry(nodes=len(hosts) or None, accelerators=ranks or None,
                    accelerators_per_node=ranks // len(hosts) if hosts else None,
                    accelerator=accelerator_class(devices[0]) if devices else 'cpu',
                    hosts=tuple(str(host.get('name')) for host in hosts))


def _geometry_of_system(system: SystemDescription) -> Geometry:
    return Geometry(nodes=system.nodes, accelerators_per_node=system.accelerators_per_node,
                    accelerators=system.accelerators, accelerator=accelerator_class(system.accelerator_model))


def _deviations(record: RunRecord | None, summary: LogSummary | None) -> tuple[str, ...]:
    """Return what sets a run apart from a closed MLPerf run, by run.json or by the log itself."""
    logged = summary.hyperparameters if summary else {}
    recipe = record.recipe if record else {}
    marks = {
        'smoke tier': recipe.get('tier') == 'smoke',
        'throughput tier': recipe.get('tier') == 'throughput',
        'open division': 'open' in (recipe.get('division'), _text(logged.get('submission_division')).lower()),
        'random backbone': (record is not None and record.backbone is None)
                           or logged.get('backbone_initialization') == 'random',
        'caches not cleared': record is not None and summary is not None and not logged.get('cache_clear'),
    }
    return tuple(mark for mark, present in marks.items() if present)


def _benchmark(summary: LogSummary) -> str:
    return 'ssd' if summary.model == 'ssd300' else summary.model or summary.benchmark


def _model(benchmark: str) -> str:
    name = benchmark_of(benchmark)
    return 'ssd300' if name == 'ssd' else name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ''
