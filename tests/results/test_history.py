"""The history: ReFrame's own database and run folders, read alike, quickly, and exported without loss."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars
import pytest

from mlperf_det.cli import main
from mlperf_det.errors import UserError
from mlperf_det.results import history, history_cache
from mlperf_det.results.history import read_history, series_of
from mlperf_det.results.history_record import Record
from tests.results.conftest import START_MS, FolderMaker, log_text

CHECK = '''
import reframe as rfm
import reframe.utility.sanity as sn

@rfm.simple_test
class speed(rfm.RunOnlyRegressionTest):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'echo'
    executable_opts = ['rate 42.5']

    @sanity_function
    def good(self):
        return sn.assert_found('rate', self.stdout)

    @performance_function('images/s')
    def images_per_second(self):
        return sn.extractsingle(r'rate (\\S+)', self.stdout, 1, float)
'''


def reframe_database(folder: Path) -> Path:
    """What ReFrame itself stores of a real session."""
    (folder / 'check.py').write_text(CHECK)
    database = folder / 'results.db'
    done = subprocess.run(
        [str(Path(sys.executable).parent / 'reframe'), '-c', str(folder / 'check.py'), '-r', f'--prefix={folder}',
         f'--report-file={folder / "report.json"}'], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, 'RFM_ENABLE_RESULTS_STORAGE': '1', 'RFM_SQLITE_DB_FILE': str(database)})
    assert done.returncode == 0, done.stdout + done.stderr
    return database


def test_the_database_and_the_report_of_a_real_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = reframe_database(tmp_path)
    record, = read_history([database])
    assert record.metrics == {'images_per_second': 42.5}
    assert (record.origin, record.result) == ('reframe', 'pass')
    assert record.case.startswith('speed @generic:default')
    assert record.time == pytest.approx(time.time(), abs=600)
    assert record.facts['ReFrame'].startswith('4.')
    assert read_history([tmp_path / 'report.json']) == [record]
    assert main(['history', 'list', str(database)]) == 0
    assert '42.5' in capsys.readouterr().out
    assert main(['history', 'show', record.identifier[:8], str(database)]) == 0
    assert 'images_per_second: 42.5' in capsys.readouterr().out


def big_database(path: Path, nights: int, cases: int, slow_from: int) -> None:
    """A database in ReFrame's schema, of ``nights`` sessions of ``cases`` test cases."""
    connection = sqlite3.connect(path)
    connection.execute('CREATE TABLE sessions(uuid TEXT PRIMARY KEY, session_start_unix REAL, session_end_unix REAL, '
                       'json_blob TEXT, report_file TEXT)')
    for night in range(nights):
        rate = (100.0 if night < slow_from else 95.0) + 0.4 * ((night * 7919) % 5 - 2)
        listed = [{'name': f'c{case}', 'display_name': f'c{case}', 'system': 'lab', 'partition': 'gpu',
                   'environ': 'builtin', 'result': 'pass', 'uuid': f'{night}:0:{case}', 'job_nodelist': ['n1'],
                   'job_completion_time_unix': 1.7e9 + 86400 * night + case, 'tags': ['nightly'] * 20,
                   'perfvalues': {'lab:gpu:images_per_second': [rate + case, 0, None, None, 'images/s', 'pass']}}
                  for case in range(cases)]
        blob = {'session_info': {'version': '4.10.4', 'uuid': str(night)}, 'runs': [{'testcases': listed}]}
        connection.execute('INSERT INTO sessions VALUES(?,?,?,?,?)', (str(night), 1.7e9 + night, 0.0,
                                                                    json.dumps(blob), ''))
    connection.commit()
    connection.close()


def test_thousands_of_runs_are_listed_in_under_two_seconds(tmp_path: Path) -> None:
    big_database(tmp_path / 'results.db', nights=500, cases=10, slow_from=400)
    started = time.process_time()
    records = read_history([tmp_path / 'results.db'])
    series = series_of(records)
    assert time.process_time() - started < 2
    assert (len(records), len(series)) == (5000, 10)


def test_thousands_of_run_folders_are_listed_in_under_two_seconds(make_run: FolderMaker, tmp_path: Path) -> None:
    for number in range(300):
        make_run(f'runs/{number // 100}/run_{number}')
    started = time.process_time()
    first = read_history([tmp_path / 'runs'])
    assert time.process_time() - started < 300 * 2 / 1000    # a thousand that were never seen before
    started = time.process_time()
    assert read_history([tmp_path / 'runs']) == first
    assert time.process_time() - started < 300 * 2 / 5000    # five thousand that were
    assert len(first) == 300


def test_many_new_run_folders_are_read_by_several_processes(make_run: FolderMaker, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        make_run(f'runs/run_{number}', log=log_text(epoch_seconds=30 + number))
    (tmp_path / 'runs' / 'run_3' / 'result_0.txt').write_bytes(b'\xff' * 100)
    alone = read_history([tmp_path / 'runs'], cached=False)
    monkeypatch.setattr(history, 'FOLDERS_A_PROCESS', 4)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2})
    monkeypatch.setattr(history, 'of_run', lambda run, of=history.of_run: replace(
        of(run), system=f'{os.getpid()} {signal.getsignal(signal.SIGINT) is signal.SIG_IGN}'))
    together = read_history([tmp_path / 'runs'])
    for record in together:
        process, ignored = record.system.split()
        assert int(process) != os.getpid()
        assert ignored == 'True'    # else Ctrl-C would leave the command waiting for ever
    assert [replace(record, system='') for record in together] == [replace(record, system='') for record in alone]
    assert read_history([tmp_path / 'runs']) == together    # from the cache, in the same order


def test_what_is_remembered_never_outlives_what_is_on_disk(make_run: FolderMaker, tmp_path: Path,
                                                           own_cache: Path) -> None:
    folders = [make_run(f'runs/run_{number}') for number in range(4)]
    before = read_history([tmp_path / 'runs'])
    remembered, = (own_cache / 'mlperf-det').iterdir()
    (folders[0] / 'result_0.txt').write_text(log_text(epoch_seconds=31))
    shutil.rmtree(folders[1])
    record = folders[2] / 'run.json'
    record.write_text(record.read_text().replace('"torch": "2.14.1"', '"torch": "2.14.2"'))
    os.utime(record, (1, 1))
    make_run('runs/run_4', log=log_text((0.1,), status='aborted'), outcome='aborted')
    after = read_history([tmp_path / 'runs'])
    assert after == read_history([tmp_path / 'runs'], cached=False)
    by_name = {Path(record.identifier).name: record for record in after}
    assert sorted(by_name) == ['run_0', 'run_2', 'run_3', 'run_4']
    assert [by_name[name].metrics.get('time_to_train') for name in ('run_0', 'run_2', 'run_4')] == [93, 90, None]
    assert by_name['run_2'].facts['software: torch'] == '2.14.2'
    assert by_name['run_3'] in before
    for content in (b'', b'\xc1', remembered.read_bytes()[:-5], b'\x80'):
        remembered.write_bytes(content)
        assert read_history([tmp_path / 'runs']) == after
    shutil.rmtree(own_cache)
    own_cache.write_text('no folder')
    assert read_history([tmp_path / 'runs']) == after


def test_another_program_reads_anew(make_run: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run('runs/run_0')
    reads: list[Path] = []

    def read(folders: Sequence[Path]) -> list[list[Record]]:
        reads.extend(folders)
        return [[] for _ in folders]

    for program, expected in (('1.0 a', 1), ('1.0 a', 1), ('1.0 b', 2)):
        monkeypatch.setattr(history_cache, '_program', lambda program=program: program)
        cache = history_cache.HistoryCache([tmp_path])
        assert cache.records([tmp_path / 'runs' / 'run_0'], read) == []
        cache.save()
        assert len(reads) == expected


def test_run_folders_logs_and_archives_are_all_found_once(make_run: FolderMaker, tmp_path: Path) -> None:
    folder = make_run('all/runs/run_0')
    (folder / 'checkpoints').mkdir()
    (tmp_path / 'all' / 'again').symlink_to(folder)
    published = tmp_path / 'all' / 'v1.1' / 'Sub' / 'sys' / 'ssd'
    published.mkdir(parents=True)
    (published / 'result_0.txt').write_text(log_text())
    for paths in ([tmp_path / 'all'], [tmp_path / 'all', folder], [folder, tmp_path / 'all']):
        assert sorted(record.case.split()[0] for record in read_history(paths)) == ['ssd', 'v1.1']
    shutil.make_archive(str(tmp_path / 'packed'), 'tar', tmp_path / 'all')
    archived = read_history([tmp_path / 'packed.tar'])
    assert sorted((record.case, record.result) for record in archived) == sorted(
        (record.case, record.result) for record in read_history([tmp_path / 'all']))


def test_regressions_name_the_first_bad_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    big_database(tmp_path / 'results.db', nights=60, cases=1, slow_from=45)
    assert main(['history', 'regressions', str(tmp_path / 'results.db')]) == 1
    out = capsys.readouterr().out
    assert 'WORSE: images_per_second -5.0% since 2023-12-29' in out
    big_database(tmp_path / 'quiet.db', nights=60, cases=1, slow_from=99)
    assert main(['history', 'regressions', str(tmp_path / 'quiet.db')]) == 0


def days_later(log: str, days: int) -> str:
    return re.sub(r'"time_ms": (\d+)', lambda found: f'"time_ms": {int(found[1]) + 86_400_000 * days}', log)


def test_what_changed_at_the_first_bad_night_is_named(make_run: FolderMaker, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty nights of run folders; from the 41st on another driver, image and node, and 4 % more time."""
    for night in range(60):
        new = night >= 40
        text = log_text(epoch_seconds=(31.2 if new else 30) + 0.2 * ((night * 7919) % 5 - 2))
        make_run(f'nights/{night}', log=days_later(text, night),
                 software={'torch': '2.14.1', 'driver': '560.35' if new else '550.90'},
                 image={'digest': 'sha256:beef' if new else 'sha256:cafe'},
                 hosts=({'name': 'n7' if new else 'n3', 'ranks': [0, 1], 'devices': []},),
                 environment={'OMP_NUM_THREADS': str(night % 2)})
    assert main(['history', 'regressions', str(tmp_path / 'nights')]) == 1
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if 'time_to_train' in line)
    assert lines[first].startswith('WORSE: time_to_train +4.0% since 2025-11-18, from 90')
    causes = {line.strip() for line in lines[first + 1:first + 6]}
    assert {'software: driver: 550.90 -> 560.35', 'image: sha256:cafe -> sha256:beef', 'nodes: n3 -> n7',
            'environment: OMP_NUM_THREADS: 1 -> 0 (changed at other times too)'} <= causes


def test_run_folders_compare_and_export(make_run: FolderMaker, tmp_path: Path,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    make_run('runs/run_0', software={'torch': '2.13'})
    make_run('runs/run_1', log=log_text(epoch_seconds=33), software={'torch': '2.14'})
    runs = str(tmp_path / 'runs')
    assert main(['history', 'compare', 'run_0', 'run_1', runs]) == 0
    out = capsys.readouterr().out
    assert 'time_to_train\t90\t99\t+10.00%' in out
    assert 'software: torch\t2.13\t2.14' in out
    assert main(['history', 'export', runs, '--csv', str(tmp_path / 'h.csv'), '--parquet', str(tmp_path / 'h.pq')]) == 0
    rows = list(csv.DictReader((tmp_path / 'h.csv').open()))
    frame = polars.read_parquet(tmp_path / 'h.pq')
    assert frame.columns == list(rows[0])
    assert frame['time_to_train'].to_list() == [float(row['time_to_train']) for row in rows] == [90.0, 99.0]
    assert frame['unix_time'].to_list() == [START_MS / 1000] * 2
    assert main(['history', 'export', runs]) == 2
    assert main(['history', 'show', 'nothing', runs]) == 2
    assert 'nothing: no run is called so' in capsys.readouterr().err
    assert main(['history', 'list', runs, '--since', '2030-01-01']) == 1
    assert main(['history', 'list', runs, '--since', '2020-01-01', '--case', 'ssd', '--json']) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_failed_runs_are_listed_but_are_no_part_of_a_series(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('runs/run_0')
    make_run('runs/run_1', log=log_text((0.1,), status='aborted'), outcome='aborted')
    records = read_history([tmp_path / 'runs'])
    assert [record.result for record in records] == ['converged', 'aborted']
    assert all(len(series.observations) == 1 for series in series_of(records))


@pytest.mark.parametrize('content', [b'SQLite format 3\0' + b'x' * 200, b'{"runs": 7}', b'[1',
                                     b'{"runs": [{"testcases": [7]}]}'])
def test_what_is_no_history_is_the_users_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'x.json'
    path.write_bytes(content)
    with pytest.raises(UserError, match='is not a'):
        read_history([path])


def test_a_session_with_values_that_are_no_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'report.json'
    path.write_text('{"session_info": {}, "runs": [{"testcases": [{"name": "a", "uuid": "u", "result": "fail", '
                    '"perfvalues": {"s:p:time_to_train": [NaN, 0, null, null, "s", "fail"]}}]}]}')
    record, = read_history([path])
    assert record.metrics == {}
