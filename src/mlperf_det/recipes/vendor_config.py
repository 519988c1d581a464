"""Translate the ``config_<system>.sh`` files of vendor submissions into recipes.

The variables are those of the published configurations of rounds v0.7 to v5.0: geometry, batch sizes, walltime,
``EXTRA_PARAMS`` (options of the training script) and ``EXTRA_CONFIG`` (pairs for Mask R-CNN's configuration tree).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from mlperf_det.errors import UserError
from mlperf_det.recipes.shell_file import ShellFile

#: Images of train2017 with annotations: what an epoch of SSD and Mask R-CNN is.
_COCO_IMAGES = 117_266
#: A warm-up of more than so many epochs is stated in iterations: configurations of round v0.7 do.
_MOST_WARMUP_EPOCHS = 70

Translate = Callable[[str], dict[str, Any]]


def recipe_fields(config: ShellFile, benchmark: str) -> tuple[dict[str, Any], list[str]]:
    """Translate a vendor configuration into recipe fields.

    Returns:
        The fields for a recipes file, and one notice for each setting that has no counterpart here.

    Raises:
        UserError: the benchmark has no translation, a value is no number, or geometry or batch size is missing.
    """
    if benchmark not in _OPTIONS:
        raise UserError(f'{benchmark!r} configurations cannot be imported; choose from {", ".join(sorted(_OPTIONS))}')
    try:
        fields, left_out = _translate(config.variables, _OPTIONS[benchmark])
        _finish(fields, benchmark)
    except (UserError, ValueError) as error:
        raise UserError(f'{config.path}: {error}') from error
    missing = [name for name in ('nodes', 'accelerators_per_node', 'local_batch_size') if name not in fields]
    if missing:
        raise UserError(f'{config.path}: says nothing of {", ".join(missing)} '
                        f'(variables {", ".join("/".join(_COMMON[name]) for name in missing)})')
    notices = [f'{config.path}: {setting} has no counterpart and was left out' for setting in left_out]
    return fields, [*config.notices, *notices, *_elsewhere(config, benchmark)]


def _translate(variables: Mapping[str, str], options: Mapping[str, Translate]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields as far as each setting states them by itself, and the settings that have no counterpart."""
    fields: dict[str, Any] = {}
    for name, names in _COMMON.items():
        value = next((variables[n] for n in names if variables.get(n)), None)
        if value is not None:
            fields[name] = _number(value)
    if variables.get('WALLTIME') and 'walltime_minutes' not in fields:
        fields['walltime_minutes'] = _minutes(variables['WALLTIME'], int(fields.get('experiments', 1)))
    settings = {key: value for name in _LISTS for key, value in _words(variables.get(name, '')).items()}
    settings.update({key: variables[key] for key in options if variables.get(key)})
    left_out = []
    for key, value in settings.items():
        if key in options:
            fields.update(options[key](value))
        else:
            left_out.append(f'{key} {value}'.rstrip())
    return fields, left_out


def _elsewhere(config: ShellFile, benchmark: str) -> Iterator[str]:
    """Say of each variable that is no part of a recipe where it is set here."""
    known = {*_LISTS, *_OPTIONS[benchmark], *(name for names in _COMMON.values() for name in names), 'WALLTIME'}
    for name, value in config.variables.items():
        if re.fullmatch(r'(DGX|PG)(N?SOCKET|SOCKETCORES|HT)', name):
            yield (f'{config.path}: {name}={value}: sockets and cores are read from the node; the old binding is '
                   f"-S {benchmark}.cpu_bind='--nsockets_per_node=... --ncores_per_socket=...'")
        elif name in _OF_SBATCH:
            yield f'{config.path}: {name} is read by `mlperf-det sbatch` from the environment'
        elif name not in known and name not in config.helpers and not re.fullmatch(r'(DGX|PG)SYSTEM', name):
            yield f'{config.path}: {name} has no counterpart and was left out'


def _words(text: str) -> dict[str, str]:
    """Split ``--key=value --key value --flag`` and ``KEY VALUE KEY VALUE`` into a mapping."""
    result: dict[str, str] = {}
    key = ''
    for word in shlex.split(text):
        if word.startswith('--'):
            key, equals, value = word.partition('=')
            result[key] = value if equals else ''
        elif key.startswith('--'):
            result[key] = f'{result[key]} {word}'.strip()
        elif key:
            result[key], key = word, ''
        else:
            key, result[word] = word, ''
    return result


def _number(text: str) -> int | float:
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f'{text!r} is not a number') from error
    if not math.isfinite(value):
        raise UserError(f'{text!r} is not a number')
    return int(value) if value.is_integer() else value


def _minutes(walltime: str, experiments: int) -> int:
    """Return minutes of one run from a time limit in any of Slurm's forms, which is for all runs.

    They are minutes, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` and ``D-HH:MM:SS`` (sbatch(1), --time).
    """
    match = re.fullmatch(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?', walltime)
    if match is None:
        raise UserError(f'WALLTIME={walltime} is no time limit; write minutes or HH:MM:SS')
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    in_hours = match[1] is not None or match[4] is not None
    total = days * 24 * 60 + first * 60 + second + third / 60 if in_hours else first + second / 60
    return max(1, round(total / max(1, experiments)))


def _one(name: str) -> Translate:
    return lambda value: {name: _number(value)}


def _pair(name: str) -> Translate:
    return lambda value: {name: [int(_number(n)) for n in re.findall(r'[\d.]+', value)]}


def _nothing(_value: str) -> dict[str, Any]:
    return {}


def _finish(fields: dict[str, Any], benchmark: str) -> None:
    """Turn what a file states for the whole job into what a recipe states for one accelerator."""
    world = int(fields.get('nodes', 1)) * int(fields.get('accelerators_per_node', 1))
    if world < 1:
        raise UserError('nodes and GPUs a node must be positive')
    for name in ('local_batch_size', 'eval_batch_size'):
        total = fields.pop(f'global_{name}', None)
        if total is not None:
            fields[name] = max(1, int(total) // world)
    batch = world * int(fields.get('local_batch_size', 0))
    if batch > 0:
        fields.setdefault('eval_batch_size', fields['local_batch_size'])
    iterations = fields.pop('max_iterations', None)
    if iterations and batch > 0:
        fields['epochs'] = int(iterations) // (_COCO_IMAGES // batch + 1)
    if benchmark == 'ssd' and fields.get('warmup_epochs', 0) > _MOST_WARMUP_EPOCHS and batch > 0:
        # The rate counts whole iterations: half a one more keeps the number when it is computed back.
        fields['warmup_epochs'] = round((fields['warmup_epochs'] + 0.5) * batch / _COCO_IMAGES, 6)


_COMMON: Mapping[str, tuple[str, ...]] = MappingProxyType({
    'nodes': ('DGXNNODES', 'PGNNODES'), 'accelerators_per_node': ('DGXNGPU', 'PGNGPU'),
    'local_batch_size': ('BATCHSIZE',), 'eval_batch_size': ('EVALBATCHSIZE',), 'epochs': ('NUMEPOCHS',),
    'experiments': ('NEXP',), 'walltime_minutes': ('WALLTIME_RUNANDTIME', 'WALLTIME_MINUTES')})
#: Variables that hold lists of settings.
_LISTS = ('EXTRA_PARAMS', 'EXTRA_CONFIG')
_OF_SBATCH = frozenset({'CONT', 'DATADIR', 'LOGDIR', 'BACKBONE_DIR', 'PRETRAINED_DIR'})
_SCRIPT: Mapping[str, Translate] = MappingProxyType({
    '--batch-size': _one('local_batch_size'), '--eval-batch-size': _one('eval_batch_size'), '--epochs': _one('epochs'),
    'LOG_INTERVAL': lambda value: {'runtime': {'log_interval': _number(value)}}})
_OPTIONS: Mapping[str, Mapping[str, Translate]] = MappingProxyType({
    'ssd': {
        **_SCRIPT, '--lr': _one('learning_rate_per_32'), 'LR': _one('learning_rate_per_32'),
        '--weight-decay': _one('weight_decay'), '--wd': _one('weight_decay'),
        '--lr-warmup-epoch': _one('warmup_epochs'), '--lr-warmup-epochs': _one('warmup_epochs'),
        '--warmup': _one('warmup_epochs'), '--warmup-factor': _one('warmup_factor'),
        '--lr-decay-epochs': _pair('decay_epochs'), '--lr-decay-schedule': _pair('decay_epochs'),
        '--num-cropping-iterations': _one('crop_attempts'), '--val-interval': _one('evaluation_interval')},
    'retinanet': {
        **_SCRIPT, 'LR': _one('base_learning_rate'), '--lr': _one('base_learning_rate'),
        'WARMUP_EPOCHS': _one('warmup_epochs'), '--warmup-epochs': _one('warmup_epochs')},
    'maskrcnn': {
        'SOLVER.BASE_LR': _one('base_learning_rate'), 'SOLVER.WARMUP_FACTOR': _one('warmup_factor'),
        'SOLVER.WARMUP_ITERS': _one('warmup_steps'), 'SOLVER.STEPS': _pair('decay_steps'),
        'SOLVER.IMS_PER_BATCH': _one('global_local_batch_size'), 'TEST.IMS_PER_BATCH': _one('global_eval_batch_size'),
        'SOLVER.MAX_ITER': _one('max_iterations'), 'SOLVER.WARMUP_METHOD': _nothing,
        'DATALOADER.NUM_WORKERS': lambda value: {'runtime': {'loader_workers': _number(value)}},
        'MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN': _one('num_image_candidates')}})
