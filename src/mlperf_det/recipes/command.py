"""``mlperf-det recipe list|show|import``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from mlperf_det.errors import UserError
from mlperf_det.recipes.load import BENCHMARKS, builtin_recipes, find_recipe, override, recipes_of, to_mapping
from mlperf_det.recipes.rules_table import rules_table
from mlperf_det.recipes.shell_file import read_shell_file
from mlperf_det.recipes.vendor_config import recipe_fields
from mlperf_det.tables import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three actions."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument('--system', metavar='SITE', help='site folder in systems/ whose recipes are looked up first')
    where.add_argument('--recipes', type=Path, metavar='FILE', help='a recipes file elsewhere')

    text = 'name the recipes, with geometry and batch'
    listing = actions.add_parser('list', parents=[where], help=text, description=text)
    listing.add_argument('benchmark', nargs='?', choices=sorted(BENCHMARKS), help='of this benchmark only')

    text = 'print a recipe and the closed-division rules held to it'
    show = actions.add_parser('show', parents=[where], help=text, description=text)
    show.add_argument('benchmark', choices=sorted(BENCHMARKS))
    show.add_argument('name', help='of the recipe, see `mlperf-det recipe list`')
    show.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', dest='assignments',
                      help='change a field, e.g. runtime.precision=fp32; repeatable')

    text = 'translate a vendor config_<system>.sh (parsed, never executed)'
    importing = actions.add_parser('import', help=text, description=text)
    importing.add_argument('benchmark', choices=sorted(BENCHMARKS))
    importing.add_argument('file', type=Path, help="the vendor's config_<system>.sh")
    importing.add_argument('--base', metavar='NAME', help='built-in recipe that supplies what the file leaves open')


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {'list': _list, 'show': _show, 'import': _import}
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    for benchmark in [args.benchmark] if args.benchmark else sorted(BENCHMARKS):
        for recipe in recipes_of(benchmark, system=args.system, file=args.recipes).values():
            sys.stdout.write(f'{benchmark:10} {recipe.name:24} {recipe.tier.value:12} {recipe.division.value:7} '
                             f'{recipe.nodes}x{recipe.accelerators_per_node}x{recipe.local_batch_size} = '
                             f'{recipe.global_batch_size} images\n')
    return 0


def _show(args: argparse.Namespace) -> int:
    recipe = override(find_recipe(args.benchmark, args.name, system=args.system, file=args.recipes), args.assignments)
    sys.stdout.write(yaml.safe_dump(to_mapping(recipe), sort_keys=False) + f'\n{rules_table(recipe)}\n')
    return 0


def _import(args: argparse.Namespace) -> int:
    config = read_shell_file(args.file)
    try:
        fields, notices = recipe_fields(config, args.benchmark)
    except UserError:
        # What was left out may be what is missing.
        _notice(config.notices)
        raise
    builtin = builtin_recipes(args.benchmark)
    geometry = (fields['nodes'], fields['accelerators_per_node'])
    base = args.base or next(
        (name for name, recipe in builtin.items() if (recipe.nodes, recipe.accelerators_per_node) == geometry
         and recipe.local_batch_size == fields['local_batch_size']), None) or sorted(builtin)[0]
    if base not in builtin:
        raise UserError(f'--base {base}: not a built-in recipe; choose from {", ".join(sorted(builtin))}')
    override(builtin[base], [f'{key}={value}' for key, value in fields.items()])
    name = f'{args.file.stem.removeprefix("config_").lower()}'
    sys.stdout.write(f'# from {args.file.name}; append to systems/<site>/recipes.yaml\n'
                     + yaml.safe_dump({args.benchmark: {name: {'base': base, **fields}}}, sort_keys=False))
    _notice(notices)
    return 0


def _notice(notices: Sequence[str]) -> None:
    for notice in notices:
        sys.stderr.write(f'notice: {printable(notice)}\n')
