"""Read the ``config_<system>.sh`` files of vendor submissions into recipes. The files are parsed, never executed.

Understood is what published files use: assignments (``export`` or not), quotes, arrays, ``${NAME:-default}``,
``$((arithmetic))`` and ``source`` of a neighbour. Anything else on a line is reported and left out.
"""

from __future__ import annotations

import ast
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlperf_det.errors import UserError

_ASSIGNMENT = re.compile(r'(?:export\s+)?([A-Za-z_]\w*)=(.*)', re.DOTALL)
_SOURCE = re.compile(r'(?:source|\.)\s+(.+)')
_OWN_FOLDER = re.compile(r'\$\(dirname "?\$\{BASH_SOURCE(?:\[0\])?\}"?\)|\$\{BASH_SOURCE%/\*\}')
_OWN_NAME = re.compile(r'\$\(\s*basename[^)]*BASH_SOURCE.*\)\s*$')
_REFERENCE = re.compile(r'\$\{(\w+)(?::?-((?:[^{}]|\{[^}]*\})*))?\}|\$(\w+)')
_ARITHMETIC = re.compile(r'\$\(\((.*)\)\)', re.DOTALL)
_SECRET = re.compile(r'PASS(WORD|WD)?$|SECRET|TOKEN|CREDENTIAL', re.IGNORECASE)
_OPERATORS: Mapping[type, Callable[[Any, Any], Any]] = MappingProxyType({
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv, ast.Mod: operator.mod})


@dataclass(frozen=True, kw_only=True)
class VendorConfig:
    """The variables of a configuration file, and what of it was not understood or not taken."""

    path: Path
    variables: Mapping[str, str]
    notices: tuple[str, ...]


def read_vendor_config(path: Path, environment: Mapping[str, str] = MappingProxyType({})) -> VendorConfig:
    """Parse a ``config_<system>.sh`` file.

    Args:
        path: the file.
        environment: variables that are set before, as in ``NEXP=5 source config.sh``.

    Raises:
        UserError: the file cannot be read, or sources itself.
    """
    variables = dict(environment)
    notices: list[str] = []
    _read_into(path, variables, notices, seen=())
    for name in [name for name in variables if _SECRET.search(name)]:
        del variables[name]
        notices.append(f'{path}: {name} looks like a secret and was not taken over')
    return VendorConfig(path=path, variables=variables, notices=tuple(notices))


def recipe_fields(config: VendorConfig, benchmark: str) -> tuple[dict[str, Any], list[str]]:
    """Translate a vendor configuration into recipe fields.

    Returns:
        The fields for a recipes file, and one notice for each setting that has no counterpart here.

    Raises:
        UserError: the benchmark has no translation, or geometry or batch size is missing.
    """
    if benchmark not in _OPTIONS:
        raise UserError(f'{benchmark!r} configurations cannot be imported; choose from {", ".join(sorted(_OPTIONS))}')
    variables = config.variables
    fields: dict[str, Any] = {}
    for name, names in _COMMON.items():
        value = next((variables[n] for n in names if variables.get(n)), None)
        if value is not None:
            fields[name] = _number(value)
    if 'WALLTIME' in variables and 'walltime_minutes' not in fields:
        fields['walltime_minutes'] = _minutes(variables['WALLTIME'], int(fields.get('experiments', 1)))
    notices = list(config.notices)
    options, names = _OPTIONS[benchmark], ('EXTRA_PARAMS', 'EXTRA_CONFIG')
    settings = {key: value for name in names for key, value in _words(variables.get(name, '')).items()}
    settings.update({key: variables[key] for key in options if variables.get(key)})
    for key, value in settings.items():
        if key in options:
            fields.update(options[key](value))
        else:
            notices.append(f'{config.path}: {key} {value}'.rstrip() + ' has no counterpart and was left out')
    _finish(fields, benchmark)
    missing = [name for name in ('nodes', 'accelerators_per_node', 'local_batch_size') if name not in fields]
    if missing:
        raise UserError(f'{config.path}: says nothing of {", ".join(missing)} '
                        f'(variables {", ".join("/".join(_COMMON[name]) for name in missing)})')
    return fields, notices


def _read_into(path: Path, variables: dict[str, str], notices: list[str], seen: tuple[Path, ...]) -> None:
    path = path.resolve()
    if path in seen:
        raise UserError(f'{path}: sources itself')
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({error})') from error
    for line in _logical_lines(text):
        sourced, assignment = _SOURCE.fullmatch(line), _ASSIGNMENT.fullmatch(line)
        if sourced:
            neighbour = _OWN_FOLDER.sub(lambda _: str(path.parent), sourced[1].strip('"\''))
            neighbour = str(path.parent / neighbour)
            if '$' in neighbour or not Path(neighbour).is_file():
                notices.append(f'{path}: {line}: not found, left out')
            else:
                _read_into(Path(neighbour), variables, notices, (*seen, path))
        elif assignment:
            value = _value(assignment[2], variables, path)
            if value is None:
                notices.append(f'{path}: {line}: runs a command, left out')
            else:
                variables[assignment[1]] = value
        else:
            notices.append(f'{path}: {line}: not an assignment, left out')


def _logical_lines(text: str) -> list[str]:
    """Join continued lines and open quotes or brackets; drop comments and blank lines."""
    lines: list[str] = []
    pending = ''
    for raw in text.replace('\\\n', ' ').splitlines():
        pending = f'{pending}\n{raw}' if pending else raw
        stripped = _without_comment(pending)
        if stripped is None:
            continue
        pending = ''
        if stripped.strip():
            lines.append(stripped.strip())
    return [*lines, pending.strip()] if pending.strip() else lines


def _without_comment(text: str) -> str | None:
    """Return the text without a trailing comment; None while a quote or an array is still open."""
    quote, depth = '', 0
    for position, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '"\'':
            quote = character
        elif character in '()':
            depth += 1 if character == '(' else -1
        elif character == '#' and (position == 0 or text[position - 1].isspace()) and depth == 0:
            return text[:position]
    return None if quote or depth > 0 else text


def _value(text: str, variables: Mapping[str, str], path: Path) -> str | None:
    """Evaluate the right-hand side of an assignment; None if it would run a command."""
    text = text.strip()
    if _OWN_NAME.match(text):
        return path.stem.removeprefix('config_')
    arithmetic = _ARITHMETIC.fullmatch(text)
    if arithmetic:
        return _arithmetic(arithmetic[1], variables)
    if text.startswith('(') and text.endswith(')'):
        return ' '.join(shlex.split(_expand(text[1:-1], variables)))
    expanded = text if text.startswith("'") else _expand(text, variables)
    if '$(' in expanded or '`' in expanded:
        return None
    try:
        return ' '.join(shlex.split(expanded)) if expanded[:1] in '"\'' else expanded.strip('"\'')
    except ValueError:
        return None


def _expand(text: str, variables: Mapping[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], (match[2] or '').strip('"\'')
        return variables.get(name) or _expand(default, variables)
    return _REFERENCE.sub(replace, text)


def _arithmetic(text: str, variables: Mapping[str, str]) -> str | None:
    """Evaluate shell integer arithmetic with + - * / % and brackets; a bare word is a variable."""
    expanded = re.sub(r'[A-Za-z_]\w*', lambda m: variables.get(m[0]) or '0', _expand(text, variables))

    def evaluate(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return int(_OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right)))
        raise ValueError
    try:
        return str(evaluate(ast.parse(expanded.strip(), mode='eval').body))
    except (ValueError, SyntaxError, ZeroDivisionError):
        return None


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
    return int(value) if value.is_integer() else value


def _minutes(walltime: str, experiments: int) -> int:
    """Return minutes of one run from Slurm's ``HH:MM:SS`` or from minutes for all runs."""
    parts = [int(part) for part in walltime.split(':')]
    total = parts[0] if len(parts) == 1 else sum(p * s for p, s in zip(parts, (60, 1, 1 / 60), strict=False))
    return max(1, round(total / experiments))


def _one(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda value: {name: _number(value)}


def _pair(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda value: {name: [int(_number(n)) for n in re.findall(r'[\d.]+', value)]}


def _nothing(_value: str) -> dict[str, Any]:
    return {}


def _finish(fields: dict[str, Any], benchmark: str) -> None:
    """Turn what a file states for the whole job into what a recipe states for one accelerator."""
    world = int(fields.get('nodes', 1)) * int(fields.get('accelerators_per_node', 1))
    for name in ('local_batch_size', 'eval_batch_size'):
        total = fields.pop(f'global_{name}', None)
        if total is not None:
            fields[name] = max(1, int(total) // world)
    if 'local_batch_size' in fields:
        fields.setdefault('eval_batch_size', fields['local_batch_size'])
    iterations = fields.pop('max_iterations', None)
    if benchmark == 'maskrcnn' and iterations and 'local_batch_size' in fields:
        fields['epochs'] = int(iterations) // (117_266 // (world * int(fields['local_batch_size'])) + 1)


_COMMON: Mapping[str, tuple[str, ...]] = MappingProxyType({
    'nodes': ('DGXNNODES', 'PGNNODES'), 'accelerators_per_node': ('DGXNGPU', 'PGNGPU'),
    'local_batch_size': ('BATCHSIZE',), 'eval_batch_size': ('EVALBATCHSIZE',), 'epochs': ('NUMEPOCHS',),
    'experiments': ('NEXP',), 'walltime_minutes': ('WALLTIME_RUNANDTIME', 'WALLTIME_MINUTES')})

_OPTIONS: Mapping[str, Mapping[str, Callable[[str], dict[str, Any]]]] = MappingProxyType({
    'ssd': {
        '--lr': _one('learning_rate_per_32'), '--weight-decay': _one('weight_decay'),
        '--lr-warmup-epoch': _one('warmup_epochs'), '--lr-warmup-epochs': _one('warmup_epochs'),
        '--warmup': _one('warmup_epochs'), '--warmup-factor': _one('warmup_factor'),
        '--lr-decay-epochs': _pair('decay_epochs'), '--lr-decay-schedule': _pair('decay_epochs'),
        '--num-cropping-iterations': _one('crop_attempts'), '--val-interval': _one('evaluation_interval')},
    'retinanet': {
        'LR': _one('base_learning_rate'), 'WARMUP_EPOCHS': _one('warmup_epochs'), '--lr': _one('base_learning_rate'),
        '--eval-batch-size': _one('eval_batch_size'), '--warmup-epochs': _one('warmup_epochs')},
    'maskrcnn': {
        'SOLVER.BASE_LR': _one('base_learning_rate'), 'SOLVER.WARMUP_FACTOR': _one('warmup_factor'),
        'SOLVER.WARMUP_ITERS': _one('warmup_steps'), 'SOLVER.STEPS': _pair('decay_steps'),
        'SOLVER.IMS_PER_BATCH': _one('global_local_batch_size'), 'TEST.IMS_PER_BATCH': _one('global_eval_batch_size'),
        'SOLVER.MAX_ITER': _one('max_iterations'), 'SOLVER.WARMUP_METHOD': _nothing,
        'MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN': _one('num_image_candidates')}})
