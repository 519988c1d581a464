"""Sessions of ReFrame, real ones, are judged and reported like the run folders that they kept."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.errors import UserError
from mlperf_det.reframe_sessions import is_session, kept_runs
from mlperf_det.results.history import read_history
from mlperf_det.run_folder import Attempt
from tests.results.conftest import FolderMaker, log_text

#: A check that trains in no time: it copies a run folder. $RESULT says how it ends.
CHECK = '''
import os
import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import parameter, sanity_function, variable

class Base(rfm.RunOnlyRegressionTest):
    valid_systems = ['*']
    valid_prog_environs = ['*']

    @sanity_function
    def good(self):
        return sn.assert_eq(os.environ.get('RESULT', 'good'), 'good', 'the node is broken')

@rfm.simple_test
class train(Base):
    recipe = parameter(['smoke'])
    executable = 'cp'
    executable_opts = ['-r', os.environ['RUN'], 'run_0']
    keep_files = ['run_*']

@rfm.simple_test
class preflight(Base):
    executable = 'true'
    run_facts = variable(dict, value={'software: driver': '560.35'}, loggable=True)
'''


def run_session(place: Path, source: Path, result: str = 'good') -> Path:
    """Run the check, which leaves a copy of ``source``; return the report of the session. results.db lies beside it."""
    place.mkdir(exist_ok=True)
    (place / 'check.py').write_text(CHECK)
    report = place / f'report-{time.time_ns()}.json'
    done = subprocess.run(
        [str(Path(sys.executable).parent / 'reframe'), '-c', str(place / 'check.py'), '-r', f'--prefix={place}',
         f'--report-file={report}', '--nocolor'], capture_output=True, text=True, check=False, cwd=place,
        env={**os.environ, 'RFM_ENABLE_RESULTS_STORAGE': '1', 'RFM_SQLITE_DB_FILE': str(place / 'results.db'),
             'RUN': str(source), 'RESULT': result})
    assert done.returncode == (result != 'good'), done.stdout + done.stderr
    return report


def uuid_of(report: Path) -> str:
    return str(json.loads(report.read_bytes())['session_info']['uuid'])


def states(capsys: pytest.CaptureFixture[str], path: object) -> list[str]:
    """The first word of each verdict on a path."""
    main(['verdict', str(path)])
    return [line.partition(' ')[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(' ')]


@pytest.mark.slow
def test_a_session_is_judged_and_reported(make_run: FolderMaker, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / 'site'
    slow = make_run('slow', log=log_text(epoch_seconds=60), attempts=(Attempt(started=time.time()),))
    first = run_session(place, slow)
    database = place / 'results.db'
    for path in (first, database, f'{database}:{uuid_of(first)[:13]}'):
        assert main(['verdict', str(path)]) == 0
        assert 'in 3.00 min' in capsys.readouterr().out
        assert main(['logs', str(path), '--csv', str(tmp_path / 'logs.csv')]) == 0
        row, = csv.DictReader((tmp_path / 'logs.csv').open())
        assert (row['ttt_minutes'], row['status']) == ('3.0', 'success')
        assert main(['report', str(path), '-o', str(tmp_path / 'out')]) == 0
        assert 'PASS' in (tmp_path / 'out' / 'report.html').read_text()
        assert main(['history', 'list', str(path)]) == 0
        assert 'train %recipe=smoke' in capsys.readouterr().out
    facts = {record.case.split()[0]: record.facts for record in read_history([database])}
    assert facts['train']['software: torch'] == '2.14.1'
    assert 'software: torch' not in facts['preflight']
    assert facts['preflight']['software: driver'] == '560.35'    # recorded with the case itself

    # The next session writes into the same folder: its runs are not those of the first one.
    quick = make_run('quick', attempts=(Attempt(started=time.time()),))
    second = run_session(place, quick)
    assert main(['verdict', str(database)]) == 0
    assert 'in 1.50 min' in capsys.readouterr().out
    assert states(capsys, second) == ['PASS']
    assert states(capsys, first) == states(capsys, f'{database}:{uuid_of(first)}') == ['FAIL-INFRA']
    assert 'later session' in kept_runs(first)[1][0][1]

    # A case that fails leaves its run in the stage folder, and the good one of the night before where it was.
    failed = run_session(place, slow, result='bad')
    folders, lost = kept_runs(failed)
    assert [folder.parts[-6] for folder in folders] == ['stage']
    assert sorted((name, problem.partition(':')[0]) for name, problem in lost) == [
        ('preflight', 'its check failed'), ('train %recipe=smoke', 'its check failed')]
    assert sorted(states(capsys, database)) == ['FAIL-INFRA', 'PASS']
    shutil.rmtree(place / 'stage')
    assert states(capsys, failed) == ['FAIL-INFRA']


def test_what_a_database_does_not_hold_is_the_users_error(tmp_path: Path) -> None:
    from tests.results.test_history import big_database
    big_database(tmp_path / 'results.db', nights=12, cases=1, slow_from=99)
    with pytest.raises(UserError, match='has no session 77; `reframe --list-stored-sessions` lists them'):
        kept_runs(tmp_path / 'results.db', '77')
    with pytest.raises(UserError, match='several sessions begin with 1'):
        kept_runs(tmp_path / 'results.db', '1')
    assert len(kept_runs(tmp_path / 'results.db', '11')[1]) == 0
    assert len(read_history([Path(f'{tmp_path / "results.db"}:11')])) == 1


@pytest.mark.parametrize(('name', 'content', 'found'), [
    ('a.json', b'{"session_info": {}, "runs": []}', True), ('a.json', b'{"other": {}}', False), ('a.json', b'', False),
    ('run.json', b'{"schema_version": 1}', False), ('x.db', b'SQLite format 3\0', True), ('x.db', b'SQL', False)])
def test_sessions_are_told_from_other_files(tmp_path: Path, name: str, content: bytes, found: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_session(tmp_path / name) is found
    assert not is_session(tmp_path / 'absent.json')
