"""``mlperf-det self-test``: is everything that training needs inside this image or environment? Needs no network.

Each line is one thing that was really used. Exit status: 0 all work, 1 something does not.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlperf_det import __version__
from mlperf_det.rfm import node_facts

#: Written by images/install: the tools that the image was built with, one a line.
TOOLS_FILE = Path('/usr/local/share/mlperf-det/tools')
#: Variables that keep a program from reaching the network through a proxy, so that a download fails at once.
_NO_NETWORK = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), 'http://127.0.0.1:9')


def entry_point() -> str:
    """The command is installed and is of this version."""
    command = shutil.which('mlperf-det')
    beside = Path(sys.executable).parent / 'mlperf-det'
    words = [command or str(beside), '--version']
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    if answer != f'mlperf-det {__version__}':
        raise RuntimeError(f'{words[0]} answers {answer!r}, this is {__version__}')
    return answer


def versions() -> str:
    """All packages are installed."""
    found = node_facts.versions()
    missing = [name for name, version in found.items() if version is None]
    if missing:
        raise RuntimeError(f'not installed: {", ".join(missing)}')
    return ', '.join(f'{name} {version}' for name, version in found.items())


def compiled_modules() -> str:
    """Compiled modules can be loaded."""
    broken = node_facts.broken_modules()
    if broken:
        raise RuntimeError('; '.join(f'{name}: {reason}' for name, reason in broken.items()))
    return ', '.join(node_facts.COMPILED_MODULES)


def operators() -> str:
    """Compiled operators compute: NMS and RoIAlign of torchvision, masks of pycocotools."""
    torch, ops = importlib.import_module('torch'), importlib.import_module('torchvision.ops')
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    kept = ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    pooled = ops.roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 2).sum().item()
    numpy, masks = importlib.import_module('numpy'), importlib.import_module('pycocotools.mask')
    area = int(masks.area(masks.encode(numpy.ones((4, 5), dtype=numpy.uint8, order='F'))))
    if (kept, pooled, area) != ([0, 2], 4.0, 20):
        raise RuntimeError(f'NMS keeps {kept}, RoIAlign sums to {pooled}, a mask of 20 pixels has {area}')
    return 'NMS, RoIAlign, masks'


def data_formats() -> str:
    """Images and annotations can be written, prepared and verified."""
    with tempfile.TemporaryDirectory() as folder:
        for words in (['generate', 'generated-coco', '--train', '4', '--val', '2'], ['prepare', 'generated-coco'],
                      ['verify', 'generated-coco']):
            done = subprocess.run([sys.executable, '-m', 'mlperf_det', 'data', *words, '--root', f'{folder}/data'],
                                  capture_output=True, text=True, check=False, timeout=300,
                                  env={**os.environ, **_NO_NETWORK})
            if done.returncode:
                raise RuntimeError(f'mlperf-det data {words[0]}: {(done.stderr or done.stdout).strip()[-300:]}')
    return 'JPEG and COCO annotations: generated, prepared, verified'


def numactl() -> str:
    """The tool that binds memory runs."""
    done = subprocess.run(['numactl', '--show'], capture_output=True, text=True, timeout=60, check=True)
    return (done.stdout.splitlines() or ['runs'])[0]


def dali() -> str:
    """DALI can be loaded."""
    return f'nvidia.dali {importlib.import_module("nvidia.dali").__version__}'


CHECKS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (entry_point, versions, compiled_modules, operators, data_formats)}
TOOLS: dict[str, Callable[[], str]] = {function.__name__: function for function in (numactl, dali)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--require', nargs='*', choices=sorted(TOOLS), metavar='TOOL',
                        help=f'tools that must be there ({", ".join(sorted(TOOLS))}; default: those that the image was '
                             'built with)')


def run(args: argparse.Namespace) -> int:
    """Use each thing once."""
    required = built_with() if args.require is None else args.require
    failures = 0
    for name, check in {**CHECKS, **{tool: TOOLS[tool] for tool in required}}.items():
        try:
            line = f'ok    {name}: {check()}'
        except Exception as error:  # noqa: BLE001 (one broken thing must not hide the others)
            failures += 1
            line = f'FAIL  {name}: {_words(error)}'
        sys.stdout.write(line + '\n')
    sys.stdout.write('everything is there\n' if not failures else f'{failures} of these do not work\n')
    return 1 if failures else 0


def built_with(file: Path = TOOLS_FILE) -> list[str]:
    """Return the tools that an image was built with; none outside an image of ours."""
    try:
        return [tool for tool in file.read_text().split() if tool in TOOLS]
    except OSError:
        return []


def _words(error: Any) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
