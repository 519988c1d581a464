from __future__ import annotations

from datetime import timedelta

import pytest
from conftest import unused_port

from mlperf_det.errors import UserError
from mlperf_det.training.distributed import World, first_host, meet, read_world

TORCHRUN = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'gpu1', 'MASTER_PORT': '29500'}
SLURM = {'SLURM_PROCID': '3', 'SLURM_NTASKS': '8', 'SLURM_LOCALID': '1', 'SLURM_JOB_ID': '4711', 'SLURM_STEP_ID': '0',
         'SLURM_STEP_NODELIST': 'gpu[007-010]', 'SLURM_JOB_NODELIST': 'gpu[001-010]'}


def test_a_bare_process_is_alone() -> None:
    assert read_world({'PATH': '/bin'}) == World()


def test_torchrun() -> None:
    assert read_world(TORCHRUN) == World(rank=5, size=8, local_rank=1, address='gpu1', port=29500, launcher='torchrun')


def test_srun_meets_on_the_first_host_of_the_step() -> None:
    world = read_world(SLURM)
    assert world == World(rank=3, size=8, local_rank=1, address='gpu007', port=world.port, launcher='srun')
    assert 10_000 <= world.port < 30_000
    assert read_world({**SLURM, 'SLURM_PROCID': '0'}).port == world.port, 'all ranks of a step meet at one port'
    assert read_world({**SLURM, 'SLURM_STEP_ID': '1'}).port != world.port
    assert read_world({**SLURM, 'MASTER_ADDR': 'login', 'MASTER_PORT': '1234'}).address == 'login'


def test_one_torchrun_a_node_under_srun() -> None:
    assert read_world({**SLURM, **TORCHRUN, 'TORCHELASTIC_RUN_ID': 'none'}).rank == 5


def test_what_a_batch_script_or_an_interactive_shell_starts_itself_is_alone() -> None:
    batch = {name: value for name, value in SLURM.items() if 'STEP' not in name} | {'SLURM_PROCID': '0'}
    assert read_world(batch) == World(), 'it need not wait for seven others that nobody starts'
    assert read_world({**batch, 'SLURM_STEP_ID': str(0xFFFFFFFA)}) == World()
    assert read_world({**SLURM, 'SLURM_PROCID': '0', 'SLURM_NTASKS': '1'}) == World()


@pytest.mark.parametrize(('environment', 'named'), [
    ({'RANK': '0', 'WORLD_SIZE': '2'}, ('LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')),
    ({**TORCHRUN, 'RANK': 'zero'}, ('RANK=',)),
    ({**TORCHRUN, 'RANK': '8'}, ('rank 8', '8 ranks')),
    ({**SLURM, **TORCHRUN}, ('RANK=5', 'SLURM_PROCID=3')),
    ({name: value for name, value in SLURM.items() if 'NODELIST' not in name}, ('SLURM_STEP_NODELIST',)),
    ({name: value for name, value in SLURM.items() if name != 'SLURM_LOCALID'}, ('SLURM_LOCALID',)),
    ({**SLURM, 'SLURM_STEP_NODELIST': 'gpu[007-'}, ('gpu[007-',)),
    ({**SLURM, 'SLURM_STEP_ID': 'batch'}, ("SLURM_STEP_ID='batch'",)),
])
def test_what_does_not_fit_is_named(environment: dict[str, str], named: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        read_world(environment)
    for text in named:
        assert text in str(error.value)


@pytest.mark.parametrize(('nodelist', 'host'), [
    ('gpu1', 'gpu1'), ('gpu1,gpu2', 'gpu1'), ('gpu[007-010,12],login1', 'gpu007'), ('a[3,5]b[07-09]', 'a3b07'),
    ('rack-2-node[10]', 'rack-2-node10'), ('n[1-2],m[3-4]', 'n1'), ('host.example.org,x', 'host.example.org')])
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_ranks_that_do_not_come_are_an_error_in_bounded_time() -> None:
    with pytest.raises(UserError, match='did not all meet within 1 s'):
        meet(World(rank=0, size=2, address='localhost', port=unused_port()), timedelta(seconds=1))
