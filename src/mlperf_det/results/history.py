"""The history of runs: ReFrame's results database (or session reports) and run folders, read into one form."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.results.reading import read_runs
from mlperf_det.results.references.proposals import OF_RUNS
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Observation, Series, facts_of
from mlperf_det.results.run import Run
from mlperf_det.run_folder import RUN_JSON, read_record

_SQLITE = b'SQLite format 3\0'
#: results in which a run's figures count
GOOD = ('pass', 'converged', 'finished')


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run in the history.

    Attributes:
        identifier: the test case's UUID in ReFrame, or the path of the run folder.
        origin: ``reframe`` or ``run folder``.
        time: Unix seconds at its end (ReFrame) or start; None: not known.
        case: what is compared over time: check and place, or benchmark, recipe and hardware.
        result: ``pass``, ``fail`` ... (ReFrame) or the status of the run.
        metrics: by name, in the units of references.
        facts: what the run stood on, by name.
    """

    identifier: str
    origin: str
    time: float | None
    case: str
    system: str
    result: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


class _Case(msgspec.Struct):
    """The fields of a test case that count here; ReFrame writes many more."""

    name: str = ''
    display_name: str = ''
    system: str = ''
    partition: str = ''
    environ: str = ''
    result: str = ''
    uuid: str = ''
    outputdir: str | None = None
    job_completion_time_unix: float | None = None
    job_nodelist: Any = None
    perfvalues: dict[str, list[Any]] | None = None
    container_image: Any = None
    recipe: Any = None
    fixture: bool = False


class _Run(msgspec.Struct):
    testcases: list[_Case] = []


class _Session(msgspec.Struct):
    session_info: dict[str, Any] = {}
    runs: list[_Run] = []


_decode_session = msgspec.json.Decoder(_Session).decode


def read_history(paths: Sequence[Path]) -> list[Record]:
    """Return all runs that some paths tell of, by time.

    Args:
        paths: ReFrame results databases (SQLite), ReFrame session reports (JSON), run folders and folders of them.

    Raises:
        UserError: a path does not exist or is none of these.
    """
    records: list[Record] = []
    folders = []
    for path in paths:
        kind = _kind(path)
        if kind == 'database':
            records += _of_database(path)
        elif kind == 'report':
            records += _of_session(_session(path.read_bytes(), str(path)))
        else:
            folders.append(path)
    if folders:
        records += [of_run(run) for run in read_runs(folders)]
    return sorted(records, key=lambda record: (record.time if record.time is not None else -math.inf,
                                               record.identifier))


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
        metrics={metric: value for metric, value_of in OF_RUNS.items() if (value := value_of(run)) is not None}
        | {f'{metric}_ap': value for metric, value in run.final_metrics.items() if math.isfinite(value)})


def _kind(path: Path) -> str:
    try:
        if path.is_dir():
            return 'folder'
        with path.open('rb') as stream:
            head = stream.read(len(_SQLITE))
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); give a results database, a session report or '
                        'run folders') from error
    if head == _SQLITE:
        return 'database'
    return 'report' if path.suffix == '.json' and path.name != RUN_JSON else 'folder'


def _of_database(path: Path) -> Iterator[Record]:
    """Yield the test cases in a results database, which is opened for reading only."""
    try:
        connection = sqlite3.connect(f'{path.resolve().as_uri()}?mode=ro', uri=True)
        try:
            blobs = [blob for blob, in connection.execute(
                'SELECT json_blob FROM sessions ORDER BY session_start_unix')]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(f'{path}: is not a results database of ReFrame ({error})') from error
    for blob in blobs:
        yield from _of_session(_session(blob, str(path)))


def _session(content: bytes | str, where: str) -> _Session:
    try:
        return _decode_session(content)
    except (msgspec.DecodeError, msgspec.ValidationError):
        pass
    try:
        # ReFrame writes NaN and Infinity, which are no JSON; figures that are none are left out below.
        return msgspec.convert(json.loads(content), _Session)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: is not a session of ReFrame ({error})') from error


def _of_session(session: _Session) -> Iterator[Record]:
    version = str(session.session_info.get('version', ''))
    for run in session.runs:
        for case in run.testcases:
            if not case.fixture:
                yield _of_case(case, version)


def _of_case(case: _Case, version: str) -> Record:
    nodes = case.job_nodelist
    facts = {'nodes': ', '.join(map(str, nodes)) if isinstance(nodes, list) else str(nodes or ''),
             'environment': case.environ, 'ReFrame': version, 'recipe': str(case.recipe or ''),
             'image': str(case.container_image or '')}
    place = f'{case.system}:{case.partition}'
    return Record(
        identifier=case.uuid, origin='reframe', time=case.job_completion_time_unix, result=case.result, system=place,
        case=f'{case.display_name or case.name} @{place}+{case.environ}', metrics=_metrics(case),
        facts={name: value for name, value in facts.items() if value} | _facts_of_output(case.outputdir))


def _metrics(case: _Case) -> dict[str, float]:
    """Return metric -> value: keys are ``system:partition:metric``, values begin with the measured one."""
    return {key.rpartition(':')[2]: float(values[0]) for key, values in (case.perfvalues or {}).items()
            if values and isinstance(values[0], (int, float)) and math.isfinite(values[0])}


def _facts_of_output(outputdir: str | None) -> dict[str, str]:
    """Return the facts of the first run folder that a test case kept; empty where it is gone."""
    folder = Path(outputdir or '') / 'run_0'
    if not outputdir or not (folder / RUN_JSON).is_file():
        return {}
    try:
        record = read_record(folder)
    except (UserError, OSError):
        return {}
    facts = {f'software: {name}': version for name, version in record.software.items()}
    image = record.image or {}
    if image.get('digest'):
        facts['image'] = str(image['digest'])
    return facts
