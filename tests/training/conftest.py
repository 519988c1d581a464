from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The toy task is both imported and started as a program.
sys.path.insert(0, str(Path(__file__).parent))

TOY = Path(__file__).parent / 'toy.py'


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import toy
    folder = tmp_path_factory.mktemp('toy-data')
    toy.write_annotations(folder / 'annotations.json')
    return folder


def unused_port() -> int:
    """Return a port that nobody listens at, from below those that the kernel gives to sockets without one.

    A rank takes it seconds later, after loading PyTorch: one of the kernel's own choice may be somebody's by then.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(('localhost', port))
            return port


class ToyPrograms:
    """Starts the toy as processes of their own, one or several ranks, and ends what is left of them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._started: list[subprocess.Popen[str]] = []

    def start(self, output: Path, *options: str, ranks: int = 1, launcher: str = 'torchrun',
              **recipe: Any) -> list[subprocess.Popen[str]]:
        port = str(unused_port())
        processes = []
        for rank in range(ranks):
            environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'TORCH_CPP_LOG_LEVEL': 'ERROR'}
            if ranks > 1 and launcher == 'srun':
                environment |= {'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank), 'SLURM_NTASKS': str(ranks),
                                'SLURM_JOB_ID': port, 'SLURM_STEP_ID': '0', 'SLURM_STEP_NODELIST': 'localhost'}
            elif ranks > 1:
                environment |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(ranks),
                                'MASTER_ADDR': 'localhost', 'MASTER_PORT': port}
            processes.append(subprocess.Popen(
                [sys.executable, str(TOY), '--output', str(output), '--data', str(self._data), *options, '--recipe',
                 json.dumps({'accelerators_per_node': ranks, **recipe})],
                env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True))
        self._started += processes
        return processes

    def run(self, output: Path, *options: str, ranks: int = 1, launcher: str = 'torchrun',
            **recipe: Any) -> tuple[list[int], list[str]]:
        """Return exit statuses and stderr of the ranks."""
        processes = self.start(output, *options, ranks=ranks, launcher=launcher, **recipe)
        errors = [process.communicate(timeout=120)[1] for process in processes]
        return [process.returncode for process in processes], errors

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


@pytest.fixture
def programs(toy_data: Path) -> Iterator[ToyPrograms]:
    running = ToyPrograms(toy_data)
    yield running
    running.close()


def read_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind from metrics.jsonl."""
    path = folder / 'metrics.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line['kind'] == kind]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the MLPerf log."""
    return [json.loads(line.removeprefix(':::MLLOG '))
            for line in (folder / 'result_0.txt').read_text().splitlines()]
