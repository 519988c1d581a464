"""A small base image for Singularity.def and Dockerfile: this machine's Python and shell, and no gigabytes of torch.

The packages of the running Python are mounted at `PACKAGES_INSIDE`, read-only, when images are built and when they
run. Everything else is what a base image has, copied from this machine with the libraries that `ldd` names.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

SITE_PACKAGES = Path(sysconfig.get_path('purelib'))
PACKAGES_INSIDE = '/opt/machine'
#: Links to them, but for this project's own package: images have that from the checkout.
_LINKS_INSIDE = '/opt/packages'
#: What images/install, the job scripts and Python itself call.
PROGRAMS = ('bash', 'cat', 'cut', 'dirname', 'env', 'false', 'grep', 'id', 'ldconfig', 'ls', 'mkdir', 'mktemp', 'rm',
            'sed', 'sh', 'sleep', 'true', 'uname')
LIBRARIES = ('libstdc++.so.6', 'libgcc_s.so.1', 'librt.so.1', 'libpthread.so.0', 'libdl.so.2', 'libutil.so.1',
             'libz.so.1', 'libm.so.6')
_VERSION = f'python{sys.version_info.major}.{sys.version_info.minor}'
_MULTIARCH = str(sysconfig.get_config_var('MULTIARCH'))
_LEFT_OUT = shutil.ignore_patterns('site-packages', 'dist-packages', 'test', 'tests', 'idlelib', 'tkinter', 'config-*',
                                   'ensurepip', 'turtledemo', '__pycache__')


def make_base_root(root: Path) -> Path:
    """Make the root of the base image and return it."""
    for folder in ('dev', 'proc', 'sys', 'tmp', 'var/tmp', 'root', 'etc', 'usr/bin', 'usr/lib', 'usr/lib64', 'home',
                   'run', 'mnt', PACKAGES_INSIDE[1:], _LINKS_INSIDE[1:]):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ('bin', 'lib', 'lib64'):
        (root / name).symlink_to(f'usr/{name}')
    (root / 'usr/sbin').symlink_to('bin')
    (root / 'sbin').symlink_to('usr/bin')
    (root / 'etc/passwd').write_text('root:x:0:0:root:/root:/bin/sh\n')
    (root / 'etc/group').write_text('root:x:0:\n')
    for name in ('hosts', 'resolv.conf', 'localtime'):
        (root / 'etc' / name).touch()
    # What builds the package is in the base, so the build needs no network. (pip reads this option inverted.)
    (root / 'etc/pip.conf').write_text('[install]\nno-build-isolation = false\n')
    programs = [Path(shutil.which(program) or _missing(program)) for program in PROGRAMS]
    for program in programs:
        shutil.copy(program, root / 'usr/bin' / program.name)
    _copy_python(root)
    modules = (root / f'usr/lib/{_VERSION}/lib-dynload').glob('*.so')
    _copy_libraries(root, [*programs, Path(sys.executable).resolve(), *modules])
    return root


def _copy_python(root: Path) -> None:
    library = root / f'usr/lib/{_VERSION}'
    shutil.copytree(sysconfig.get_path('stdlib'), library, ignore=_LEFT_OUT, symlinks=True)
    shutil.copy(Path(sys.executable).resolve(), root / 'usr/bin' / _VERSION)
    (root / 'usr/bin/python3').symlink_to(_VERSION)
    packages = library / 'site-packages'
    packages.mkdir()
    (packages / 'machine.pth').write_text(f'{_LINKS_INSIDE}\n')
    for entry in SITE_PACKAGES.iterdir():
        if not re.match(r'mlperf_det|_editable_impl_mlperf_det|__pycache__', entry.name):
            (root / _LINKS_INSIDE[1:] / entry.name).symlink_to(f'{PACKAGES_INSIDE}/{entry.name}')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--target', packages, 'pip', 'hatchling'],
                   check=True)


def _copy_libraries(root: Path, binaries: Iterable[Path]) -> None:
    found: dict[str, str] = {}
    for binary in binaries:
        listing = subprocess.run(['ldd', binary], capture_output=True, text=True, check=False).stdout
        found.update(re.findall(r'(\S+) => (/\S+)', listing))
        found.update((path, path) for path in re.findall(r'^\s*(/\S+) \(', listing, re.MULTILINE))
    cache = subprocess.run(['ldconfig', '-p'], capture_output=True, text=True, check=True).stdout
    listed = dict(reversed(re.findall(r'^\s+(\S+) \(.*?x86-64.*?\) => (\S+)', cache, re.MULTILINE)))
    found.update({name: listed[name] for name in LIBRARIES})
    for path in set(found.values()):
        # A Python that was built into a home directory would be hidden where homes are.
        usual = path.startswith(('/lib', '/usr/lib'))
        target = root / path.lstrip('/') if usual else root / 'usr/lib' / _MULTIARCH / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(path, target)


def _missing(program: str) -> str:
    raise FileNotFoundError(f'{program} is not installed')
