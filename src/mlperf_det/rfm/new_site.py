"""``mlperf-det new-site NAME``: the folder of a new site, from what Slurm and the devices say.

What nobody but the site knows is left as FILL_IN, which `mlperf-det lint` lists.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path
from textwrap import indent

from mlperf_det.errors import UserError
from mlperf_det.rfm.site_survey import PartitionFacts, Survey, survey
from mlperf_det.share import share_path

#: Platforms that ReFrame has itself; the others go into ``extras``.
_REFRAME_PLATFORMS = ('Apptainer', 'Singularity', 'Docker')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('name', help='of the system, and of its folder')
    parser.add_argument('--directory', type=Path, metavar='DIR', help='where the folder goes (default: systems/)')


def run(args: argparse.Namespace) -> int:
    """Ask, write, and say what proves it."""
    if not re.fullmatch(r'[a-z0-9][a-z0-9-]*', args.name):
        raise UserError(f'name {args.name!r}: use small letters, digits and hyphens, as in dgx-a100')
    folder = (args.directory or share_path('systems')) / args.name
    if folder.exists():
        raise UserError(f'{folder}: exists already; choose another name, or remove it')
    found = survey()
    write_folder(folder, found)
    for partition in found.partitions:
        sys.stdout.write(f'{partition.name}: {partition.nodes} node(s), {partition.gpus} GPU(s) each '
                         f'{partition.gpu_model}\n')
    sys.stdout.write(f'\n{folder} is written. Fill in what is blank, then prove it:\n\n'
                     + indent('\n'.join(proof(folder)), '    ') + '\n')
    return 0


def proof(folder: Path) -> list[str]:
    """Return the commands that show that a site's folder is right, cheapest first."""
    site = folder / 'site.py'
    named = folder.name if folder.parent == share_path('systems') else f'{folder}/'
    return [f'mlperf-det lint {named}', f'reframe -C {site} --system={folder.name} -c checks/ --dry-run',
            f'reframe -C {site} --system={folder.name} -c checks/preflight.py -r --distribute=all',
            f'reframe -C {site} --system={folder.name} -c checks/ -r -t smoke',
            f'mlperf-det accept -C {site} --mode=nightly -- --system={folder.name}']


def write_folder(folder: Path, found: Survey) -> None:
    """Write the folder of a site, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as place:
        new = Path(place) / folder.name
        new.mkdir()
        (new / 'site.py').write_text(site_file(folder.name, found), encoding='utf-8')
        (new / 'recipes.yaml').write_text(_RECIPES, encoding='utf-8')
        (new / 'references.yaml').write_text(_REFERENCES, encoding='utf-8')
        (new / 'README.md').write_text(_README.format(name=folder.name, proof='\n'.join(
            f'    {line}' for line in proof(folder))), encoding='utf-8')
        shutil.move(new, folder)


def site_file(name: str, found: Survey) -> str:
    """Return the content of ``site.py``."""
    hostnames = "['FILL_IN']" if found.slurm else "['.*']"
    partitions = ''.join(indent(_partition(partition, found), ' ' * 16) for partition in found.partitions)
    imports = 'ENVIRONMENT, LOGGING, MODES' + (', SLURM' if found.slurm else '')
    return _SITE.format(name=name, imports=imports, hostnames=hostnames, partitions=partitions)


def _partition(facts: PartitionFacts, found: Survey) -> str:
    lines = ['{']
    if found.slurm:
        lines += ['    **SLURM,', f"    'name': {facts.name!r},", f"    'access': [{f'--partition={facts.name}'!r}],"]
    else:
        lines += [f"    'name': {facts.name!r},", "    'scheduler': 'local',", "    'launcher': 'local',",
                  "    'environs': ['builtin'],", '    # Timings mean nothing when two trainings share the machine.',
                  "    'max_jobs': 1,"]
    if facts.gpus:
        lines += ["    'features': ['gpu'],",
                  '    # The model as the driver names it (`nvidia-smi -L`); references are found by it.',
                  f"    'devices': [{{'type': 'gpu', 'model': {facts.gpu_model or 'FILL_IN'!r}, "
                  f"'num_devices': {facts.gpus}}}],"]
        if found.slurm:
            option = f'--gres={facts.gres}:{{num_gpus_per_node}}'
            lines += ['    # The name counts: ReFrame fills in the GPUs of a node under this one only.',
                      f"    'resources': [{{'name': '_rfm_gpu', 'options': [{option!r}]}}],"]
    if facts.cpus:
        lines.append(f"    'processor': {{'num_cpus': {facts.cpus}, 'num_cpus_per_core': {facts.threads_per_core}, "
                     f"'num_sockets': {facts.sockets},\n                  "
                     f"'num_cpus_per_socket': {facts.cpus // facts.sockets}}},")
    lines += [*_container(found), "    'env_vars': ENVIRONMENT,", "    'extras': {"]
    if found.container_runtime:
        suffix = 'sqsh' if found.container_runtime in ('Pyxis', 'Enroot') else 'sif'
        image = 'mlperf-det:latest' if found.container_runtime == 'Docker' else f'/FILL_IN/mlperf-det.{suffix}'
        lines += ["        # An image that lies ready, or 'build'; without the line checks run without a container.",
                  f"        # 'image': {image!r},"]
    if found.container_runtime not in ('', *_REFRAME_PLATFORMS):
        lines.append(f"        'container_runtime': {found.container_runtime!r},")
    lines += ["        'datasets': '/FILL_IN/datasets',", "        'backbones': '/FILL_IN/backbones',",
              "        # Where users may clear the page cache of their nodes: import it from site_defaults.",
              "        # 'clear_caches': CLEAR_CACHES_BY_SUDO,", f"        'nodes': {facts.nodes},", '    },', '},']
    return '\n'.join(lines) + '\n'


def _container(found: Survey) -> list[str]:
    return ([f"    'container_platforms': [{{'type': {found.container_runtime!r}}}],"]
            if found.container_runtime in _REFRAME_PLATFORMS else [])


_SITE = '''"""ReFrame configuration of {name}, written by `mlperf-det new-site` from what Slurm and the devices say.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import {imports}

site_configuration = {{
    'systems': [
        {{
            'name': '{name}',
            'descr': '{name}',
            # Patterns of the names of the machines on which ReFrame is started.
            'hostnames': {hostnames},
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/FILL_IN',
            'partitions': [
{partitions}            ],
        }},
    ],
    'logging': LOGGING,
    'modes': MODES,
}}
'''
_RECIPES = '''# Recipes of this site, besides the built-in smoke recipes. Each is a case of its check. For example:
#
# ssd:
#   1x8x114:
#     base: nvidia-1x8x114        # a built-in recipe (`mlperf-det recipe list`); only what differs follows
#     runtime: {precision: fp16}
'''
_REFERENCES = '''# References of this site: none yet. Measure with `-S reference_not_needed=calibration`, and enter what
# was measured or promised; systems/local/references.yaml shows the form.
'''
_README = '''# {name}

| in `site.py` | what to enter |
|---|---|
| `hostnames` | patterns of the login nodes' names, so that `-C` alone finds the system |
| `resourcesdir` | a folder on the shared file system with room for images and generated scenes |
| `access` | account, reservation, QOS: any option of `sbatch` |
| `devices` | the model of the GPUs as their driver names it |
| `env_vars` | variables of NCCL and of the fabric: `[*ENVIRONMENT, ['NCCL_IB_HCA', '=mlx5_0,mlx5_1']]` |
| `extras`: `image` | a SIF or squashfs file, or a name in Docker; `build` makes one from our recipes |
| `extras`: `datasets`, `backbones` | where `mlperf-det data` put them, as the nodes see them |
| `extras`: `clear_caches` | a command that your users may run; without it the runs say that caches were not cleared |

`recipes.yaml` says what is run besides the smoke recipes, `references.yaml` what results are held against; vendor
configurations are translated by `mlperf-det recipe import BENCHMARK config_SYSTEM.sh`.

Prove it, cheapest first:

{proof}

Without ReFrame: `mlperf-det sbatch BENCHMARK --system {name} --recipe NAME` writes the same job script.
'''
