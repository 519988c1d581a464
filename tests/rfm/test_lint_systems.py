"""The linter of site folders: the shipped ones are clean, and each contradiction is found and named."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm.lint_systems import blanks, problems, run
from mlperf_det.share import share_path

SITE = '''
site_configuration = {'systems': [{'name': 'lab', 'hostnames': ['.*'], 'partitions': [{
    'name': 'gpu', 'scheduler': 'slurm', 'launcher': 'srun', 'environs': ['builtin'], 'features': ['gpu'],
    'sched_options': {'use_nodes_option': True}, 'processor': {'num_cpus': 64},
    'devices': [{'type': 'gpu', 'model': 'NVIDIA A100-SXM4-80GB', 'num_devices': 4}],
    'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
    'extras': {'datasets': '/data', 'container_runtime': 'Pyxis', 'image': '/images/det.sqsh', 'nodes': 2},
}]}]}
'''
RECIPES = '''
ssd:
  one:
    base: dell-1x4x114
    runtime: {precision: fp16}
'''
REFERENCES = '''
ssd:
  A100-SXM4-80GB:
    1:
      fp16:
        time_to_train:
          {value: 900.0, unit: s, direction: lower, n: 5, spread: 3.0, date: 2026-01-01, source: {kind: measured}}
'''


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / 'lab'
    folder.mkdir()
    for name, content in (('site.py', SITE), ('recipes.yaml', RECIPES), ('references.yaml', REFERENCES)):
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize('system', sorted(path.parent.name for path in share_path('systems').glob('*/site.py')))
def test_shipped_systems_are_clean(system: str) -> None:
    assert problems(share_path('systems') / system) == []


def test_the_folder_that_the_contradictions_are_put_into_is_clean(lab: Path) -> None:
    assert problems(lab) == []


@pytest.mark.parametrize(('file', 'old', 'new', 'problem'), [
    ('site.py', "'_rfm_gpu'", "'gpu'", "none named '_rfm_gpu'"),
    ('site.py', '{num_gpus_per_node}', '4', "none named '_rfm_gpu' with {num_gpus_per_node}"),
    ('site.py', "'num_cpus': 64", '', 'processor: num_cpus is missing'),
    ('site.py', "'use_nodes_option': True", '', 'use_nodes_option must be True'),
    ('site.py', "'features': ['gpu'],", '', "GPUs without the feature 'gpu'"),
    ('site.py', "'devices': [{'type': 'gpu', 'model': 'NVIDIA A100-SXM4-80GB', 'num_devices': 4}],", '',
     "the feature without GPUs 'gpu'"),
    ('site.py', "'extras':", "'env_vars': [['A', 'a b']], 'extras':", "env_vars: A: 'a b' is not one word"),
    ('site.py', "'extras':", "'env_vars': [['A', 'a;b']], 'extras':", "env_vars: A: 'a;b' is not one word"),
    ('site.py', "'extras':", "'env_vars': [['A', '$(b)']], 'extras':", "env_vars: A: '$(b)' is not one word"),
    ('site.py', "'datasets'", "'dataset'", "extras: unknown key 'dataset'"),
    ('site.py', "'nodes': 2", "'nodes': 'two'", "extras: nodes: 'two' is no number of nodes"),
    ('site.py', "'nodes': 2", "'nodes': 2, 'cpu_bind': 'nuna'", "extras: cpu_bind: 'nuna' is no way to bind: numa,"),
    ('site.py', "'nodes': 2", "'nodes': 2, 'clear_caches': True", 'extras: clear_caches: True is no text'),
    ('site.py', "'/data'", "'data'", "extras: datasets: 'data' is no absolute path"),
    ('site.py', "'/images/det.sqsh'", '7', 'extras: image: 7 is no text'),
    ('site.py', 'site_configuration', '1 / 0\nsite_configuration', 'ZeroDivisionError: division by zero'),
    ('site.py', "'Pyxis'", "'Pixys'", "container platform 'Pixys': choose from"),
    ('site.py', "'container_runtime': 'Pyxis',", '', 'extras.image without a container platform'),
    ('site.py', "'/images/det.sqsh'", "'det.sqsh'", 'Pyxis needs the absolute path'),
    ('site.py', "'launcher'", "'launchr'", "'launcher' is a required property"),
    ('site.py', "'num_devices': 4", "'num_devices': 2", 'ssd.one: asks for 1 nodes x 4 accelerators'),
    ('recipes.yaml', 'runtime:', 'nodes: 4\n    division: open\n    runtime:', 'asks for 4 nodes x 4 accelerators'),
    ('recipes.yaml', 'runtime:', 'epoch: 4\n    runtime:', "unknown field 'epoch'"),
    ('recipes.yaml', 'dell-1x4x114', 'dell-1x4x999', 'dell-1x4x999'),
    ('references.yaml', 'time_to_train', 'time_to_trian', "did you mean 'time_to_train'"),
    ('references.yaml', 'time_to_train:\n          {value: 900.0, unit: s, direction: lower',
     'bbox_ap:\n          {value: 0.23, unit: fraction, direction: higher', 'against the quality target'),
    ('references.yaml', 'A100-SXM4-80GB', 'H100-SXM5-80GB', 'no partition has H100-SXM5-80GB'),
    ('references.yaml', '    1:', '    2:', 'no recipe of ssd runs on 2 node(s)'),
    ('references.yaml', 'fp16', 'bf16', 'no recipe of ssd on 1 node(s) computes in bf16'),
    ('references.yaml', ' spread: 3.0,', '', 'has no spread, so it judges nothing')])
def test_each_contradiction_is_found(lab: Path, file: str, old: str, new: str, problem: str) -> None:
    content = (lab / file).read_text()
    assert old in content
    (lab / file).write_text(content.replace(old, new))
    found = problems(lab)
    assert any(problem in line for line in found), found
    assert all(str(lab) in line for line in found)


@pytest.mark.parametrize('value', ['=mlx5_0,mlx5_1', '$HOME/x', "'a b; $c'", 'hsn0', '', '"${A:-b c}"', '#1'])
def test_words_of_the_shell_are_no_problem(lab: Path, value: str) -> None:
    (lab / 'site.py').write_text(SITE.replace("'extras':", f"'env_vars': [['A', {value!r}]], 'extras':"))
    assert problems(lab) == []


def test_status_and_blanks(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argparse.Namespace(systems=[f'{lab}/'])) == 0
    assert '1 system(s), 0 problem(s)' in capsys.readouterr().out
    (lab / 'site.py').write_text(SITE.replace("'_rfm_gpu'", "'gpu'").replace('/data', '/FILL_IN'))
    assert run(argparse.Namespace(systems=[f'{lab}/'])) == 1
    assert len(blanks(lab)) == 1
    assert 'to fill in: ' in capsys.readouterr().out


def test_a_system_that_is_not_there_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"has no site\.py; did you mean 'lanta'\?"):
        run(argparse.Namespace(systems=['lanto']))
