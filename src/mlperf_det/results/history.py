"""The history of runs: ReFrame's results database (or session reports) and run folders, read into one form."""

from __future__ import annotations

import gc
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.reframe_sessions import Case, RecordedSession, is_session, read_sessions, split_session
from mlperf_det.results.history_cache import HistoryCache
from mlperf_det.results.history_record import Record
from mlperf_det.results.reading import read_runs
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Observation, Series, facts_of, facts_of_record
from mlperf_det.results.run import Run
from mlperf_det.run_folder import RUN_JSON, read_record

#: results in which a run's figures count
GOOD = ('pass', 'converged', 'finished')
#: fewer run folders are read sooner than another process is there
FOLDERS_A_PROCESS = 200
#: the login node is not ours alone
MOST_PROCESSES = 8


def read_history(paths: Sequence[Path], *, cached: bool = True) -> list[Record]:
    """Return all runs that some paths tell of, by time.

    Args:
        paths: ReFrame results databases (SQLite), ReFrame session reports (JSON), run folders and folders of them.
        cached: take what was read of run folders before and has not changed since from `HistoryCache`.

    Raises:
        UserError: a path does not exist or is none of these.
    """
    records: list[Record] = []
    folders = []
    for path in paths:
        file, session = split_session(path)
        if is_session(file):
            for each in read_sessions(file, session):
                records += _of_session(each)
        elif file.suffix == '.json' and file.name != RUN_JSON and file.is_file():
            raise UserError(f'{file}: is not a session of ReFrame; give a results database, a session report or run '
                            'folders')
        else:
            folders.append(path)
    if folders:
        records += _of_folders(folders, HistoryCache(folders) if cached else None)
    return sorted(records, key=lambda record: (record.time if record.time is not None else -math.inf,
                                               record.identifier))


def _of_folders(paths: Sequence[Path], cache: HistoryCache | None) -> list[Record]:
    """Return the runs in run folders, and those that are logs alone."""
    folders: list[Path] = []

    def is_run_folder(folder: Path) -> bool:
        found = (folder / RUN_JSON).is_file()
        if found:
            folders.append(folder)
        return found

    records = [of_run(run) for run in read_runs(paths, skip=is_run_folder)]
    if cache is None:
        return [*records, *itertools.chain.from_iterable(_read_folders(folders))]
    records += cache.records(folders, _read_folders)
    cache.save()
    return records


def _read_folders(folders: Sequence[Path]) -> list[list[Record]]:
    """Return the records of each folder, one folder in memory at a time; many folders are read by several processes."""
    processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES, len(folders) // FOLDERS_A_PROCESS)
    if processes < 2:
        return [_of_folder(folder) for folder in folders]
    # Forked: a started interpreter would import for as long as it takes to read hundreds of folders.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context('fork'), initializer=_begin) as pool:
        return list(pool.map(_of_folder, folders, chunksize=FOLDERS_A_PROCESS // 4))


def _begin() -> None:
    """Set up a process that reads folders."""
    # Ctrl-C is the parent's alone: a process that it stops in the midst of a queue would leave the others waiting.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Runs hold no cycles, and looking for some takes a tenth of the time.
    gc.disable()


def _of_folder(folder: Path) -> list[Record]:
    return [of_run(run) for run in read_runs([folder])]


def series_of(records: Iterable[Record]) -> list[Series]:
    """Return the history of each metric of each case over good runs with a time, in order of time."""
    found: dict[tuple[str, str, str], list[Observation]] = {}
    for record in records:
        if record.result not in GOOD or record.time is None:
            continue
        for metric, value in record.metrics.items():
            if metric in METRICS:
                found.setdefault((record.origin, record.case, metric), []).append(Observation(
                    time=record.time, value=value, source=record.identifier, facts=record.facts))
    return [Series(case=case, metric=metric, observations=tuple(sorted(values, key=lambda each: each.time)))
            for (_, case, metric), values in found.items()]


def of_run(run: Run) -> Record:
    """Return a run of a run folder or log as a record."""
    place = run.geometry
    name = run.record.recipe.get('name') if run.record else run.round
    parts = (run.benchmark, name, run.precision, f'{place.nodes} x {place.accelerators_per_node}',
             place.accelerator) if run.record else (run.round, run.submitter, run.system, run.model)
    return Record(
        identifier=str(run.source), origin='run folder', time=run.started, system=run.system or run.submitter,
        case=' '.join(str(part) for part in parts if part), facts=facts_of(run),
        result='finished' if run.finished_steps else run.status.value,
        metrics=run.figures | {
            f'{metric}_ap': value for metric, value in run.final_metrics.items() if math.isfinite(value)})


def _of_session(session: RecordedSession) -> Iterator[Record]:
    version = str(session.session_info.get('version', ''))
    for case in session.cases:
        yield _of_case(case, version)


def _of_case(case: Case, version: str) -> Record:
    nodes = case.job_nodelist
    facts = {'nodes': ', '.join(map(str, nodes)) if isinstance(nodes, list) else str(nodes or ''),
             'environment': case.environ, 'ReFrame': version, 'recipe': str(case.recipe or ''),
             'image': str(case.container_image or '')}
    place = f'{case.system}:{case.partition}'
    return Record(
        identifier=case.uuid, origin='reframe', time=case.job_completion_time_unix, result=case.result or '',
        system=place, case=f'{case.title} @{place}+{case.environ}', metrics=_metrics(case),
        facts={name: value for name, value in facts.items() if value} | _recorded_facts(case))


def _metrics(case: Case) -> dict[str, float]:
    """Return metric -> value: keys are ``system:partition:metric``, values begin with the measured one."""
    return {key.rpartition(':')[2]: float(values[0]) for key, values in (case.perfvalues or {}).items()
            if values and isinstance(values[0], (int, float)) and math.isfinite(values[0])}


def _recorded_facts(case: Case) -> dict[str, str]:
    """Return what the runs of a case stood on: as recorded with it, else by the first run folder that it kept."""
    if isinstance(case.run_facts, dict):
        return {str(name): str(value) for name, value in case.run_facts.items()}
    if case.recipe is None or not (folders := case.run_folders):
        return {}
    try:
        return facts_of_record(read_record(folders[0]))
    except (UserError, OSError):
        return {}
