"""``mlperf-det lint``: contradictions in the folder of a site, found before any job.

Exit status: 0 nothing found (blanks still to be filled in are listed), 1 something found.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reframe.core.config import load_config

from mlperf_det.errors import UserError
from mlperf_det.mllog.systems import accelerator_class
from mlperf_det.recipes.load import BENCHMARKS, recipes_of
from mlperf_det.recipes.recipe import Recipe, Tier
from mlperf_det.results.references.table import Key, Reference, load_references
from mlperf_det.rfm import containers, metrics
from mlperf_det.rfm.constants import Device, Extra, Feature
from mlperf_det.rfm.image import BUILD
from mlperf_det.rfm.site import RECIPES_FILE, REFERENCES_FILE
from mlperf_det.rfm.start_rank import NUMA, OFF, SCHEDULER
from mlperf_det.share import share_path
from mlperf_det.yaml_files import did_you_mean

#: Stands in shipped and new site folders for what only the site knows.
BLANK = 'FILL_IN'
_EXTRAS = frozenset(value for name, value in vars(Extra).items() if not name.startswith('_'))
_METRICS = frozenset(value.name for value in vars(metrics).values() if isinstance(value, metrics.Metric))
_PATHS = (Extra.DATASETS, Extra.BACKBONES, Extra.IMAGES)
_SLURM = ('slurm', 'squeue')


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What the linter needs of a partition of the configuration."""

    where: str
    raw: Mapping[str, Any]

    @property
    def extras(self) -> Mapping[str, Any]:
        """Its ``extras``."""
        return dict(self.raw.get('extras', {}))

    @property
    def gpus(self) -> list[Mapping[str, Any]]:
        """Its GPU devices."""
        return [device for device in self.raw.get('devices', ()) if device.get('type') == Device.GPU]

    @property
    def gpus_per_node(self) -> int:
        """GPUs in each node."""
        return sum(int(device.get('num_devices', 1)) for device in self.gpus)

    @property
    def nodes(self) -> int | None:
        """Its nodes; None: not told."""
        nodes = self.extras.get(Extra.NODES)
        return nodes if isinstance(nodes, int) else None

    @property
    def accelerators(self) -> set[str]:
        """Products, in the spelling of references."""
        return {accelerator_class(device.get('model') or device.get('arch', '')) for device in self.gpus}


def problems(folder: Path) -> list[str]:
    """Return every contradiction in a site's folder, each as one line that names file and field."""
    try:
        partitions = read_partitions(folder)
    except UserError as error:
        return [str(error)]
    found = [problem for partition in partitions for problem in partition_problems(partition)]
    recipes: dict[str, Mapping[str, Recipe]] = {}
    if (folder / RECIPES_FILE).is_file():
        for benchmark in BENCHMARKS:
            try:
                recipes[benchmark] = recipes_of(benchmark, file=folder / RECIPES_FILE)
            except UserError as error:
                found.append(str(error))
        found += recipe_problems(folder / RECIPES_FILE, recipes, partitions)
    if (folder / REFERENCES_FILE).is_file():
        try:
            references = dict(load_references(folder / REFERENCES_FILE).items())
        except UserError as error:
            return list(dict.fromkeys([*found, str(error)]))
        found += [f'{folder / REFERENCES_FILE}: {".".join(map(str, key))}: {problem}'
                  for key, reference in references.items()
                  for problem in reference_problems(key, reference, recipes, partitions)]
    # A file that cannot be read at all says the same for every benchmark.
    return list(dict.fromkeys(found))


def blanks(folder: Path) -> list[str]:
    """Return the lines of a site's configuration that still have a blank."""
    return [f'{path}:{number}: {line.strip()}' for path in sorted(folder.glob('site.py'))
            for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), start=1)
            if BLANK in line and not line.startswith(('"""', 'What only'))]


def read_partitions(folder: Path) -> list[Partition]:
    """Return the partitions of a site.

    Raises:
        UserError: ReFrame does not accept the configuration.
    """
    file = folder / 'site.py'
    try:
        load_config(str(file)).validate()
        configuration = runpy.run_path(str(file))['site_configuration']
    except Exception as error:
        # A configuration is a program, and may fail in any way. ReFrame keeps what the schema says as the cause.
        reason = getattr(error.__cause__, 'message', '') or f'{type(error).__name__}: {error}'
        raise UserError(f'{file}: {" ".join(reason.split())}') from error
    return [Partition(where=f'{file}: {system["name"]}:{partition["name"]}', raw=partition)
            for system in configuration['systems'] for partition in system['partitions']]


def partition_problems(partition: Partition) -> Iterator[str]:
    """Return what is wrong with one partition."""
    raw, extras, where = partition.raw, partition.extras, partition.where
    has_feature = Feature.GPU in raw.get('features', ())
    if bool(partition.gpus) != has_feature:
        yield (f'{where}: features and devices disagree: ' + ('GPUs without the feature' if partition.gpus else
               'the feature without GPUs') + f' {Feature.GPU!r}')
    for device in partition.gpus:
        if not device.get('model'):
            yield f'{where}: devices: a GPU without model; references are found by it'
    if raw['scheduler'] in _SLURM:
        options = [option for resource in raw.get('resources', ()) if resource['name'] == '_rfm_gpu'
                   for option in resource['options']]
        if partition.gpus and not any('{num_gpus_per_node}' in option for option in options):
            yield (f"{where}: resources: none named '_rfm_gpu' with {{num_gpus_per_node}} in its options; "
                   'without it jobs get no GPU, and ReFrame says nothing')
        if partition.gpus and not raw.get('processor', {}).get('num_cpus'):
            yield (f'{where}: processor: num_cpus is missing; without it jobs ask for one CPU a rank, and images are '
                   'loaded by that one')
        if not raw.get('sched_options', {}).get('use_nodes_option'):
            yield f"{where}: sched_options: use_nodes_option must be True; else Slurm may spread a job over more nodes"
    for name, value in raw.get('env_vars', ()):
        if not _is_one_word(str(value)):
            yield f'{where}: env_vars: {name}: {value!r} is not one word of the shell; quote it'
    for key in sorted(set(extras) - _EXTRAS):
        yield f'{where}: extras: unknown key {key!r}; known are {", ".join(sorted(_EXTRAS))}'
    for key in sorted(_EXTRAS & set(extras)):
        if wanted := _wanted(key, extras[key]):
            yield f'{where}: extras: {key}: {extras[key]!r} is no {wanted}'
    yield from _image_problems(partition)


def _wanted(key: str, value: object) -> str:
    """Return what a value of ``extras`` should have been; empty where it is."""
    if key == Extra.NODES:
        return '' if isinstance(value, int) and value > 0 else 'number of nodes'
    if not isinstance(value, str):
        return 'text'
    if key == Extra.CPU_BIND and value not in (NUMA, SCHEDULER, OFF) and not value.startswith('--'):
        return f'way to bind: {NUMA}, {SCHEDULER}, {OFF}, or arguments of older launchers, which begin with --'
    # Jobs run in their stage folder: whatever is relative to another one is not found there.
    return 'absolute path' if key in _PATHS and not value.startswith('/') else ''


def _is_one_word(value: str) -> bool:
    lexer = shlex.shlex(value, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ''
    try:
        return len(list(lexer)) <= 1 and '$(' not in value and '`' not in value
    except ValueError:
        return False


def _image_problems(partition: Partition) -> Iterator[str]:
    extras, where = partition.extras, partition.where
    platforms = [entry['type'] for entry in partition.raw.get('container_platforms', ())]
    runtime, image = extras.get(Extra.CONTAINER_RUNTIME) or next(iter(platforms), None), extras.get(Extra.IMAGE)
    if runtime is not None and runtime not in containers.PLATFORMS:
        yield f'{where}: container platform {runtime!r}: choose from {", ".join(containers.PLATFORMS)}'
    elif image and runtime is None:
        yield f'{where}: extras.image without a container platform; set container_runtime or container_platforms'
    elif isinstance(image, str) and image not in ('', BUILD):
        try:
            containers.create(str(runtime), containers.Contract(image=image), 'true')
        except UserError as error:
            yield f'{where}: extras: {error}'


def recipe_problems(file: Path, recipes: Mapping[str, Mapping[str, Recipe]],
                    partitions: Sequence[Partition]) -> Iterator[str]:
    """Return the recipes that no partition can run."""
    for benchmark, named in recipes.items():
        for name, recipe in named.items():
            if recipe.tier is not Tier.SMOKE and not any(_fits(recipe, partition) for partition in partitions):
                sizes = ', '.join(f'{partition.nodes or "any number of"} x {partition.gpus_per_node}'
                                  for partition in partitions)
                yield (f'{file}: {benchmark}.{name}: asks for {recipe.nodes} nodes x {recipe.accelerators_per_node} '
                       f'accelerators; the partitions have {sizes}')


def reference_problems(key: Key, reference: Reference, recipes: Mapping[str, Mapping[str, Recipe]],
                       partitions: Sequence[Partition]) -> Iterator[str]:
    """Return why a reference would never be looked at, or would not judge."""
    benchmark, accelerator, nodes, precision, metric = key
    if metric in metrics.ACCURACIES:
        yield 'accuracies are held against the quality target of the recipe, never against a reference'
    elif metric not in _METRICS:
        yield f'no check measures {metric}'
    known = set().union(*(partition.accelerators for partition in partitions)) | {'cpu'}
    if accelerator not in known:
        yield f'no partition has {accelerator}; there is {", ".join(sorted(known))}'
    of_geometry = [recipe for recipe in recipes.get(benchmark, {}).values() if recipe.nodes == nodes]
    if accelerator != 'cpu' and not of_geometry:
        yield f'no recipe of {benchmark} runs on {nodes} node(s)'
    elif of_geometry and not any(recipe.runtime.precision in (precision, 'auto') for recipe in of_geometry):
        yield f'no recipe of {benchmark} on {nodes} node(s) computes in {precision}'
    if reference.limit() is None:
        yield 'has no spread, so it judges nothing; measure it at least twice'


def _fits(recipe: Recipe, partition: Partition) -> bool:
    return (recipe.accelerators_per_node <= partition.gpus_per_node
            and recipe.nodes <= (partition.nodes or recipe.nodes))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('systems', nargs='*', metavar='SYSTEM', help='a folder, or the name of one in systems/ '
                        '(default: all of systems/)')


def run(args: argparse.Namespace) -> int:
    """Lint, and list what is still to be filled in."""
    shipped = sorted(path.parent for path in share_path('systems').glob('*/site.py'))
    named = [Path(name) if '/' in name else share_path('systems') / name for name in args.systems]
    for folder in named:
        if not (folder / 'site.py').is_file():
            names = [each.name for each in shipped]
            raise UserError(f'{folder}: has no site.py; {did_you_mean(folder.name, names)}')
    folders = named or shipped
    count = 0
    for folder in folders:
        found = problems(folder)
        count += len(found)
        for problem in found:
            sys.stdout.write(f'{problem}\n')
        for blank in blanks(folder):
            sys.stdout.write(f'to fill in: {blank}\n')
    sys.stdout.write(f'{len(folders)} system(s), {count} problem(s)\n')
    return 1 if count else 0
