"""``mlperf-det sbatch``: the job script of a recipe, the same one that the check would submit, for use without ReFrame.

It honours the variables of the vendors' launch scripts:

==================================  ======================================================================
``DATADIR``                         the prepared dataset, or the folder that holds it
``LOGDIR``                          where the job runs and its run folders are (default ``./results``)
``CONT``                            container image, instead of the site's
``BACKBONE_DIR``/``PRETRAINED_DIR`` folder with the backbone's weights
``NEXP``                            runs of the job
==================================  ======================================================================

The script is submitted in the folder that it lies in.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import BENCHMARKS, find_recipe, override
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.rfm.containers import IMAGE_VARIABLE
from mlperf_det.rfm.job_script import JobScript, render
from mlperf_det.share import share_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__.partition('\n\n')[2]
    parser.add_argument('benchmark', choices=sorted(BENCHMARKS))
    parser.add_argument('--system', required=True, metavar='SITE[:PARTITION]', help='of systems/')
    parser.add_argument('--recipe', required=True, metavar='NAME', help='of the site, or smoke')
    parser.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', dest='assignments',
                        help='change a recipe field; repeatable')
    parser.add_argument('-S', action='append', default=[], metavar='NAME=VALUE', dest='variables',
                        help='set a variable of the check, e.g. requeue=yes; repeatable')
    parser.add_argument('--submit', action='store_true', help='submit it as well')


def run(args: argparse.Namespace) -> int:
    """Write the script, and submit it where asked to."""
    script = write_script(args, os.environ)
    image = image_of(script.path)
    if image.startswith('/') and not Path(image).exists():
        sys.stderr.write(f'notice: {image} is not on this machine; ReFrame would build it or say so, this script does '
                         'neither: build it from Singularity.def or Dockerfile, or set CONT\n')
    sys.stdout.write(f'{script.path}\n')
    if not args.submit:
        return 0
    return submit(script.path)


def write_script(args: argparse.Namespace, environ: Mapping[str, str]) -> JobScript:
    """Write the job script, in a folder of its own.

    Raises:
        UserError: the site, the recipe or a variable is wrong, or several partitions could run it.
    """
    site, _, _ = args.system.partition(':')
    file = share_path('systems') / site / 'site.py'
    if not file.is_file():
        raise UserError(f'--system {site}: {file} does not exist; `mlperf-det new-site {site}` writes it')
    runs = environ.get('NEXP', '')
    if runs and not (runs.isascii() and runs.isdigit()):
        raise UserError(f'NEXP={runs}: is no number of runs')
    assignments = [*args.assignments, *([f'experiments={runs}'] if runs else [])]
    recipe = override(find_recipe(args.benchmark, args.recipe, system=site), assignments)
    changes = [f'recipe_overrides={shlex.join(assignments)}'] if assignments else []
    variables = [*variables_of(recipe, environ), *changes, *args.variables]
    folder = Path(environ.get('LOGDIR') or 'results').absolute() / (
        f'{args.benchmark}-{args.recipe}-{time.strftime("%Y%m%d%H%M%S")}-{os.getpid()}')
    try:
        scripts = render(file, checks=[share_path('checks') / f'{args.benchmark}.py'], stage=folder, arguments=[
            f'--system={args.system}', '-E', f'recipe == {args.recipe!r}',
            *(word for variable in variables for word in ('-S', f'{args.benchmark}.{variable}'))])
        return _only(scripts, args, file)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _only(scripts: Sequence[JobScript], args: argparse.Namespace, site: Path) -> JobScript:
    if not scripts:
        raise UserError(f'--recipe {args.recipe}: no partition of {args.system} runs it; '
                        f'`reframe -C {site} -l` shows what there is')
    if len(scripts) > 1:
        raise UserError(f'--system {args.system}: several partitions run it, choose one: '
                        f'{", ".join(script.partition for script in scripts)}')
    return scripts[0]


def image_of(script: Path) -> str:
    """Return the container image that a job script starts; empty: none."""
    named = re.search(rf'^export {IMAGE_VARIABLE}=(.*)$', script.read_text(), re.MULTILINE)
    return ' '.join(shlex.split(named[1])) if named else ''


def variables_of(recipe: Recipe, environ: Mapping[str, str]) -> list[str]:
    """Return the variables of the check that the environment asks for.

    Raises:
        UserError: the recipe trains on generated data, and nothing says where they are.
    """
    variables = []
    generated = recipe.dataset.startswith('generated-')
    if environ.get('DATADIR'):
        data = Path(environ['DATADIR']).absolute()
        place = data / recipe.dataset if (data / recipe.dataset).is_dir() else data
        variables.append(f'dataset.{"generated" if generated else "data"}_dir={place}')
    elif generated:
        raise UserError(f'--recipe {recipe.name}: trains on {recipe.dataset}, which ReFrame makes by itself; set '
                        f'DATADIR to a folder made by `mlperf-det data generate {recipe.dataset} --root DIR`, then '
                        'prepare and verify')
    if environ.get('CONT'):
        variables.append(f'container_image={environ["CONT"]}')
    weights = environ.get('BACKBONE_DIR') or environ.get('PRETRAINED_DIR')
    if weights:
        variables.append(f'backbone_dir={Path(weights).absolute()}')
    return variables


def submit(script: Path) -> int:
    """Submit a script in its own folder, and return the status of sbatch.

    Raises:
        UserError: there is no sbatch.
    """
    try:
        return subprocess.run(['sbatch', script.name], cwd=script.parent, check=False).returncode
    except FileNotFoundError:
        raise UserError('--submit: sbatch is not on the path; submit from a node of the cluster') from None
