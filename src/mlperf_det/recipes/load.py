"""Find, read, check and override recipes.

A site keeps its recipes in ``systems/<site>/recipes.yaml``::

    ssd:
      dgx-a100-1x8x114:           # the recipe's name
        base: nvidia-1x8x114      # a built-in recipe; only what differs follows
        walltime_minutes: 25
        runtime: {precision: bf16}
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import yaml

from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Division, Recipe, Runtime
from mlperf_det.share import share_path
from mlperf_det.yaml_files import did_you_mean, read_yaml

RecipeT = TypeVar('RecipeT', bound=Recipe)

#: benchmark -> module with ``builtin_recipes()``
BENCHMARKS: Mapping[str, str] = MappingProxyType({
    'ssd': 'mlperf_det.recipes.ssd',
    'retinanet': 'mlperf_det.recipes.retinanet',
    'maskrcnn': 'mlperf_det.recipes.maskrcnn',
})


def builtin_recipes(benchmark: str) -> dict[str, Recipe]:
    """Return the recipes that come with a benchmark, by name."""
    if benchmark not in BENCHMARKS:
        raise UserError(f'{benchmark!r} is not a benchmark; {did_you_mean(benchmark, BENCHMARKS)}')
    module = importlib.import_module(BENCHMARKS[benchmark])
    return dict(module.builtin_recipes())


def recipes_of(benchmark: str, *, system: str | None = None, file: Path | None = None) -> dict[str, Recipe]:
    """Return the recipes of a site for one benchmark, by name; without a site, the built-in ones.

    Args:
        benchmark: 'ssd', 'retinanet', ...
        system: name of a folder in ``systems/``.
        file: a recipes file elsewhere, instead of ``system``.

    Raises:
        UserError: the file is unreadable or a recipe in it is wrong; the message names file, recipe and field.
    """
    builtin = builtin_recipes(benchmark)
    path = file or (share_path('systems') / system / 'recipes.yaml' if system else None)
    if path is None:
        return builtin
    return {name: _site_recipe(fields, name=name, builtin=builtin, where=f'{path}: {benchmark}.{name}')
            for name, fields in _read_section(path, benchmark).items()}


def find_recipe(benchmark: str, name: str, *, system: str | None = None, file: Path | None = None) -> Recipe:
    """Return one recipe: a site's own first, else the built-in one of that name."""
    known = {**builtin_recipes(benchmark), **recipes_of(benchmark, system=system, file=file)}
    if name not in known:
        raise UserError(f'benchmark {benchmark} has no recipe {name!r}; {did_you_mean(name, known)}')
    return known[name]


def override(recipe: RecipeT, assignments: Iterable[str]) -> RecipeT:
    """Return the recipe with ``field=value`` assignments applied (``runtime.precision=fp32`` reaches inside).

    Raises:
        UserError: an unknown field, a value of the wrong type, or a recipe that cannot run.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition('=')
        if not equals:
            raise UserError(f'--set {assignment}: write field=value')
        *parents, leaf = key.strip().split('.')
        target = changes
        for parent in parents:
            target = target.setdefault(parent, {})
        target[leaf] = yaml.safe_load(text)
    return _merge(recipe, changes, where='--set') if changes else recipe


def check(recipe: Recipe, *, where: str = 'recipe') -> None:
    """Refuse a recipe that cannot run, or that calls itself closed and breaks a closed-division rule.

    Raises:
        UserError: names every field and rule at fault.
    """
    problems = recipe.problems()
    if problems:
        raise UserError(f'{where}: ' + '; '.join(problems))
    breaches = recipe.closed_rule_breaches() if recipe.division is Division.CLOSED else []
    if breaches:
        raise UserError(f'{where}: breaks the closed division of round {recipe.ruleset}: ' + '; '.join(breaches)
                        + '. Correct it, or declare the run with division: open')


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, for run.json and reports."""
    return dict(msgspec.to_builtins(recipe))


def _site_recipe(fields: Any, *, name: str, builtin: Mapping[str, Recipe], where: str) -> Recipe:
    if not isinstance(fields, dict):
        raise UserError(f'{where}: must be a mapping of recipe fields')
    fields = dict(fields)
    base = fields.pop('base', name)
    if base not in builtin:
        raise UserError(f'{where}.base: {base!r} is not a built-in recipe; {did_you_mean(str(base), builtin)}')
    return _merge(builtin[base], {'name': name, **fields}, where=where)


def _merge(recipe: RecipeT, changes: Mapping[str, Any], *, where: str) -> RecipeT:
    """Apply nested changes, convert every value to its field's type, and check the result."""
    values = to_mapping(recipe)
    for key, value in changes.items():
        _require_known(key, type(recipe), where)
        if key == 'runtime' and isinstance(value, dict):
            for inner in value:
                _require_known(inner, Runtime, f'{where}.runtime')
            value = {**values['runtime'], **value}
        values[key] = value
    try:
        # Not strict: YAML 1.1 reads 1e-4 as text, and --set gives text throughout.
        merged = msgspec.convert(values, type(recipe), strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f'{where}: {str(error).replace("$.", "")}') from error
    check(merged, where=where)
    return merged


def _require_known(key: str, owner: type, where: str) -> None:
    known = [field.name for field in dataclasses.fields(owner)]
    if key not in known:
        raise UserError(f'{where}: unknown field {key!r}; {did_you_mean(key, known)}')


def _read_section(path: Path, benchmark: str) -> Mapping[str, Any]:
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise UserError(f'{path}: must be a mapping of benchmark names to recipes')
    for name in content:
        if name not in BENCHMARKS:
            raise UserError(f'{path}: {name!r} is not a benchmark; {did_you_mean(str(name), BENCHMARKS)}')
    section = content.get(benchmark) or {}
    if not isinstance(section, dict):
        raise UserError(f'{path}: {benchmark} must be a mapping of recipe names to fields')
    return section
