"""No value of a configuration or of the command line is read by a shell: job scripts are run with hostile ones."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm.job_script import render

CHECKOUT = Path(__file__).resolve().parents[2]
HOSTILE = '''a b$(touch hacked)`touch hacked`"; touch hacked; '$HOME\\ #'''
#: Programs that job scripts start; here they say what they were given.
PROGRAMS = ('srun', 'scontrol', 'docker', 'enroot', 'apptainer', 'singularity')
RECIPES = '''
ssd:
  speed: {base: dell-1x4x114, tier: throughput, division: open, max_steps: 100, experiments: 1}
'''


def write_site(folder: Path, runtime: str) -> Path:
    """Write a site whose every free text is hostile."""
    folder.mkdir()
    image = f'det{HOSTILE}' if runtime == 'Docker' else f'/images/{HOSTILE}'
    site = {'systems': [{'name': 'lab', 'hostnames': ['.*'], 'resourcesdir': str(folder / 'resources'), 'partitions': [{
        'name': 'gpu', 'scheduler': 'slurm', 'launcher': 'srun', 'environs': ['builtin'], 'features': ['gpu'],
        'sched_options': {'use_nodes_option': True},
        'devices': [{'type': 'gpu', 'model': 'NVIDIA A100-SXM4-80GB', 'num_devices': 4}],
        'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
        'extras': {'datasets': f'/data {HOSTILE}', 'backbones': f'/backbones {HOSTILE}', 'container_runtime': runtime,
                   **({'image': image} if runtime != 'none' else {})}}]}]}
    (folder / 'site.py').write_text(f'site_configuration = {site!r}\n')
    (folder / 'recipes.yaml').write_text(RECIPES)
    return folder / 'site.py'


def run(script: Path, programs: Path) -> str:
    """Run a job script where nothing but the shell is real; return what its programs were given."""
    done = subprocess.run(['bash', script.name], cwd=script.parent, capture_output=True, text=True, check=False,
                          timeout=60, env={**os.environ, 'PATH': f'{programs}:{os.environ["PATH"]}',
                                           'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': 'n1', 'SLURM_NNODES': '1'})
    return done.stdout


@pytest.mark.parametrize('runtime', ['none', 'Pyxis', 'Enroot', 'Apptainer', 'Singularity', 'Docker'])
def test_hostile_values_stay_words(tmp_path: Path, runtime: str) -> None:
    programs = tmp_path / 'programs'
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text('#!/bin/sh\nprintf "<%s>\\n" "$@"\n')
        (programs / name).chmod(0o755)
    variables = {'extra_arguments': f'--label={HOSTILE}', 'backbone': f'weights {HOSTILE}', 'python': f'py {HOSTILE}',
                 'dataset.generator_arguments': "--train 'x;touch hacked' '$(touch hacked)'",
                 'cpu_bind': "--nsockets_per_node=2 --ncores_per_socket='$(touch hacked)'"}
    settings = [word for name, value in variables.items() for word in ('-S', f'ssd.{name}={value}')]
    scripts = render(write_site(tmp_path / 'lab', runtime), checks=[CHECKOUT / 'checks' / 'ssd.py'],
                     stage=tmp_path / 'stage', arguments=['--system=lab', *settings])
    trained = next(run(script.path, programs) for script in scripts if '%recipe=speed' in script.check)
    fixtures = [path for path in (tmp_path / 'stage').rglob('rfm_job.sh') if path.parent.name.startswith('training_')]
    assert len(fixtures) >= 2
    for script in fixtures:
        run(script, programs)
    assert not list(tmp_path.rglob('hacked*')), list(tmp_path.rglob('hacked*'))
    for value in (f'<--label={HOSTILE}>', f'py {HOSTILE}>', f'</data {HOSTILE}/coco2017>',
                  f'</backbones {HOSTILE}/weights {HOSTILE}>', '<--ncores_per_socket=$(touch hacked)>',
                  *([HOSTILE + '>'] if runtime != 'none' else [])):
        assert value in trained, value


@pytest.mark.parametrize('nodes', ['gpu1 --wrap=x', 'gpu1\ntouch hacked', '$(touch hacked)'])
def test_nodes_that_are_no_names_are_refused(tmp_path: Path, nodes: str) -> None:
    with pytest.raises(UserError, match=r"write it in Slurm's form"):
        render(write_site(tmp_path / 'lab', 'none'), checks=[CHECKOUT / 'checks' / 'ssd.py'], stage=tmp_path / 'stage',
               arguments=['--system=lab', '-n', 'ssd.*speed', '-S', f'ssd.exclude_nodes={nodes}'])
