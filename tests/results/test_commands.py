"""``mlperf-det logs`` and ``mlperf-det score``: stable tables for scripts, and no quiet failure."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from mlperf_det.cli import main
from tests.results.conftest import log_text


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / 'v1.1' / 'Sub' / 'sys' / 'ssd'
    folder.mkdir(parents=True)
    for number, seconds in enumerate((30, 60, 45, 90)):
        (folder / f'result_{number}.txt').write_text(log_text((0.1, 0.24), epoch_seconds=seconds, seed=number))
    (folder / 'result_4.txt').write_text(log_text((0.1, 0.2), status='aborted'))
    (folder / 'scaling.json').write_text('{"scaling_factor": 2.0}')
    return tmp_path


def test_logs(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['logs', str(tree), '--csv', str(tmp_path / 'logs.csv')]) == 0
    rows = list(csv.DictReader((tmp_path / 'logs.csv').open()))
    assert [row['file'] for row in rows] == [f'result_{number}.txt' for number in range(5)]
    assert [row['status'] for row in rows] == ['success'] * 4 + ['aborted']
    assert [row['ttt_minutes'] for row in rows] == ['1.0', '2.0', '1.5', '3.0', '1.0']
    assert {(row['round'], row['submitter'], row['system'], row['benchmark']) for row in rows} == {
        ('v1.1', 'Sub', 'sys', 'ssd')}
    assert main(['logs', str(tree), '--csv', '-']) == 0
    assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows


def test_score(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['score', str(tree), '--csv', '-']) == 0
    row, = csv.DictReader(io.StringIO(capsys.readouterr().out))
    # The aborted run counts as the slowest: the fastest is dropped and the mean is of 1.5, 2 and 3 minutes.
    assert (row['n_converged'], row['n_logs'], row['olympic_minutes'], row['score_minutes']) == (
        '4', '5', '2.166667', '4.333333')


def test_tables_in_a_pipe_are_plain_and_harmless(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / 'result_0.txt').write_text(log_text(platform='\x1b]0;owned\x07'))
    assert main(['logs', str(tree)]) == 0
    out = capsys.readouterr().out
    assert '\x1b' not in out
    assert out.splitlines()[0].startswith('round\tsubmitter\tsystem')


def test_nothing_found_and_nothing_scored_are_failures(tmp_path: Path, tree: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert main(['logs', str(empty)]) == 1
    assert main(['score', str(empty)]) == 1
    assert 'no log found' in capsys.readouterr().err
    single = tree / 'v1.1' / 'Sub' / 'sys' / 'ssd' / 'result_0.txt'
    assert main(['score', str(single)]) == 0
    assert main(['score', str(single), '--strict']) == 1


def test_strict_reading_fails_when_something_was_forgiven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / 'result_0.txt'
    log.write_text(log_text() + ':::MLLOG {"key": "tru')
    assert main(['logs', str(log)]) == 0
    assert 'forgiven in 1 of 1 logs' in capsys.readouterr().err
    assert main(['logs', str(log), '--strict']) == 1
