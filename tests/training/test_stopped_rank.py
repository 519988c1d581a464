"""A rank whose process stands still, as under a debugger or on a frozen node: the job ends, and says which it was."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import ToyPrograms, read_lines

from mlperf_det.run_folder import Outcome, read_record


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_stopped_rank_is_named_and_the_others_end(programs: ToyPrograms, tmp_path: Path, victim: int) -> None:
    run = tmp_path / 'run'
    processes = programs.start(run, '--silence', '3', '--rank-timeout', '120', ranks=2, epochs=1000,
                               evaluation_interval=1000, runtime={'log_interval': 1})
    deadline = time.monotonic() + 60
    while not read_lines(run, 'step'):
        assert time.monotonic() < deadline
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.1)
    os.kill(processes[victim].pid, signal.SIGSTOP)
    stopped = time.monotonic()
    survivor = processes[1 - victim]
    _, error = survivor.communicate(timeout=60)
    assert survivor.returncode == 1
    assert time.monotonic() - stopped < 45
    assert processes[victim].poll() is None, 'it still stands: nobody else ended it'
    record = read_record(run)
    assert record.outcome is Outcome.FAILED
    for told in (error, record.reason):
        assert f'rank {victim}' in told
    assert 'silent for 3 s: host down, network lost, or process stopped' in record.reason
