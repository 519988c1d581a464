"""Lines of the log: their form, their caller, their values, and cutting them back."""

from __future__ import annotations

import io
import json
import logging
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlperf_det.errors import UserError
from mlperf_det.mllog import keys
from mlperf_det.mllog.writer import MLPerfLog, cut

TOKEN = ':::MLLOG '


def events(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f'{constant} is not JSON')
    lines = path.read_text().splitlines()
    assert all(line.startswith(TOKEN) for line in lines)
    return [json.loads(line[len(TOKEN):], parse_constant=refuse) for line in lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'result_0.txt'


def test_an_event_has_the_published_form(path: Path) -> None:
    before = time.time() * 1000
    with MLPerfLog(path) as log:
        log.start(keys.INIT_START)
        log.event(keys.EVAL_ACCURACY, 0.25, {keys.EPOCH_NUM: 5})
        log.end(keys.RUN_STOP, metadata={keys.STATUS: keys.SUCCESS})
    first, second, third = events(path)
    assert list(first) == ['namespace', 'time_ms', 'event_type', 'key', 'value', 'metadata']
    assert [first[name] for name in ('namespace', 'event_type', 'key', 'value')] == [
        '', 'INTERVAL_START', 'init_start', None]
    assert before - 1 <= first['time_ms'] <= second['time_ms'] <= third['time_ms'] <= time.time() * 1000
    assert isinstance(first['time_ms'], int)
    assert (second['event_type'], second['value'], second['metadata']['epoch_num']) == ('POINT_IN_TIME', 0.25, 5)
    assert (third['event_type'], third['metadata']['status']) == ('INTERVAL_END', 'success')


def test_file_and_line_are_those_of_the_caller(path: Path) -> None:
    def helper(log: MLPerfLog) -> None:
        log.event('b', stack_offset=1)

    line = sys._getframe().f_lineno
    with MLPerfLog(path) as log:
        log.event('a')
        helper(log)
    first, second = events(path)
    assert (first['metadata']['file'], first['metadata']['lineno']) == (__file__, line + 2)
    assert (second['metadata']['file'], second['metadata']['lineno']) == (__file__, line + 3)


@pytest.mark.parametrize(('value', 'written'), [
    (np.float32(0.5), 0.5), (np.int64(7), 7), (np.bool_(True), True), (np.array([1, 2]), [1, 2]),
    (torch.tensor(0.25), 0.25), (torch.tensor([1.5, 2.5]), [1.5, 2.5]), ((1, np.float64(2.0)), [1, 2.0]),
    ({'loss': torch.tensor(math.nan), 'n': 1}, {'loss': 'NaN', 'n': 1}), (math.inf, 'Infinity'),
    (np.float32(-np.inf), '-Infinity'), (True, True), ('text \n :::MLLOG {', 'text \n :::MLLOG {'), (None, None),
])
def test_values_become_json(path: Path, value: Any, written: Any) -> None:
    with MLPerfLog(path) as log:
        log.event('key', value, {'step': value})
    (event,) = events(path)
    assert event['value'] == written
    assert event['metadata']['step'] == written
    assert type(event['value']) is type(written)


def test_what_cannot_be_written_raises_instead_of_vanishing(path: Path) -> None:
    with MLPerfLog(path) as log:
        with pytest.raises(TypeError, match='PosixPath cannot be written'):
            log.event('key', path)
        with pytest.raises(ValueError, match='file and lineno are those of the caller'):
            log.event('key', 1, {'file': 'forged'})
    assert path.read_bytes() == b''
    with pytest.raises(ValueError, match='closed file'):
        log.event('key')


def test_each_line_is_in_the_file_before_the_call_returns(path: Path) -> None:
    echo = io.StringIO()
    with MLPerfLog(path, echo=echo) as log:
        for count in range(1, 4):
            log.event('key', count)
            assert len(events(path)) == count
            assert path.read_text() == echo.getvalue()


def test_the_clock_set_back_does_not_turn_time_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MLPerfLog(path) as log:
        log.event('a')
        monkeypatch.setattr('mlperf_det.mllog.writer.time.time_ns', lambda: 10**15)
        log.event('b')
    first, second = events(path)
    assert second['time_ms'] == first['time_ms']


def test_other_ranks_write_nothing(path: Path) -> None:
    with MLPerfLog(path, rank=3) as log:
        log.event('key', 1)
        assert log.offset() == 0
    assert not path.exists()


def test_logs_are_separate_and_leave_global_logging_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root_handlers = list(logging.getLogger().handlers)
    with MLPerfLog(tmp_path / 'a') as one, MLPerfLog(tmp_path / 'b') as other:
        one.event('a')
        other.event('b')
    assert [e['key'] for e in events(tmp_path / 'a')] == ['a']
    assert [e['key'] for e in events(tmp_path / 'b')] == ['b']
    assert logging.getLogger().handlers == root_handlers
    assert capfd.readouterr() == ('', '')


def test_a_full_disk_is_an_error() -> None:
    if not Path('/dev/full').exists():
        pytest.skip('/dev/full is a Linux device')
    with MLPerfLog(Path('/dev/full')) as log, pytest.raises(OSError, match='No space left'):
        log.event('key')


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent/result_0\.txt: cannot be written'):
        MLPerfLog(tmp_path / 'absent' / 'result_0.txt')


def test_a_resumed_run_continues_at_its_checkpoint(path: Path, tmp_path: Path) -> None:
    tail = tmp_path / 'cut.txt'
    with MLPerfLog(path) as log:
        log.event('kept')
        offset = log.offset()
        assert offset == path.stat().st_size
        log.event('lost')
    lost = path.read_bytes()[offset:]
    assert cut(path, offset, tail) == len(lost)
    with MLPerfLog(path) as log:
        log.event('again')
    assert [e['key'] for e in events(path)] == ['kept', 'again']
    assert tail.read_bytes() == lost
    assert cut(path, path.stat().st_size, tail) == 0
    cut(path, 0, tail)
    assert (path.read_bytes(), [e['key'] for e in events(tail)]) == (b'', ['lost', 'kept', 'again'])


@pytest.mark.parametrize('offset', [3, 10**6, -1])
def test_a_log_of_another_run_is_not_cut(path: Path, tmp_path: Path, offset: int) -> None:
    path.write_bytes(b'a line\nanother\n')
    with pytest.raises(UserError, match=f'15 bytes, but the checkpoint was made at byte {offset}'):
        cut(path, offset, tmp_path / 'tail')
    assert path.read_bytes() == b'a line\nanother\n'
    assert not (tmp_path / 'tail').exists()
    with pytest.raises(UserError, match='cannot be opened'):
        cut(tmp_path / 'absent', 0, tmp_path / 'tail')


def test_writing_needs_no_torch() -> None:
    code = 'import sys, mlperf_det.mllog.writer, mlperf_det.mllog.compliance; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
