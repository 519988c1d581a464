"""ReFrame sessions as ReFrame records them: session reports (JSON) and its results database (SQLite).

A path that ends in ``:`` and the beginning of a session's UUID names one session of a database, e.g.
``results.db:4f21``; the database alone stands for its newest session where runs are judged, and for all of them in the
history.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.run_folder import RUN_JSON

SQLITE = b'SQLite format 3\0'
_NAMED = re.compile(r'(.+):([0-9A-Za-z-]+)')
#: characters of a report in which ReFrame's heading of the session must stand
_HEAD = 4096
#: results of a case that left nothing to judge because nothing was to run
_NOT_RUN = ('skip', '', None)
_GOOD = ('pass', 'xfail')


class Case(msgspec.Struct):
    """The fields of a test case that count here; ReFrame writes many more."""

    name: str = ''
    display_name: str = ''
    unique_name: str = ''
    system: str = ''
    partition: str = ''
    environ: str = ''
    result: str | None = ''
    uuid: str = ''
    outputdir: str | None = None
    stagedir: str | None = None
    fail_phase: str | None = None
    fail_reason: str | None = None
    job_completion_time_unix: float | None = None
    job_nodelist: Any = None
    perfvalues: dict[str, list[Any]] | None = None
    container_image: Any = None
    recipe: Any = None
    run_facts: Any = None
    reference_not_needed: str | None = None
    time_total: float | None = None
    fixture: bool = False

    @property
    def title(self) -> str:
        """The name for people."""
        return self.display_name or self.name

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        return ' '.join((self.fail_reason or 'no reason is on record').split())

    @property
    def is_bad(self) -> bool:
        """Whether it failed, in whatever words."""
        return self.result not in (*_GOOD, 'skip')

    @property
    def run_folders(self) -> list[Path]:
        """The run folders it left: in the output folder of a good case, in the stage folder of a failed one.

        ReFrame uses these folders again in the next session; runs that began after this case had ended are not its.
        """
        places = [self.outputdir, self.stagedir]
        for place in places if self.result in _GOOD else reversed(places):
            found = sorted(path.parent for path in Path(place).glob(f'*/{RUN_JSON}')) if place else []
            if found:
                ended = math.inf if self.job_completion_time_unix is None else self.job_completion_time_unix
                return [folder for folder in found if _began(folder) <= ended]
        return []


class _Run(msgspec.Struct):
    testcases: list[Case] = []


class RecordedSession(msgspec.Struct):
    """One session; `runs` are its repetitions and retries in order."""

    session_info: dict[str, Any] = {}
    runs: list[_Run] = []

    @property
    def cases(self) -> Iterator[Case]:
        """All test cases without fixtures, retried ones each time."""
        return (case for run in self.runs for case in run.testcases if not case.fixture)

    def outcomes(self) -> tuple[list[Case], list[Case]]:
        """Return each case, fixtures included, as it ended last, and the failures that a later run overcame."""
        tries: dict[tuple[str, ...], list[Case]] = {}
        for case in (case for run in self.runs for case in run.testcases):
            tries.setdefault((case.unique_name or case.title, case.system, case.partition, case.environ),
                             []).append(case)
        overcome = [case for group in tries.values() for case in group[:-1] if case.is_bad and not group[-1].is_bad]
        return [group[-1] for group in tries.values()], overcome


class _Attempt(msgspec.Struct):
    started: float = 0.0


class _Attempts(msgspec.Struct):
    attempts: list[_Attempt] = []


_decode = msgspec.json.Decoder(RecordedSession).decode
_decode_attempts = msgspec.json.Decoder(_Attempts).decode


def _began(folder: Path) -> float:
    """Return when a run began, in Unix seconds; 0 where its record does not say."""
    try:
        attempts = _decode_attempts((folder / RUN_JSON).read_bytes()).attempts
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return 0.0
    return attempts[0].started if attempts else 0.0


def split_session(path: Path) -> tuple[Path, str]:
    """Return a path and the session that it names behind a colon; an empty name: none."""
    match = _NAMED.fullmatch(str(path))
    if match and not path.exists() and is_database(Path(match[1])):
        return Path(match[1]), match[2]
    return path, ''


def is_database(path: Path) -> bool:
    """Say whether a file is an SQLite database."""
    try:
        with path.open('rb') as stream:
            return stream.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


def is_session(path: Path) -> bool:
    """Say whether a file is a results database or a session report."""
    if path.suffix != '.json':
        return is_database(path)
    try:
        with path.open('rb') as stream:
            return b'"session_info"' in stream.read(_HEAD)
    except OSError:
        return False


def kept_runs(path: Path, session: str = '') -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the run folders of a session, and (name, problem) of each case that failed or whose runs are not there.

    A case that was run again counts as it ended last. Cases that never train (preflight) have no run folders and need
    none. What ReFrame found wrong with a case need not show in its runs, so a failed case is always a problem.

    Args:
        path: results database or session report.
        session: beginning of the UUID of a session in the database; empty: the newest.

    Raises:
        UserError: the file is neither, or has no such session.
    """
    found = _one_session(path, session)
    folders: list[Path] = []
    lost: list[tuple[str, str]] = []
    for case in (case for case in found.outcomes()[0] if not case.fixture):
        left = case.run_folders
        folders += left
        if case.result in _NOT_RUN:
            continue
        if case.result not in _GOOD:
            lost.append((case.title, f'its check failed: {case.reason}'))
        elif case.recipe is not None and not left:
            lost.append((case.title, f'its run folders below {case.outputdir} are gone, or are those of a later '
                         'session'))
    return folders, lost


def read_sessions(path: Path, session: str = '') -> Iterator[RecordedSession]:
    """Yield the sessions of a results database, oldest first, or the one of a session report.

    Args:
        path: results database or session report.
        session: beginning of the UUID of the only session that is wanted; empty: all.

    Raises:
        UserError: the file is neither, or has no such session.
    """
    if session or not is_database(path):
        yield _one_session(path, session)
        return
    for _, blob in _rows(path, 'SELECT uuid, json_blob FROM sessions ORDER BY session_start_unix'):
        yield _decoded(blob, str(path))


def _one_session(path: Path, session: str) -> RecordedSession:
    if not is_database(path):
        return _decoded(path.read_bytes(), str(path))
    query = 'SELECT uuid, json_blob FROM sessions WHERE uuid LIKE ? ORDER BY session_start_unix DESC LIMIT 2'
    rows = _rows(path, query, (f'{session}%',))
    if not rows:
        raise UserError(f'{path}: has no session {session or "at all"}; `reframe --list-stored-sessions` lists them')
    if session and len(rows) > 1:
        raise UserError(f'{path}: several sessions begin with {session}; give more of the UUID')
    return _decoded(rows[0][1], str(path))


def _rows(path: Path, query: str, values: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the rows of a query; the database is opened for reading only."""
    try:
        connection = sqlite3.connect(f'{path.resolve().as_uri()}?mode=ro', uri=True)
        try:
            return list(connection.execute(query, values))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(f'{path}: is not a results database of ReFrame ({error})') from error


def _decoded(content: bytes | str, where: str) -> RecordedSession:
    try:
        return _decode(content)
    except (msgspec.DecodeError, msgspec.ValidationError):
        pass
    try:
        # ReFrame writes NaN and Infinity, which are no JSON; figures that are none are left out by who reads them.
        return msgspec.convert(json.loads(content), RecordedSession)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: is not a session of ReFrame ({error})') from error
