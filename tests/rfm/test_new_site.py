"""The folder of a new site, from recorded answers of Slurm and of the drivers' programs."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm import new_site
from mlperf_det.rfm.job_script import render
from mlperf_det.rfm.lint_systems import problems
from mlperf_det.rfm.site_survey import PartitionFacts, Survey, survey

CHECKOUT = Path(__file__).resolve().parents[2]
PARTITIONS = '''\
PartitionName=cpu AllowGroups=ALL Default=YES MaxTime=2-00:00:00 Nodes=c[1-2] State=UP TotalCPUs=256 TotalNodes=2
PartitionName=gpu AllowGroups=ALL Default=NO MaxTime=1-00:00:00 Nodes=g[1-3] State=UP TotalCPUs=768 TotalNodes=3
PartitionName=old AllowGroups=ALL Default=NO MaxTime=UNLIMITED Nodes=o1 State=DOWN TotalCPUs=16 TotalNodes=1
'''
NODE = ('NodeName={name} Arch=x86_64 CoresPerSocket=64 CPUAlloc=0 CPUEfctv=248 CPUTot=256 CPULoad=0.10 '
        'AvailableFeatures=(null) Gres={gres} NodeAddr={name} NodeHostName={name} Sockets=2 Boards=1 State=IDLE '
        'ThreadsPerCore=2 Partitions={partition} OS=Linux 5.15.0 #1 SMP')
NODES = '\n'.join([NODE.format(name='c1', gres='(null)', partition='cpu'),
                   NODE.format(name='c2', gres='(null)', partition='cpu'),
                   NODE.format(name='g1', gres='gpu:a100:8(S:0-1),nvme:1', partition='gpu'),
                   NODE.format(name='g2', gres='gpu:a100:8(S:0-1)', partition='gpu,debug'),
                   NODE.format(name='g3', gres='gpu:a100:4(S:0-1)', partition='gpu')]) + '\n'
SLURM = {'scontrol show partition': PARTITIONS, 'scontrol show node': NODES}
ROCM = json.dumps({'card0': {'Card Series': 'AMD Instinct MI250X', 'Card SKU': 'D65201'},
                   'card1': {'Card Series': 'AMD Instinct MI250X', 'Card SKU': 'D65201'},
                   'system': {'Driver version': '6.3.6'}})


def ask(answers: dict[str, str], programs: Sequence[str] = ()) -> Survey:
    def answer(words: Sequence[str]) -> str | None:
        return next((text for start, text in answers.items() if ' '.join(words).startswith(start)), None)
    return survey(answer, lambda name: f'/usr/bin/{name}' if name in programs else None)


def test_slurm_says_what_its_partitions_are() -> None:
    found = ask({**SLURM, 'srun --help': '      --container-image=[USER@][REGISTRY#]IMAGE'}, ['docker'])
    assert found == Survey(slurm=True, container_runtime='Pyxis', partitions=(
        PartitionFacts(name='cpu', nodes=2, cpus=248, sockets=2, threads_per_core=2),
        # The node with four GPUs is none of those that the partition is described by.
        PartitionFacts(name='gpu', nodes=2, cpus=248, sockets=2, threads_per_core=2, gpus=8, gpu_model='A100',
                       gres='gpu:a100')))


@pytest.mark.parametrize(('gres', 'name', 'count'), [
    ('gpu:a100:8(S:0,1),nvme:1', 'gpu:a100', 8), ('gpu:3090:4(S:0)', 'gpu:3090', 4), ('gpu:2080ti:4', 'gpu:2080ti', 4),
    ('gpu:4', 'gpu', 4), ('gpu', 'gpu', 1), ('gpu:h100', 'gpu:h100', 1), ('gpu:4g.20gb:2', 'gpu:4g.20gb', 2),
    ('shard:32,gpu:v100:2,gpu:a100:4', 'gpu:a100', 4)])
def test_slurms_names_of_gpus_are_read_whatever_they_begin_with(gres: str, name: str, count: int) -> None:
    node = NODE.format(name='g1', gres=gres, partition='gpu')
    found = ask({'scontrol show partition': PARTITIONS, 'scontrol show node': node})
    assert [(partition.gres, partition.gpus) for partition in found.partitions] == [('', 0), (name, count)]


def test_the_driver_names_gpus_better_than_slurm() -> None:
    found = ask({**SLURM, 'nvidia-smi': 'NVIDIA A100-SXM4-80GB\n' * 8})
    assert found.partitions[1].gpu_model == 'NVIDIA A100-SXM4-80GB'


@pytest.mark.parametrize(('answers', 'programs', 'partition', 'runtime'), [
    ({}, [], PartitionFacts(name='default'), ''),
    ({'nvidia-smi': 'NVIDIA H100 80GB HBM3\nNVIDIA H100 80GB HBM3\n'}, ['singularity', 'docker'],
     PartitionFacts(name='default', gpus=2, gpu_model='NVIDIA H100 80GB HBM3'), 'Singularity'),
    ({'rocm-smi': ROCM}, ['enroot', 'docker'],
     PartitionFacts(name='default', gpus=2, gpu_model='AMD Instinct MI250X'), 'Enroot')])
def test_a_machine_without_slurm_is_one_partition(answers: dict[str, str], programs: list[str],
                                                  partition: PartitionFacts, runtime: str) -> None:
    assert ask(answers, programs) == Survey(slurm=False, partitions=(partition,), container_runtime=runtime)


def test_slurm_without_a_usable_partition_is_an_error() -> None:
    with pytest.raises(UserError, match='no partition is up'):
        ask({'scontrol show partition': 'PartitionName=old State=DOWN Nodes=o1 TotalNodes=1\n'})


@pytest.mark.parametrize(('answers', 'programs'), [
    ({**SLURM, 'srun --help': '--container-image'}, []), (SLURM, ['apptainer']), ({'rocm-smi': ROCM}, ['docker']),
    ({}, [])])
def test_the_folder_is_clean_and_reframe_takes_it(answers: dict[str, str], programs: list[str],
                                                  tmp_path: Path) -> None:
    folder = tmp_path / 'our-box'
    new_site.write_folder(folder, ask(answers, programs))
    assert {path.name for path in folder.iterdir()} == {'site.py', 'recipes.yaml', 'references.yaml', 'README.md'}
    assert problems(folder) == []
    readme = (folder / 'README.md').read_text()
    assert all(f'`{key}`' in readme for key in ('hostnames', 'resourcesdir', 'access', 'devices', 'env_vars', 'extras'))
    assert not re.search(r'\{\w+\}', readme)
    assert [path.name for path in tmp_path.iterdir()] == ['our-box']
    scripts = render(folder / 'site.py', checks=[CHECKOUT / 'checks' / 'ssd.py'], stage=tmp_path / 'stage',
                     arguments=['--system=our-box', '-t', 'smoke'])
    assert len(scripts) == (2 if 'scontrol show partition' in answers else 1)


def test_an_existing_folder_and_a_bad_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'there').mkdir()
    for name, cause in (('there', 'exists already'), ('../up', 'small letters, digits and hyphens')):
        with pytest.raises(UserError, match=cause):
            new_site.run(argparse.Namespace(name=name, directory=tmp_path))


def test_it_ends_with_the_commands_that_prove_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_site.run(argparse.Namespace(name='our-box', directory=tmp_path)) == 0
    out = capsys.readouterr().out
    order = [out.index(word) for word in ('mlperf-det lint', '--dry-run', 'preflight', '-t smoke')]
    assert order == sorted(order)
