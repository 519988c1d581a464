"""The job script of a training check, run for real around a stand-in for torchrun: what it makes of how runs end."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

#: Stands for the Python that torchrun runs in: takes the next end of its run from a file, and knows statuses 0 and 1.
TORCHRUN = """#!/bin/bash
for word in "$@"; do case "$word" in --output=*) folder=${word#--output=} ;; esac; done
mkdir -p "$folder"; echo "$folder $*" >> started
outcome=$(head -n 1 "$folder.ends"); sed -i 1d "$folder.ends"
printf '{\\n  "schema_version": 1,\\n  "outcome": "%s",\\n  "reason": ""\\n}\\n' "$outcome" > "$folder/run.json"
case "$outcome" in converged|finished) exit 0 ;; *) exit 1 ;; esac
"""


class Job:
    """A job script of three runs on a partition whose launcher starts torchrun."""

    def __init__(self, bench: Any, tmp_path: Path, *, requeue: bool) -> None:
        python = tmp_path / 'python'
        python.write_text(TORCHRUN)
        (tmp_path / 'scontrol').write_text('#!/bin/sh\necho "$@" >> requeued\n')
        for program in (python, tmp_path / 'scontrol'):
            program.chmod(0o755)
        check = bench.gpu_case('one-node', reference_not_needed='calibration', **{
            'ssd.recipe_overrides': 'experiments=3', 'ssd.python': str(python), 'ssd.requeue': str(requeue)})
        check._rfm_dry_run = True
        check.run()
        self.folder, self._programs = Path(check.stagedir), tmp_path

    def run(self, *ends: tuple[str, ...]) -> int:
        """Run the script; ``ends`` are the outcomes of each run, one a start."""
        for number, outcomes in enumerate(ends):
            (self.folder / f'run_{number}.ends').write_text(''.join(f'{outcome}\n' for outcome in outcomes))
        return self.again()

    def again(self) -> int:
        """Run the script as Slurm does after a requeue."""
        (self.folder / 'started').write_text('')
        status = subprocess.run(
            ['bash', 'rfm_job.sh'], cwd=self.folder, check=False, capture_output=True,
            env={**os.environ, 'PATH': f'{self._programs}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}).returncode
        assert (self.folder / 'job_exit_status').read_text() == f'{status}\n'
        return status

    @property
    def started(self) -> list[str]:
        return [line.split()[0] for line in (self.folder / 'started').read_text().splitlines()]

    @property
    def requeued(self) -> bool:
        return (self.folder / 'requeued').exists()


@pytest.mark.parametrize(('outcome', 'status'), [
    ('converged', 0), ('aborted', 3), ('diverged', 4), ('interrupted', 75), ('failed', 1), ('running', 1)])
def test_the_status_says_how_a_run_ended_though_torchrun_does_not(
        bench: Any, tmp_path: Path, outcome: str, status: int) -> None:
    job = Job(bench, tmp_path, requeue=False)
    assert job.run(('converged',), (outcome,), ('converged',)) == status
    assert (job.folder / 'run_1.exit').read_text() == f'{status}\n'
    assert not job.requeued


def test_an_interrupted_run_is_requeued_and_goes_on_beside_those_that_ended(bench: Any, tmp_path: Path) -> None:
    job = Job(bench, tmp_path, requeue=True)
    assert job.run(('aborted',), ('interrupted', 'converged'), ('converged',)) == 3
    assert job.requeued
    (job.folder / 'requeued').unlink()
    assert job.again() == 3, 'the run that ended below its target is not forgotten'
    assert job.started == ['run_1']
    assert not job.requeued


def test_a_failed_run_gets_another_try_when_the_job_is_requeued(bench: Any, tmp_path: Path) -> None:
    job = Job(bench, tmp_path, requeue=True)
    assert job.run(('failed', 'converged'), ('converged',), ('interrupted', 'converged')) == 1
    assert job.requeued
    assert job.again() == 0
    assert job.started == ['run_0', 'run_2']


def test_nothing_is_requeued_for_a_run_that_ended(bench: Any, tmp_path: Path) -> None:
    job = Job(bench, tmp_path, requeue=True)
    assert job.run(('converged',), ('aborted',), ('failed',)) == 3
    assert not job.requeued


def test_torchrun_does_not_hear_the_signal_that_is_meant_for_ranks(bench: Any, tmp_path: Path) -> None:
    job = Job(bench, tmp_path, requeue=True)
    # SigIgn of the process that stands for torchrun: bit 9 is SIGUSR1.
    (tmp_path / 'python').write_text(TORCHRUN.replace('mkdir', 'grep SigIgn /proc/$$/status >> ignored; mkdir', 1))
    assert job.run(*[('converged',)] * 3) == 0
    masks = [int(line.split()[1], 16) for line in (job.folder / 'ignored').read_text().splitlines()]
    assert len(masks) == 3
    assert all(mask >> 9 & 1 for mask in masks)


def test_the_outcome_is_found_in_a_real_run_json(bench: Any, tmp_path: Path) -> None:
    from mlperf_det.rfm import launch
    check = bench.smoke()
    bench.write_run(tmp_path / 'run_0', check.settings, outcome='interrupted')
    assert json.loads((tmp_path / 'run_0' / 'run.json').read_text())['outcome'] == 'interrupted'
    script = ['experiment=0; status=1', *launch.status_of_run(), 'exit "$status"']
    assert subprocess.run(['bash', '-c', '\n'.join(script)], cwd=tmp_path, check=False).returncode == 75
