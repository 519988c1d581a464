"""Run folders as training leaves them, written by the project's own writers."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.ssd import smoke_recipe
from mlperf_det.run_folder import METRICS_JSONL, Outcome, RunRecord, write_record

START_MS = 1_760_000_000_000
FolderMaker = Callable[..., Path]


def event(key: str, value: Any = None, *, seconds: float = 0.0, **metadata: Any) -> str:
    return ':::MLLOG ' + json.dumps({'namespace': '', 'time_ms': START_MS + round(seconds * 1000), 'key': key,
                                     'event_type': 'POINT_IN_TIME', 'value': value, 'metadata': metadata})


def log_text(accuracies: Sequence[Any] = (0.1, 0.25, 0.34), *, status: str | None = 'success', seed: int = 7,
             division: str = 'open', batch: int = 16, epoch_seconds: float = 30.0, platform: str = 'box') -> str:
    """The log of an SSD run with an evaluation after each epoch."""
    lines = [event('submission_benchmark', 'ssd'), event('submission_division', division),
             event('submission_org', 'lab'), event('submission_platform', platform), event('cache_clear', True),
             event('init_start', seconds=-20), event('seed', seed), event('global_batch_size', batch),
             event('model_bn_span', batch), event('train_samples', 200), event('eval_samples', 50),
             event('init_stop'), event('run_start')]
    now = 0.0
    for epoch, accuracy in enumerate(accuracies, start=1):
        lines.append(event('epoch_start', seconds=now, epoch_num=epoch))
        now += epoch_seconds * 0.8
        lines += [event('tracked_stats', {'throughput': 200 / (epoch_seconds * 0.8), 'loss': 9 / epoch}, seconds=now,
                        step=epoch), event('epoch_stop', seconds=now, epoch_num=epoch),
                  event('eval_start', seconds=now, epoch_num=epoch)]
        now += epoch_seconds * 0.2
        lines += [event('eval_accuracy', accuracy, seconds=now, epoch_num=epoch),
                  event('eval_stop', seconds=now, epoch_num=epoch)]
    if status is not None:
        lines.append(event('run_stop', seconds=now, status=status))
    return '\n'.join(lines) + '\n'


def metrics_text(ranks: int = 2, *, slow_rank: int | None = None, loss: float | None = 3.0) -> str:
    start = START_MS / 1000
    lines: list[Mapping[str, Any]] = [{'kind': 'attempt', 'time': start, 'attempt': 0, 'resumed_from_step': None}]
    lines += [{'kind': 'step', 'time': start + step, 'attempt': 0, 'step': step, 'epoch': step // 30, 'steps': 1,
               'loss': loss if loss is None else loss + 6 / (step + 1), 'lr': 0.1, 'images_per_second': 8.3 + step % 3,
               'data_wait_share': 0.02, 'warm_up': step < 5} for step in range(90)]
    for rank in range(ranks):
        wait = 9.0 if rank == slow_rank else 1.0
        lines.append({'kind': 'epoch', 'time': start + 90, 'attempt': 0, 'epoch': 3, 'rank': rank,
                      'host': f'n{rank // 2}', 'steps': 90, 'seconds': 90.0, 'data_wait': wait,
                      'step': 60.0 - wait, 'evaluation': 15.0, 'score_wait': 2.0, 'checkpoint': 1.0})
    lines.append({'kind': 'steady_state', 'time': start + 90, 'attempt': 0, 'first_step': 5, 'last_step': 90,
                  'warm_up_steps': 5, 'images_per_second': 8.8, 'data_wait_share': 0.02})
    return ''.join(json.dumps(line) + '\n' for line in lines)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that no other test and no user has."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> FolderMaker:
    """A maker of run folders: ``make_run(name, log=..., metrics=..., record fields ...)``."""

    def make(name: str = 'run_0', *, log: str | None = None, metrics: str | None = None,
             recipe: Mapping[str, Any] | None = None, ranks: int = 2, **fields: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        mapping = {**to_mapping(smoke_recipe()), 'quality_target': {'bbox': 0.3}, **(recipe or {})}
        record = RunRecord(
            benchmark='ssd', recipe=mapping, log='result_0.txt', seed=7, software={'torch': '2.14.1', 'python': '3.11'},
            hosts=({'name': 'n0', 'ranks': list(range(ranks)), 'devices': [], 'cpu': 'Example CPU', 'cpus': 8,
                    'memory': 2**35},),
            runtime={'precision': 'fp32', 'device': 'cpu', 'backend': 'gloo'},
            dataset={'card': 'generated-coco', 'root': '/data', 'fingerprint': 'sha256:1234'},
            backbone=None, image=None, command=('mlperf-det', 'train', 'ssd', '--seed', '7'),
            environment={'OMP_NUM_THREADS': '1'}, outcome=Outcome.CONVERGED)
        write_record(folder, dataclasses.replace(record, **fields))
        if log != '':
            (folder / 'result_0.txt').write_text(log_text() if log is None else log)
        (folder / METRICS_JSONL).write_text(metrics_text(ranks) if metrics is None else metrics)
        return folder

    return make


class Used(NamedTuple):
    """What a command took: the largest resident memory, and seconds of the processor."""

    mebibytes: float
    seconds: float


# Not getrusage for the memory: its figure begins with what the process that forked this one had.
_MEASURED = r"""
import pathlib, re, sys, time
from mlperf_det.cli import main
status = main(sys.argv[1:])
print(re.search(r'VmHWM:\s+(\d+) kB', pathlib.Path('/proc/self/status').read_text())[1], time.process_time())
sys.exit(status)
"""


def run_measured(*words: str) -> Used:
    """Run ``mlperf-det`` with these words, which must succeed, and return what it took."""
    done = subprocess.run([sys.executable, '-c', _MEASURED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kibibytes, seconds = map(float, done.stdout.splitlines()[-1].split())
    return Used(kibibytes / 1024, seconds)
