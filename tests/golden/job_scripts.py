"""The job scripts of the example systems, without what differs from machine to machine.

``python tests/golden/job_scripts.py`` writes them to ``tests/golden/<system>/``; review the difference and commit it.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mlperf_det.rfm.job_script import render

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent

class Variant(NamedTuple):
    """Cases of a benchmark: what the names of their files end with, and further arguments of ReFrame."""

    benchmark: str
    suffix: str = ''
    arguments: tuple[str, ...] = ()


#: Two nodes where the recipe has one: with a task a rank, and with torchrun.
TWO_NODES = ('-S', 'ssd.num_nodes=2', '-t', 'throughput')
#: Each setting that is off by default is shown on some system.
SYSTEMS: dict[str, tuple[Variant, ...]] = {
    'dgx-a100': (Variant('ssd'), Variant('ssd', '-2-nodes', TWO_NODES)),
    'dgx-h100': (Variant('ssd', '-torchrun', ('-S', 'ssd.launch=torchrun')),
                 Variant('ssd', '-torchrun-2-nodes', ('-S', 'ssd.launch=torchrun', *TWO_NODES))),
    'dgx-b200': (Variant('retinanet', '', ('-S', 'retinanet.cpu_bind=scheduler')),),
    'primergy-gx2460': (Variant('ssd'),),
    'tara': (Variant('maskrcnn', '', ('-S', 'maskrcnn.cpu_bind=--nsockets_per_node=2 --ncores_per_socket=20')),),
    'lanta': (Variant('maskrcnn', '', ('-S', 'maskrcnn.requeue=yes', '-S', 'maskrcnn.exclude_nodes=gpu[001,007]')),),
    'lumi-g': (Variant('ssd'),)}


def job_scripts(system: str, folder: Path) -> dict[str, str]:
    """Return file name -> script of every case that is shown of a system; ``folder`` is for ReFrame's use."""
    scripts = {}
    for variant in SYSTEMS[system]:
        stage = folder / f'stage{variant.suffix}'
        for script in render(CHECKOUT / 'systems' / system / 'site.py',
                             checks=[CHECKOUT / 'checks' / f'{variant.benchmark}.py'], stage=stage,
                             arguments=[f'--system={system}', *variant.arguments]):
            recipe = re.search(r'%recipe=(\S+)', script.check)
            assert recipe, script.check
            partition = script.partition.partition(':')[2]
            file = f'{partition}-{variant.benchmark}-{recipe[1]}{variant.suffix}.sh'
            scripts[file] = portable(script.path.read_text(), stage)
    return scripts


def portable(script: str, stage: Path) -> str:
    """Return a script without this machine's paths and without digests of this version of the code."""
    script = script.replace(str(stage), '/stage').replace(str(CHECKOUT), '/checkout').replace(sys.executable, 'python3')
    script = re.sub(r'(generated-[a-z]+)-[0-9a-f]{12}', r'\1-KEY', script)
    script = re.sub(r'mlperf-det-[^/\s]+-[0-9a-f]{12}\.', 'mlperf-det-VERSION-KEY.', script)
    return re.sub(r'(ssd|retinanet|maskrcnn)_[0-9a-f]{8}', r'\1_HASH', script)


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
