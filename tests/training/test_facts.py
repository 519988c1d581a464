from __future__ import annotations

import re
import subprocess
from pathlib import Path

import torch

from mlperf_det import __version__
from mlperf_det.training import facts


def test_hosts_hold_their_ranks() -> None:
    ranks = [{**facts.describe_rank(rank, torch.device('cpu')), 'host': f'n{rank // 2}'} for rank in range(4)]
    hosts = facts.merge_hosts(ranks)
    assert [(host['name'], host['ranks']) for host in hosts] == [('n0', [0, 1]), ('n1', [2, 3])]
    assert hosts[0]['memory'] > 2**28
    assert hosts[0]['cpus'] >= 1
    assert hosts[0]['cpu']


def test_ranks_on_one_gpu_are_found() -> None:
    ranks = [{'rank': 0, 'device_id': 'a'}, {'rank': 1, 'device_id': 'b'}, {'rank': 2, 'device_id': 'a'},
             {'rank': 3, 'device_id': None}, {'rank': 4, 'device_id': None}]
    assert facts.duplicate_devices(ranks) == [(0, 2)]


def test_software() -> None:
    found = facts.software_versions(torch.device('cpu'))
    assert found['mlperf-det'] == __version__
    assert found['torch'] == str(torch.__version__)
    assert {'numpy', 'torchvision', 'hotcoco', 'python', 'kernel'} <= found.keys()
    assert all(type(value) is str for value in found.values())


def test_the_commit_of_a_checkout_says_when_files_differ(tmp_path: Path) -> None:
    assert facts.git_commit(tmp_path) is None
    git = ['git', '-C', str(tmp_path), '-c', 'user.name=n', '-c', 'user.email=e@x']
    subprocess.run([*git, 'init', '-q'], check=True)
    (tmp_path / 'file').write_text('1')
    subprocess.run([*git, 'add', 'file'], check=True)
    subprocess.run([*git, 'commit', '-qm', 'one'], check=True)
    clean = facts.git_commit(tmp_path)
    assert clean
    assert re.fullmatch('[0-9a-f]{40}', clean)
    (tmp_path / 'file').write_text('2')
    assert facts.git_commit(tmp_path) == f'{clean}-dirty'


def test_the_image_is_known_by_the_variables_of_its_runtime() -> None:
    assert facts.container_image({}) is None
    assert facts.container_image({'APPTAINER_CONTAINER': '/i.sif', 'MLPERF_DET_IMAGE_DIGEST': 'sha256:1'}) == {
        'path': '/i.sif', 'digest': 'sha256:1'}
    assert facts.container_image({'SINGULARITY_CONTAINER': '/s.sif'}) == {'path': '/s.sif', 'digest': None}


def test_the_environment_is_recorded_without_secrets() -> None:
    assert facts.relevant_environment({
        'SLURM_JOB_ID': '1', 'NCCL_DEBUG': 'INFO', 'RANK': '0', 'HOME': '/root', 'RANKING': 'no',
        'SLURM_JWT': 'secret', 'TORCH_API_KEY': 'secret'}) == {'SLURM_JOB_ID': '1', 'NCCL_DEBUG': 'INFO', 'RANK': '0'}
