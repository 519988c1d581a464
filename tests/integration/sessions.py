"""ReFrame sessions on the cluster, and what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from slurm_cluster import SlurmCluster, wait_for

from mlperf_det.run_folder import RunRecord, read_record

CHECKOUT = Path(__file__).resolve().parents[2]
SITE = CHECKOUT / 'systems' / 'ci-slurm' / 'site.py'
#: Enough to learn something from in a few epochs of two seconds.
SCENES = '--train 384 --val 24'
#: Seconds for anything that a busy machine may delay; each takes a tenth of it on two idle cores.
PATIENCE = 600.0


class Session:
    """A ``reframe`` command on the cluster, running or ended.

    Args:
        cluster: where it runs.
        folder: its working folder.
        cache: where generated datasets are kept.
        partition: of the system ci-slurm.
        environment: of the command, and so of its jobs.
        arguments: further arguments of ``reframe``.
    """

    def __init__(self, cluster: SlurmCluster, folder: Path, cache: Path, partition: str,
                 environment: Mapping[str, str], *arguments: str) -> None:
        self.cluster, self.folder = cluster, folder
        self.report = folder / f'report-{time.monotonic_ns()}.json'
        self.log = self.report.with_suffix('.out')
        with self.log.open('w') as log:
            self.process = cluster.popen(
                Path(sys.executable).parent / 'reframe', '-C', SITE, f'--system=ci-slurm:{partition}',
                '-c', CHECKOUT / 'checks', '-r', '--nocolor', '--keep-stage-files', f'--report-file={self.report}',
                *arguments, environment={'MLPERF_DET_CACHE': str(cache), **environment}, folder=folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def all_cases(self, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """Wait for the session and return its cases and fixtures as ReFrame reports them."""
        self.process.wait(timeout)
        assert self.report.exists(), self.log.read_text()[-3000:]
        return list(json.loads(self.report.read_text())['runs'][-1]['testcases'])

    def end(self, timeout: float = PATIENCE) -> list[Case]:
        """Wait for the session and return its cases, without fixtures."""
        cases = self.all_cases(timeout)
        broken = [case['fail_reason'] for case in cases if case['fixture'] and case['result'] != 'pass']
        assert not broken, broken
        return [Case.of(case) for case in cases if not case['fixture']]

    def only_case(self, timeout: float = PATIENCE) -> Case:
        """Wait for the session and return its one case."""
        case, = self.end(timeout)
        return case

    def stage(self) -> Path:
        """Return the stage folder of the training, once it has one."""
        found = [script for script in self.folder.glob('stage/ci-slurm/*/builtin/*/rfm_job.sh')
                 if not script.parent.name.startswith('training_')]
        assert len(found) == 1, found
        return found[0].parent

    def job(self) -> str:
        """Wait until Slurm runs the training of this session, and return the number of the job."""
        def running() -> list[str]:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return [job for job, _, state in self.cluster.jobs() if state == 'RUNNING']
        wait_for(lambda: bool(running()), PATIENCE, 'the job runs')
        job, = running()
        return job

    def wait_until_trained(self, epochs: int) -> None:
        """Wait until the run has so many epochs on record."""
        def done() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            metrics = self.stage() / 'run_0' / 'metrics.jsonl'
            text = metrics.read_text() if metrics.exists() else ''
            # Without the last line, which may be half written.
            lines = text.rpartition('\n')[0].splitlines()
            finished = [line for line in map(msgspec.json.decode, lines) if line['kind'] == 'epoch']
            return any(line['epoch'] >= epochs for line in finished)
        wait_for(done, PATIENCE, f'{epochs} epochs are done')


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case of a session: result, why it failed, its job script and its run folder."""

    name: str
    result: str
    reason: str
    job: str
    script: str
    folder: Path

    @classmethod
    def of(cls, case: dict[str, Any]) -> Case:
        """Read a case of ReFrame's report."""
        folder = next((Path(case[key]) for key in ('outputdir', 'stagedir')
                       if case[key] and (Path(case[key]) / 'rfm_job.sh').exists()), Path(case['stagedir'] or '.'))
        script = folder / 'rfm_job.sh'
        return cls(name=case['display_name'], result=case['result'], reason=case['fail_reason'] or '',
                   job=str(case['jobid']), script=script.read_text() if script.exists() else '', folder=folder)

    @property
    def record(self) -> RunRecord:
        """Its run.json."""
        return read_record(self.folder / 'run_0')


class Suite:
    """Starts sessions in the folder of a test."""

    def __init__(self, cluster: SlurmCluster, cache: Path, folder: Path) -> None:
        self.cluster, self.cache, self.folder = cluster, cache, folder
        self.sessions: list[Session] = []

    def start(self, *arguments: str, partition: str = 'cpu', cache: Path | None = None,
              environment: Mapping[str, str] | None = None, **variables: str) -> Session:
        """Start ``reframe`` with these arguments and ``-S`` variables (``__`` stands for the dot)."""
        settings = {name.replace('__', '.'): value for name, value in variables.items()}
        words = [word for item in settings.items() for word in ('-S', '='.join(item))]
        session = Session(self.cluster, self.folder, cache or self.cache, partition, environment or {},
                          *arguments, *words)
        self.sessions.append(session)
        return session

    def train(self, benchmark: str = 'ssd', *arguments: str, partition: str = 'cpu', cache: Path | None = None,
              environment: Mapping[str, str] | None = None, **variables: str) -> Session:
        """Start the smoke check of a benchmark."""
        scenes = {'training_dataset__generator_arguments': SCENES}
        own = {f'{benchmark}__{name}': value for name, value in variables.items()}
        return self.start('-n', benchmark, '-t', '^smoke$', *arguments, partition=partition, cache=cache,
                          environment=environment, **scenes, **own)
