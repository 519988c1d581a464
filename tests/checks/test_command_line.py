"""The reframe command on our checks: what users type works, without data, GPU or site configuration."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


#: a check that does nothing: what ReFrame needs by itself
EMPTY_CHECK = """
import reframe as rfm

@rfm.simple_test
class empty(rfm.RunOnlyRegressionTest):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'true'
"""


def reframe(tmp_path: Path, *arguments: str | Path, checks: Path = CHECKOUT / 'checks',
            **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / 'reframe', '-c', checks, '--nocolor', f'--prefix={tmp_path}',
         *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **environment})


def test_listing_needs_no_configuration_and_shows_the_smoke_tier_only(tmp_path: Path) -> None:
    done = reframe(tmp_path, '-l')
    assert done.returncode == 0
    assert '- preflight_cpu' in done.stdout
    assert '- ssd %tier=smoke %recipe=smoke' in done.stdout
    assert 'throughput' not in done.stdout
    assert 'WARNING' not in done.stdout


def test_listing_takes_at_most_a_second_over_reframes_own_start(tmp_path: Path) -> None:
    (tmp_path / 'empty.py').write_text(EMPTY_CHECK)

    def seconds(checks: Path) -> float:
        """CPU seconds, which other work on the machine changes least."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert reframe(tmp_path, '-l', checks=checks).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ours, alone = (min(seconds(checks) for _ in range(2)) for checks in (CHECKOUT / 'checks', tmp_path / 'empty.py'))
    assert ours - alone < 1.0


def test_a_detailed_listing_needs_neither_data_nor_gpu(tmp_path: Path, site: Path) -> None:
    done = reframe(tmp_path, '-C', site / 'site.py', '-L', HOME=str(tmp_path))
    assert done.returncode == 0
    for case, file in (('ssd %tier=convergence %recipe=one-node', 'ssd'), ('preflight_gpu', 'preflight')):
        assert re.search(rf"- {case} .*\n *variant: \d+\n *file: '.*/checks/{file}\.py'\n *description: ", done.stdout)


#: ReFrame where every way to a network or to a program is an error.
OFFLINE = '''
import socket, subprocess, sys
def refuse(*arguments, **options):
    raise SystemExit(f'{arguments} while checks are loaded')
socket.socket.connect = socket.getaddrinfo = subprocess.run = refuse
from reframe.frontend.cli import main
main()
'''


def test_loading_the_checks_needs_neither_network_nor_home(tmp_path: Path, site: Path) -> None:
    done = subprocess.run([sys.executable, '-c', OFFLINE, '-C', site / 'site.py', '-c', CHECKOUT / 'checks', '-l',
                           '--nocolor', '--warn-as-error'], cwd=tmp_path, capture_output=True, text=True, check=False,
                          timeout=60, env={'HOME': str(tmp_path / 'absent'), 'PATH': ''})
    assert done.returncode == 0, done.stderr
    assert 'tier=convergence %recipe=one-node' in done.stdout


def test_a_gpu_site_has_the_other_tiers(tmp_path: Path, site: Path) -> None:
    done = reframe(tmp_path, '-C', site / 'site.py', '-l', '--warn-as-error')
    assert done.returncode == 0
    for case in ('tier=throughput %recipe=speed', 'tier=convergence %recipe=one-node', 'tier=smoke', 'preflight_gpu'):
        assert case in done.stdout


@pytest.mark.parametrize(('arguments', 'there', 'absent'), [
    (['-t', '^throughput$'], 'tier=throughput', 'tier=smoke'), (['-t', 'preflight'], 'preflight_gpu', 'ssd %'),
    (['-E', 'num_nodes == 1 and tier == "convergence"'], 'tier=convergence', 'tier=smoke'),
    (['-n', 'ssd%recipe=speed'], 'recipe=speed', 'recipe=one-node')])
def test_selection_works_as_users_expect(tmp_path: Path, site: Path, arguments: list[str], there: str,
                                         absent: str) -> None:
    done = reframe(tmp_path, '-C', site / 'site.py', '-l', *arguments)
    assert there in done.stdout
    assert absent not in done.stdout


def unwrapped(script: Path) -> str:
    """The script with every command on one line."""
    return re.sub(r'\s*\\\n\s*', ' ', script.read_text())


def test_dry_run_renders_all_scripts_without_data_or_gpu(tmp_path: Path, site: Path) -> None:
    done = reframe(tmp_path, '-C', site / 'site.py', '--dry-run', '--keep-stage-files', '-S', 'ssd.seed=40',
                   '-S', 'ssd.recipe_overrides=epochs=50 decay_epochs=[40,50]', HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:]
    scripts = {path.parent.parent.parent.name: unwrapped(path)
               for path in tmp_path.glob('stage/lab/*/builtin/ssd_*/rfm_job.sh')}
    gpu = scripts['gpu']
    assert ('-m torch.distributed.run --nproc-per-node=4 --standalone -m mlperf_det.rfm.start_rank --nodes=1 '
            '--ranks-per-node=4 --bind=numa -- train ssd') in gpu
    assert '--data /data/coco2017 --backbone /data/backbones/resnet34-333f7ec4.pth' in gpu
    assert "--set epochs=50 --set 'decay_epochs=[40,50]'" in gpu
    assert '--seed=$((40 + experiment))' in gpu
    assert 'torch.distributed' not in scripts['cpu']
    for script in tmp_path.glob('stage/lab/*/builtin/*/rfm_job.sh'):
        subprocess.run(['bash', '-n', script], check=True)


@pytest.mark.parametrize(('name', 'counts'), [('training_dataset', True), ('ssd.dataset', False)])
def test_a_setting_of_the_shared_dataset_counts_or_is_refused(tmp_path: Path, name: str, counts: bool) -> None:
    files = [word for file in ('maskrcnn.py', 'ssd.py') for word in ('-c', CHECKOUT / 'checks' / file)]
    done = subprocess.run(
        [Path(sys.executable).parent / 'reframe', *files, '--nocolor', f'--prefix={tmp_path}', '--dry-run',
         '--keep-stage-files', '-n', 'ssd', '-S', f'{name}.generator_arguments=--train 9'], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=60)
    script, = (path.read_text() for path in tmp_path.glob('stage/*/*/*/training_dataset_*/rfm_job.sh'))
    refused = 'generator_arguments was set for one check, but checks share this fixture' in done.stdout
    assert ('--train 9' in script, done.returncode, refused) == (counts, 0 if counts else 1, not counts)


def test_unreadable_recipes_turn_a_case_of_every_selection_red(tmp_path: Path, site: Path) -> None:
    (site / 'recipes.yaml').write_text('ssd: [oops\n')
    done = reframe(tmp_path, '-C', site / 'site.py', '-r', '-t', '^convergence$',
                   '-S', 'training_dataset.generator_arguments=--train 8 --val 4')
    assert done.returncode == 1
    assert 'recipes.yaml: not YAML' in done.stdout


def test_a_container_changes_the_command_alone(tmp_path: Path) -> None:
    done = reframe(tmp_path, '--dry-run', '--keep-stage-files', '-n', 'ssd',
                   '-S', 'ssd.container_image=/images/det.sif', '-S', 'ssd.container_platform=Apptainer')
    assert done.returncode == 0, done.stdout[-3000:]
    script, = (unwrapped(path) for path in tmp_path.glob('stage/*/*/builtin/ssd_*/rfm_job.sh'))
    assert '/images/det.sif python3 -m mlperf_det train ssd --recipe smoke' in script
    assert ':ro"' in script


@pytest.mark.parametrize('file', ['ssd.py', 'preflight.py'])
def test_a_check_reads_as_data(file: str) -> None:
    assert len((CHECKOUT / 'checks' / file).read_text().splitlines()) <= 120


def test_an_image_of_the_site_that_is_missing_is_red_and_named(tmp_path: Path, site: Path) -> None:
    text = (site / 'site.py').read_text().replace("{'name': 'cpu',", "{'name': 'cpu', 'extras': {'image': "
                                                  "'/images/missing.sif', 'container_runtime': 'Apptainer'},")
    (site / 'site.py').write_text(text)
    done = reframe(tmp_path, '-C', site / 'site.py', '--system=lab:cpu', '-r', '-n', 'ssd', '-t', 'smoke',
                   '-S', 'training_dataset.generator_arguments=--train 8 --val 4')
    assert done.returncode == 1
    assert "/images/missing.sif: cannot be read; correct extras['image'] of the partition" in done.stdout
