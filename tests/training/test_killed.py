"""Signals from outside: a killed process leaves no last word, and every later station must say so."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TOY, ToyPrograms, read_lines

from mlperf_det.cli import main
from mlperf_det.results.reading import read_runs
from mlperf_det.results.run import RunStatus
from mlperf_det.rfm import launch
from mlperf_det.rfm.run_requirements import stated_reason
from mlperf_det.run_folder import RUN_JSON, Outcome, read_record

SILENT = 'the process ended without a word (killed? out of memory?)'


def tell(folder: Path, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Require the reason, on one line, of the verdict and of the report."""
    capsys.readouterr()
    assert main(['verdict', str(folder)]) == 14  # FAIL-INFRA
    verdict = capsys.readouterr().out
    assert any('FAIL-INFRA' in line and reason in line for line in verdict.splitlines()), verdict
    assert main(['report', str(folder), '-o', str(tmp_path / 'report')]) == 0
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert reason.replace("'", '&#x27;') in page


@pytest.mark.slow
def test_a_killed_process_is_told_by_every_station(
        programs: ToyPrograms, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'run'
    process, = programs.start(folder, fault='SIGKILL', fault_step=12, quality_target={'bbox': 2.0})
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert read_record(folder).outcome is Outcome.RUNNING
    run, = read_runs([folder])
    assert run.status is RunStatus.INCOMPLETE
    assert run.reason.startswith('no run_stop: the run ended ')
    assert f'run.json still says running: {SILENT}' in run.reason
    assert stated_reason([folder]).startswith('the training process ended without a word (killed? out of memory?)')
    tell(folder, SILENT, tmp_path, capsys)


def processes_below(pid: int) -> list[int]:
    children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [found for child in map(int, children) for found in (child, *processes_below(child))]


def rank_process(agent: int, rank: int) -> int:
    """Return the process id of a rank that torchrun has started."""
    return next(pid for pid in processes_below(agent)
                if f'\0RANK={rank}\0'.encode() in b'\0' + Path(f'/proc/{pid}/environ').read_bytes()
                and TOY.name.encode() in Path(f'/proc/{pid}/cmdline').read_bytes())


@pytest.fixture
def agent(toy_data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A torchrun, started as job scripts start it, whose two ranks have done a step in ``tmp_path / 'run'``."""
    folder = tmp_path / 'run'
    words = launch.python_command(launch.Geometry(nodes=1, ranks_per_node=2, starter='torchrun'), sys.executable)
    recipe = ('{"accelerators_per_node": 2, "local_batch_size": 4, "quality_target": {"bbox": 2.0}, '
              '"step_seconds": 0.2}')
    command = f'exec {" ".join(words)} {TOY} --output {folder} --data {toy_data} --recipe {shlex.quote(recipe)}'
    process = subprocess.Popen(['bash', '-c', command], env={**os.environ, 'OMP_NUM_THREADS': '1'},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 100
        while not ((folder / RUN_JSON).exists() and read_lines(folder, 'step')):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_signal_to_all_processes_of_torchrun_leaves_a_checkpoint(
        agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for pid in (agent.pid, *processes_below(agent.pid)):
        os.kill(pid, signal.SIGUSR1)  # as Slurm does before the time limit
    assert agent.wait(60) == 1
    record = read_record(tmp_path / 'run')
    assert record.outcome is Outcome.INTERRUPTED
    assert record.reason.startswith('SIGUSR1 received at step ')
    assert list((tmp_path / 'run' / 'checkpoints').glob('*.pt'))


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_rank_of_torchrun_is_told_by_every_station(
        agent: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], victim: int) -> None:
    folder = tmp_path / 'run'
    os.kill(rank_process(agent.pid, victim), signal.SIGKILL)
    assert agent.wait(60) == 1
    record = read_record(folder)
    assert record.outcome is Outcome.FAILED
    assert f'rank {victim} vanished without a traceback: killed from outside, or out of memory' in record.reason
    assert read_runs([folder])[0].status is RunStatus.INCOMPLETE
    tell(folder, f'rank {victim} vanished without a traceback', tmp_path, capsys)
