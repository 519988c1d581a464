"""The lines that start ranks, and that the shell reads them as meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm import launch


@pytest.mark.parametrize(('wanted', 'nodes', 'ranks', 'local', 'starter'), [
    ('auto', 1, 1, True, 'bare'), ('auto', 1, 4, True, 'torchrun'), ('auto', 4, 4, False, 'tasks'),
    ('auto', 1, 1, False, 'bare'), ('torchrun', 4, 4, False, 'torchrun'), ('tasks', 1, 1, True, 'tasks')])
def test_the_starter_follows_from_geometry_and_launcher(
        wanted: str, nodes: int, ranks: int, local: bool, starter: str) -> None:
    assert launch.choose_starter(wanted, nodes=nodes, ranks_per_node=ranks, local_launcher=local) == starter


@pytest.mark.parametrize(('wanted', 'nodes', 'ranks', 'local', 'cause'), [
    ('mpirun', 1, 1, True, 'launch=mpirun: choose auto'), ('bare', 1, 4, False, 'starts one process'),
    ('tasks', 1, 4, True, 'use launch=torchrun'), ('auto', 2, 1, True, 'one node')])
def test_what_cannot_start_the_ranks_is_refused(wanted: str, nodes: int, ranks: int, local: bool, cause: str) -> None:
    with pytest.raises(UserError, match=cause):
        launch.choose_starter(wanted, nodes=nodes, ranks_per_node=ranks, local_launcher=local)


def test_torchrun_on_one_node_needs_no_rendezvous() -> None:
    geometry = launch.Geometry(nodes=1, ranks_per_node=4, starter='torchrun')
    assert geometry.tasks_per_node == 1
    assert launch.python_command(geometry, 'python3')[-5:] == [
        'python3', '-m', 'torch.distributed.run', '--nproc-per-node=4', '--standalone']
    assert launch.rendezvous(geometry) == []


def test_torchrun_on_several_nodes_meets_on_the_first() -> None:
    geometry = launch.Geometry(nodes=2, ranks_per_node=4, starter='torchrun')
    assert '--rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT"' in launch.python_command(geometry, 'python3')
    assert any('export MASTER_ADDR=' in line for line in launch.rendezvous(geometry))


def test_the_script_runs_each_experiment_with_its_own_words_and_records_its_end(tmp_path: Path) -> None:
    words = launch.train_words('ssd', recipe='smoke', recipes_file=None, overrides=['a=$(touch hacked)'],
                               data='/da ta', backbone=None, seed=5, extra=['--x', "o'x"], caches=True)
    script = [*launch.open_experiments(2, 'true'), ' '.join(['printf "%s|"', *words]), 'status=$?',
              *launch.close_experiments()]
    done = subprocess.run(['bash', '-c', '\n'.join(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    common = "train|ssd|--recipe|smoke|--set|a=$(touch hacked)|--data|/da ta|--x|o'x|--cache-cleared|"
    assert done.stdout == (f'{common}--experiment=0|--seed=5|--output=run_0|'
                           f'{common}--experiment=1|--seed=6|--output=run_1|')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'run_0.exit': '0\n', 'run_1.exit': '0\n'}


def test_the_log_claims_cleared_caches_only_where_clearing_succeeded() -> None:
    script = [*launch.open_experiments(1, 'false'), 'printf "<%s>" "$caches"', 'done']
    assert subprocess.run(['bash', '-c', '\n'.join(script)], capture_output=True, text=True, check=True).stdout == '<>'


def test_a_wrapped_command_is_the_same_command() -> None:
    words = ['python3', '-m', 'module', '--flag', '--data', "'/da ta'", '--x=1', '--', '-q', 'last', '--end']
    text = launch.wrap(words, width=12)
    assert text.replace(' \\\n    ', ' ') == ' '.join(words)
    assert "--data '/da ta' \\\n" in text
    assert max(map(len, text.splitlines())) < 30


@pytest.mark.parametrize(('earlier', 'written', 'status'), [
    (None, 'aborted', '3'), (None, 'interrupted', '75'), ('interrupted', 'diverged', '4'), (None, 'failed', '1'),
    (None, None, '1'),
    # It broke before it wrote anything: to start it again would break it again, without end.
    ('interrupted', None, '1')])
def test_torchruns_status_is_told_apart_by_what_this_try_wrote(
        tmp_path: Path, earlier: str | None, written: str | None, status: str) -> None:
    record = tmp_path / 'run_0' / 'run.json'
    record.parent.mkdir()

    def text(outcome: str) -> str:
        return f'{{\n  "outcome": "{outcome}"\n}}\n'
    if earlier:
        record.write_text(text(earlier))
    train = f"printf '%s' '{text(written)}' > run_0/run.json; false" if written else 'false'
    script = [*launch.open_experiments(1, ''), train, 'status=$?', *launch.status_of_run(), *launch.close_experiments()]
    subprocess.run(['bash', '-c', '\n'.join(script)], cwd=tmp_path, check=True)
    assert (tmp_path / 'run_0.exit').read_text().strip() == status
