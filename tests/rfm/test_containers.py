"""Every container platform keeps the same contract: paths, read-only data, variables, image and digest."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm import containers
from mlperf_det.rfm.containers import Contract, create, environment_lines, runtime_of

COMMAND = 'python3 -m mlperf_det train ssd'
FILE_RUNTIMES = ('Pyxis', 'Enroot', 'Singularity', 'Apptainer')


def contract(**changes: object) -> Contract:
    return Contract(**{'image': '/images/det.sif', 'read_only': ['/data/coco2017'],  # type: ignore[arg-type]
                       'environment': ('NCCL_DEBUG', 'OMP_NUM_THREADS'), 'gpu_vendor': 'nvidia', **changes})


def words(runtime: str, of: Contract | None = None) -> list[str]:
    """The command line of a platform, split as the shell does."""
    return shlex.split(create(runtime, of or contract(), COMMAND).launch_command('/stage/case').replace('\\\n', ' '))


@pytest.mark.parametrize('runtime', containers.PLATFORMS)
def test_stage_is_the_writable_working_directory_and_data_cannot_be_written(runtime: str) -> None:
    line = ' '.join(words(runtime))
    place = {'Enroot': '/data/coco2017:/data/coco2017:none:x-create=auto,bind,ro'}
    assert place.get(runtime, '/data/coco2017:/data/coco2017:ro') in line
    assert ({'Enroot': '/stage/case:/rfm_workdir:none:x-create=auto,bind,rw'}.get(runtime, '/stage/case:/rfm_workdir')
            in line)
    enter = {'Pyxis': '--container-workdir=/rfm_workdir', 'Enroot': 'cd /rfm_workdir', 'Docker': '-w /rfm_workdir'}
    assert enter.get(runtime, '--pwd /rfm_workdir') in line
    assert line.endswith(COMMAND)


@pytest.mark.parametrize('runtime', containers.PLATFORMS)
def test_what_the_job_sets_reaches_the_container_and_wins(runtime: str) -> None:
    wanted = ['MASTER_ADDR', 'MASTER_PORT', 'MLPERF_DET_IMAGE_DIGEST', 'NCCL_DEBUG']
    found = words(runtime)
    if runtime == 'Pyxis':
        listed, = (word.partition('=')[2].split(',') for word in found if word.startswith('--container-env='))
        assert {*wanted, 'SLURM_PROCID'} <= set(listed)
    elif runtime in ('Enroot', 'Docker'):
        assert {f'--env={name}' for name in [*wanted, 'SLURM_PROCID']} <= set(found)
    else:
        prefix = {'Singularity': 'SINGULARITYENV', 'Apptainer': 'APPTAINERENV'}[runtime]
        script = ['export MASTER_ADDR=node1 NCCL_DEBUG="a, b"', 'unset MASTER_PORT',
                  *environment_lines(runtime, contract(image='/bin/true')), 'env']
        done = subprocess.run(['bash', '-c', '\n'.join(script)], capture_output=True, text=True, check=True)
        assert f'{prefix}_MASTER_ADDR=node1\n' in done.stdout
        assert f'{prefix}_NCCL_DEBUG=a, b\n' in done.stdout
        assert f'{prefix}_MASTER_PORT' not in done.stdout


@pytest.mark.parametrize(('runtime', 'vendor', 'option'), [
    ('Singularity', 'nvidia', '--nv'), ('Apptainer', 'amd', '--rocm'), ('Docker', 'nvidia', '--gpus=all'),
    ('Docker', 'amd', '--device=/dev/kfd')])
def test_gpus_are_given_by_vendor(runtime: str, vendor: str, option: str) -> None:
    assert option in words(runtime, contract(gpu_vendor=vendor))
    assert option not in words(runtime, contract(gpu_vendor=''))


def test_docker_lets_ranks_bind_memory_and_gives_the_user_a_name_and_a_home() -> None:
    # Its filter of system calls passes NUMA policies only with this capability, and compilers look for both variables.
    assert {'--cap-add=SYS_NICE', '--env=USER=mlperf-det', '--env=HOME=/tmp'} <= set(words('Docker'))


@pytest.mark.parametrize('runtime', FILE_RUNTIMES)
def test_digest_is_that_of_the_file_that_runs(runtime: str, tmp_path: Path) -> None:
    image = tmp_path / "an image's $(file).sif"
    image.write_bytes(b'content')
    script = [*environment_lines(runtime, contract(image=str(image))), 'echo "$MLPERF_DET_IMAGE"',
              'echo "$MLPERF_DET_IMAGE_DIGEST"']
    done = subprocess.run(['bash', '-c', '\n'.join(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(image), 'sha256:' + hashlib.sha256(b'content').hexdigest()]


@pytest.mark.parametrize('runtime', containers.PLATFORMS)
def test_values_of_the_configuration_are_no_commands(runtime: str, tmp_path: Path) -> None:
    image, data = "/im'ages/$(touch hacked).sif", '/da ta/`touch hacked`"$(touch hacked)"'
    platform = create(runtime, contract(image=image, read_only=[data]), 'true')
    script = '\n'.join(['srun() { printf "%s\\n" "$@"; }', 'docker() { srun "$@"; }; enroot() { srun "$@"; }',
                        'singularity() { srun "$@"; }; apptainer() { srun "$@"; }',
                        ('srun ' if runtime == 'Pyxis' else '') + platform.launch_command('/stage/case')])
    done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())
    assert image in done.stdout
    assert f'{data}:' in done.stdout


def test_pyxis_stands_behind_srun_and_takes_no_relative_image() -> None:
    assert words('Pyxis')[0].startswith('--container-image=/images/det.sif')
    with pytest.raises(UserError, match='Pyxis needs the absolute path of an image file, or a registry reference'):
        create('Pyxis', contract(image='det.sqsh'), COMMAND)
    pinned = f'registry.example/det@sha256:{"a" * 64}'
    assert create('Pyxis', contract(image=pinned), COMMAND).image == pinned
    assert f'export MLPERF_DET_IMAGE_DIGEST=sha256:{"a" * 64}' in environment_lines('Pyxis', contract(image=pinned))


def test_a_mount_that_pyxis_cannot_express_is_refused() -> None:
    with pytest.raises(UserError, match='separates mounts by commas'):
        words('Pyxis', contract(read_only=['/data/a,b']))


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(UserError, match="container_runtime 'Podman': choose from Pyxis"):
        create('Podman', contract(), COMMAND)
    with pytest.raises(UserError, match=r"image '/images/det.sif': the partition has no container platform"):
        create('none', contract(), COMMAND)


@pytest.mark.parametrize(('asked', 'extra', 'platforms', 'runtime'), [
    ('', None, [], 'none'), ('', None, ['Singularity'], 'Singularity'), ('', 'Pyxis', ['Singularity'], 'Pyxis'),
    ('Apptainer', 'Pyxis', [], 'Apptainer')])
def test_the_runtime_is_the_partitions_unless_asked_for(asked: str, extra: str | None, platforms: list[str],
                                                        runtime: str) -> None:
    partition = SimpleNamespace(extras={'container_runtime': extra} if extra else {}, container_runtime=None,
                                container_environs=dict.fromkeys(platforms))
    assert runtime_of(partition, asked) == runtime
