"""Images: what their names depend on, that a build is seen whole or not at all, and one list behind both recipes."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

import pytest

import mlperf_det
from mlperf_det.rfm import image

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def builder(tmp_path: Path) -> Path:
    """A stand-in for Apptainer that takes its time, and counts its runs."""
    program = tmp_path / 'bin' / 'apptainer'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n# apptainer build [options] FILE Singularity.def\n'
                       f'echo "$PWD $*" >> {tmp_path}/calls\n'
                       'while [ $# -gt 2 ]; do shift; done\n'
                       'printf half > "$1"; sleep 0.3; printf " done" >> "$1"\n'
                       f'[ ! -e {tmp_path}/broken ]\n')
    program.chmod(0o755)
    return program


def build(builder: Path, target: Path, **arguments: object) -> subprocess.CompletedProcess[str]:
    lines = image.build_commands('Apptainer', str(target), **{'base': '', 'options': [], **arguments})  # type: ignore[arg-type]
    return subprocess.run(['bash', '-c', '\n'.join(lines)], capture_output=True, text=True, check=False, timeout=60,
                          env={'PATH': f'{builder.parent}:/usr/bin:/bin'})


def calls(builder: Path) -> list[str]:
    path = builder.parents[1] / 'calls'
    return path.read_text().splitlines() if path.exists() else []


def test_sessions_that_start_together_build_once(builder: Path, tmp_path: Path) -> None:
    target = tmp_path / 'images of all' / 'det.sif'
    threads = [threading.Thread(target=build, args=(builder, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls(builder)) == 1
    assert target.read_text() == 'half done'
    assert {path.name for path in target.parent.iterdir()} == {'det.sif', 'det.sif.lock'}


def test_a_build_that_fails_leaves_nothing(builder: Path, tmp_path: Path) -> None:
    (tmp_path / 'broken').touch()
    target = tmp_path / 'images' / 'det.sif'
    assert build(builder, target).returncode != 0
    assert {path.name for path in target.parent.iterdir()} == {'det.sif.lock'}


def test_the_recipe_is_built_in_the_checkout_from_the_base_that_was_asked_for(builder: Path, tmp_path: Path) -> None:
    assert build(builder, tmp_path / 'det.sif', base='/root s/base.sif', options=['--fakeroot']).returncode == 0
    call, = calls(builder)
    assert call.startswith(f'{CHECKOUT} build --build-arg BASE=/root s/base.sif --fakeroot {tmp_path}/det.sif.')
    assert call.endswith(' Singularity.def')


@pytest.mark.parametrize(('runtime', 'told'), [('Docker', True), ('Pyxis', True), ('Apptainer', False)])
def test_a_dockerfile_is_told_the_version_that_it_is_labelled_with(runtime: str, told: bool) -> None:
    lines = '\n'.join(image.build_commands(runtime, '/det', base='', options=[]))
    assert (f'--build-arg VERSION={mlperf_det.__version__} ' in lines) is told


def test_the_name_changes_with_everything_that_the_image_is_made_of(tmp_path: Path) -> None:
    for name in ('Singularity.def', 'Dockerfile'):
        (tmp_path / name).write_text('recipe')
    (tmp_path / 'src' / '__pycache__').mkdir(parents=True)
    (tmp_path / 'src' / 'module.py').write_text('a = 1')
    key = image.content_key(tmp_path, '')
    (tmp_path / 'src' / '__pycache__' / 'module.pyc').write_text('cache')
    (tmp_path / 'notes.txt').write_text('notes')
    # A new reference must not make another image of the one that it was measured in.
    (tmp_path / 'systems' / 'site').mkdir(parents=True)
    (tmp_path / 'systems' / 'site' / 'references.yaml').write_text('ssd: {}')
    assert image.content_key(tmp_path, '') == key
    keys = {key, image.content_key(tmp_path, 'other-base')}
    (tmp_path / 'src' / 'module.py').write_text('a = 2')
    keys.add(image.content_key(tmp_path, ''))
    (tmp_path / 'src' / 'module.py').rename(tmp_path / 'src' / 'renamed.py')
    keys.add(image.content_key(tmp_path, ''))
    assert len(keys) == 4


def test_a_ready_image_that_is_missing_is_red(tmp_path: Path) -> None:
    there, missing = tmp_path / 'a b.sif', tmp_path / 'missing.sif'
    there.touch()
    for path, status in ((there, 0), (missing, 1)):
        words = image.presence_command('Apptainer', str(path))
        command = ' '.join([words[0], *words[1]])
        assert subprocess.run(['bash', '-c', command], check=False).returncode == status


# One list of facts.

def facts() -> dict[str, str]:
    lines = (CHECKOUT / 'images' / 'image.env').read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition('=') for line in lines
                                                           if line and not line.startswith('#'))}


def test_both_recipes_take_their_defaults_from_the_list() -> None:
    definition, docker = ((CHECKOUT / name).read_text() for name in ('Singularity.def', 'Dockerfile'))
    for name in ('BASE', 'TORCH', 'TOOLS'):
        assert f'\n    {name}={facts()[name]}\n' in definition
        assert re.search(rf'^ARG {name}="?{re.escape(facts()[name])}"?$', docker, re.MULTILINE)


def test_both_recipes_copy_the_same_and_all_that_the_name_depends_on() -> None:
    definition = re.search(r'%files\n(.*?)\n\n', (CHECKOUT / 'Singularity.def').read_text(), re.DOTALL)
    assert definition
    singularity = {line.split()[0] for line in definition[1].splitlines()}
    docker = {name for line in (CHECKOUT / 'Dockerfile').read_text().splitlines() if line.startswith('COPY ')
              for name in line.split()[1:-1]}
    assert singularity == docker == set(image.BUILD_INPUTS) - {'Singularity.def', 'Dockerfile'}
    kept = {line[1:] for line in (CHECKOUT / '.dockerignore').read_text().splitlines() if line.startswith('!')}
    assert kept == docker


def install(tmp_path: Path, *arguments: str, torch: str = '') -> subprocess.CompletedProcess[str]:
    """Run images/install with a Python that has a torch of that version, or none."""
    python = tmp_path / 'python3'
    python.write_text('#!/bin/sh\ncase "$*" in *"import torch"*) '
                      + (f'echo {torch}' if torch else 'exit 1') + ';; *) exit 3;; esac\n')
    python.chmod(0o755)
    return subprocess.run([CHECKOUT / 'images' / 'install', *arguments], capture_output=True, text=True, check=False,
                          env={'PATH': f'{tmp_path}:/usr/bin:/bin'}, timeout=60)


def test_a_base_without_torch_is_refused_unless_torch_is_to_be_installed(tmp_path: Path) -> None:
    done = install(tmp_path)
    assert done.returncode == 1
    assert 'the base image has no torch' in done.stderr
    assert 'the base image has no torch' not in install(tmp_path, 'TORCH=install', 'TOOLS=').stderr


def test_an_unknown_argument_of_the_installation_is_refused(tmp_path: Path) -> None:
    done = install(tmp_path, 'PATH=/evil')
    assert done.returncode == 2
    assert 'unknown argument PATH=/evil' in done.stderr
