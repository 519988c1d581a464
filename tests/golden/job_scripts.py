"""The job scripts of the example systems, without what differs from machine to machine.

``python tests/golden/job_scripts.py`` writes them to ``tests/golden/<system>/``; review the difference and commit it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from mlperf_det.rfm.job_script import render

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent
#: system -> arguments of ReFrame besides the selection: one system shows each setting that is off by default.
SYSTEMS: dict[str, list[str]] = {
    'dgx-a100': [], 'dgx-h100': ['-S', 'ssd.launch=torchrun'], 'dgx-b200': ['-S', 'retinanet.cpu_bind=scheduler'],
    'primergy-gx2460': [], 'tara': ['-S', 'ssd.cpu_bind=--nsockets_per_node=2 --ncores_per_socket=20'],
    'lanta': ['-S', 'ssd.requeue=yes', '-S', 'ssd.exclude_nodes=lanta-g-[001,007]'], 'lumi-g': []}
#: Systems that have no recipe of SSD for their accelerators.
RETINANET = ('dgx-b200',)
#: Systems that are shown with two nodes as well: once with a task a rank, once with torchrun.
SEVERAL_NODES = ('dgx-a100', 'dgx-h100')
TWO_NODES = ['-S', 'ssd.num_nodes=2', '-t', 'throughput']


def job_scripts(system: str, folder: Path) -> dict[str, str]:
    """Return file name -> script of every case of a benchmark on a system; ``folder`` is for ReFrame's use."""
    scripts = {}
    benchmark = 'retinanet' if system in RETINANET else 'ssd'
    variants = {'': [], **({'-2-nodes': TWO_NODES} if system in SEVERAL_NODES else {})}
    for suffix, selection in variants.items():
        stage = folder / f'stage{suffix}'
        checks = [CHECKOUT / 'checks' / f'{benchmark}.py']
        for script in render(CHECKOUT / 'systems' / system / 'site.py', checks=checks, stage=stage,
                             arguments=[f'--system={system}', *SYSTEMS[system], *selection]):
            recipe = re.search(r'%recipe=(\S+)', script.check)
            assert recipe, script.check
            file = f'{script.partition.partition(":")[2]}-{benchmark}-{recipe[1]}{suffix}.sh'
            scripts[file] = portable(script.path.read_text(), stage)
    return scripts


def portable(script: str, stage: Path) -> str:
    """Return a script without this machine's paths and without digests of this version of the code."""
    script = script.replace(str(stage), '/stage').replace(str(CHECKOUT), '/checkout').replace(sys.executable, 'python3')
    script = re.sub(r'(generated-[a-z]+)-[0-9a-f]{12}', r'\1-KEY', script)
    script = re.sub(r'mlperf-det-[^/\s]+-[0-9a-f]{12}\.', 'mlperf-det-VERSION-KEY.', script)
    return re.sub(r'(ssd|retinanet)_[0-9a-f]{8}', r'\1_HASH', script)


def main() -> None:
    """Write all of them."""
    for system in SYSTEMS:
        with tempfile.TemporaryDirectory() as folder:
            scripts = job_scripts(system, Path(folder))
        shutil.rmtree(GOLDEN / system, ignore_errors=True)
        (GOLDEN / system).mkdir()
        for name, script in scripts.items():
            (GOLDEN / system / name).write_text(script)


if __name__ == '__main__':
    main()
