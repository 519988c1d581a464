"""The image recipes, built and run for real: Apptainer under Slurm, a Dockerfile without a daemon, options of srun.

The base image is small and local (see base_root.py). Enroot itself is not here: a plugin of our own stands in for
Pyxis, with real option parsing and real mounts.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from base_root import PACKAGES_INSIDE, SITE_PACKAGES, make_base_root
from needs import require

CHECKOUT = Path(__file__).resolve().parents[2]
BIND = f'{SITE_PACKAGES}:{PACKAGES_INSIDE}:ro'


@pytest.fixture(scope='module')
def base_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the base image."""
    require('patchelf')
    return make_base_root(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def sif(base_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of Singularity.def on the local base, self-test included."""
    require('apptainer')
    folder = tmp_path_factory.mktemp('sif')
    image = folder / 'mlperf-det.sif'
    run('apptainer', 'build', '--fakeroot', '--bind', BIND, '--mksquashfs-args', '-comp lz4 -processors 1',
        '--build-arg', 'BOOTSTRAP=localimage', '--build-arg', f'BASE={base_root}', '--build-arg', 'TOOLS=',
        image, 'Singularity.def', APPTAINER_CACHEDIR=str(folder / 'cache'), APPTAINER_TMPDIR=str(folder))
    return image


@pytest.fixture(scope='module')
def dockerfile_image(base_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image of the Dockerfile on the local base, as a squashfs file."""
    require('buildah', 'mksquashfs')
    folder = tmp_path_factory.mktemp('buildah')
    # Containers of other programs on this machine are none of ours.
    buildah = ['buildah', '--root', folder / 'root', '--runroot', folder / 'run', '--storage-driver', 'overlay']
    base = run(*buildah, 'from', 'scratch').strip()
    run(*buildah, 'copy', '--quiet', base, base_root, '/')
    run(*buildah, 'commit', '--quiet', base, 'localhost/base')
    run(*buildah, 'bud', '--isolation=chroot', '--pull-never', f'--volume={BIND}', '--build-arg=BASE=localhost/base',
        '--build-arg=TOOLS=', '--build-arg=VERSION=0.9', '--tag=localhost/mlperf-det', '.')
    labels = run(*buildah, 'inspect', '--type=image', '--format={{.OCIv1.Config.Labels}}', 'localhost/mlperf-det')
    assert 'org.opencontainers.image.title:mlperf-det' in labels
    assert 'org.opencontainers.image.version:0.9' in labels
    container = run(*buildah, 'from', '--pull-never', 'localhost/mlperf-det').strip()
    mounted = run(*buildah, 'mount', container).strip()
    image = folder / 'mlperf-det.sqsh'
    run('mksquashfs', mounted, image, '-comp', 'lz4', '-processors', '1', '-no-progress', '-quiet')
    run(*buildah, 'umount', container)
    yield image
    run(*buildah, 'rm', '--all')


def run(*command: str | Path, **environment: str) -> str:
    """Run a command in the checkout and return its standard output; its last words are in the error."""
    done = subprocess.run([str(word) for word in command], cwd=CHECKOUT, env={**os.environ, **environment},
                          capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f'{command[0]}: {done.stdout[-1500:]}{done.stderr[-1500:]}'
    return done.stdout


def digest(image: Path) -> str:
    return 'sha256:' + hashlib.sha256(image.read_bytes()).hexdigest()


def in_image(image: Path) -> dict[str, str]:
    """Return the environment of a session that trains in an image."""
    return {'MLPERF_DET_CI_IMAGE': str(image), 'APPTAINER_BINDPATH': BIND,
            # As root in a namespace of its own a program may lack a capability that Apptainer asks for.
            'APPTAINER_NO_PRIVS': '1'}


def test_the_singularity_recipe_builds_and_tests_itself(sif: Path) -> None:
    labels = run('apptainer', 'inspect', '--labels', sif)
    assert 'org.opencontainers.image.title: mlperf-det' in labels
    assert 'org.opencontainers.image.version: 0.' in labels
    bound = {'APPTAINER_BINDPATH': BIND, 'APPTAINER_NO_PRIVS': '1'}
    assert run('apptainer', 'run', '--containall', sif, '--version', **bound).startswith('mlperf-det 0.')
    assert 'export PYTHONNOUSERSITE=1' in run('apptainer', 'inspect', '--environment', sif)


@pytest.mark.slow
def test_smoke_passes_inside_apptainer_on_two_nodes(suite, sif: Path) -> None:
    case = suite.train(partition='apptainer', environment=in_image(sif)).only_case()
    assert case.result == 'pass', case.reason
    assert case.record.image == {'path': str(sif), 'digest': digest(sif)}
    assert [host['name'] for host in case.record.hosts] == ['n1', 'n2']
    assert 'apptainer exec' in case.script


@pytest.mark.slow
def test_smoke_passes_inside_the_dockerfiles_image_by_options_of_srun(suite, dockerfile_image: Path) -> None:
    case = suite.train(partition='pyxis', environment=in_image(dockerfile_image)).only_case()
    assert case.result == 'pass', case.reason
    assert case.record.image == {'path': str(dockerfile_image), 'digest': digest(dockerfile_image)}
    assert [host['name'] for host in case.record.hosts] == ['n1', 'n2']
    assert '--container-image=' in case.script


def test_a_missing_image_is_red(suite, tmp_path: Path) -> None:
    session = suite.train(partition='pyxis', environment=in_image(tmp_path / 'missing.sqsh'))
    fixture, = [case for case in session.all_cases() if case['name'].startswith('training_image')]
    assert fixture['result'] == 'fail'
    assert 'missing.sqsh' in fixture['fail_reason']


def test_an_image_that_cannot_be_mounted_is_red(suite, tmp_path: Path) -> None:
    broken = tmp_path / 'broken.sqsh'
    broken.write_text(f'no squashfs: {time.time()}')
    case = suite.train(partition='pyxis', environment=in_image(broken)).only_case()
    assert case.result == 'fail'
    assert 'exit code 1' in case.reason
    assert 'failed to create container filesystem for image' in (case.folder / 'rfm_job.err').read_text()
