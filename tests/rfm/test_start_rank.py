"""A rank compares its place with the job, says it, binds itself, and becomes the training program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm.start_rank import Place, choose_binding, parse, read_place

SLURM = {'SLURM_PROCID': '5', 'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1', 'MASTER_ADDR': 'n1', 'MASTER_PORT': '12345'}
TORCHRUN = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'n1', 'MASTER_PORT': '12345'}
PLACE = Place(rank=5, size=8, local_rank=1, address='n1', port='12345')


@pytest.mark.parametrize('environ', [
    SLURM, TORCHRUN, {**SLURM, **TORCHRUN},
    # One torchrun a node under srun: Slurm's numbers are those of the agents.
    {**SLURM, 'SLURM_PROCID': '1', 'SLURM_NTASKS': '2', 'SLURM_LOCALID': '0', **TORCHRUN, 'TORCHELASTIC_RUN_ID': '7'}])
def test_every_launcher_tells_the_same_place(environ: dict[str, str]) -> None:
    assert read_place(environ, nodes=2, ranks_per_node=4) == PLACE


@pytest.mark.parametrize(('changes', 'cause'), [
    ({'SLURM_PROCID': None}, 'does the container platform pass them on'),
    ({'RANK': '4', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1'}, 'RANK=4 contradicts SLURM_PROCID=5'),
    ({'SLURM_NTASKS': '16'}, r'SLURM_NTASKS=16, but the job was written for 2 node\(s\) with 4 ranks each'),
    ({'SLURM_LOCALID': '4'}, 'SLURM_LOCALID=4 do not fit'), ({'MASTER_ADDR': ''}, 'MASTER_ADDR or MASTER_PORT')])
def test_a_place_that_is_not_the_jobs_is_refused(changes: dict[str, str | None], cause: str) -> None:
    environ = {name: value for name, value in {**SLURM, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=cause):
        read_place(environ, nodes=2, ranks_per_node=4)


def test_a_meeting_place_that_something_changed_is_refused() -> None:
    assert read_place(SLURM, nodes=2, ranks_per_node=4, meeting='n1:12345') == PLACE
    with pytest.raises(UserError, match='MASTER_PORT are n1:29500, the job script set n1:12345; a hook'):
        read_place({**SLURM, 'MASTER_PORT': '29500'}, nodes=2, ranks_per_node=4, meeting='n1:12345')


def test_older_arguments_replace_the_policy() -> None:
    arguments = parse(['--nodes=1', '--ranks-per-node=8', '--bind=off', '--nsockets_per_node', '2',
                       '--ncores_per_socket=20', '--no_membind', '--', 'train', 'ssd'])
    assert arguments.command == ['train', 'ssd']
    assert str(choose_binding(arguments, 7, {})) == 'CPUs 35-39,75-79'
    assert choose_binding(parse(['--nodes=1', '--ranks-per-node=1', '--bind=scheduler', '--', 'x']), 0, {}) is None


def start(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith('SLURM_')}
    return subprocess.run([sys.executable, '-m', 'mlperf_det.rfm.start_rank', *words], capture_output=True, text=True,
                          check=False, timeout=60, env={**clean, **environ})


def test_it_prints_its_place_and_becomes_the_program() -> None:
    one = {**TORCHRUN, 'RANK': '0', 'WORLD_SIZE': '1', 'LOCAL_RANK': '0'}
    done = start('--nodes=1', '--ranks-per-node=1', '--', '--version', **one)
    place, program = done.stdout.splitlines()
    assert place.startswith('mlperf-det: rank 0 of 1 (local rank 0), meeting at n1:12345, on ')
    assert 'CPUs 0' in place
    assert program.startswith('mlperf-det ')
    assert done.returncode == 0


def test_it_ends_before_training_where_something_is_wrong() -> None:
    done = start('--nodes=1', '--ranks-per-node=4', '--', '--version', **TORCHRUN)
    assert done.returncode == 2
    assert done.stderr.startswith('mlperf-det: error: environment: WORLD_SIZE=8')
    assert done.stdout == ''


@pytest.mark.parametrize(('allowed', 'status', 'said'), [
    (True, 0, 'bound --membind=0 --'),
    # As in a container platform whose filter of system calls knows no NUMA policies.
    (False, 2, 'mlperf-det: error: memory binding: {numactl} --membind=0 fails (set_mempolicy: Operation not permitted)'
               '; does the container platform forbid it? Use cpu_bind=scheduler or cpu_bind=off')])
def test_memory_is_bound_by_numactl_or_the_rank_says_why_not(tmp_path: Path, allowed: bool, status: int,
                                                            said: str) -> None:
    numactl = tmp_path / 'numactl'
    numactl.write_text('#!/bin/sh\n' + ('[ "$3" = true ] || echo "bound $1 $2"; shift 2; exec "$@"\n' if allowed else
                                        'echo "set_mempolicy: Operation not permitted" >&2; exit 1\n'))
    numactl.chmod(0o755)
    one = {**TORCHRUN, 'RANK': '0', 'WORLD_SIZE': '1', 'LOCAL_RANK': '0'}
    done = start('--nodes=1', '--ranks-per-node=1', '--', '--version', PATH=f'{tmp_path}:{os.environ["PATH"]}', **one)
    assert done.returncode == status, done.stderr
    assert said.format(numactl=numactl) in done.stdout + done.stderr
    assert ('mlperf-det 0.' in done.stdout) is allowed
