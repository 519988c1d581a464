"""``mlperf-det reference``: show references, propose new ones as a diff, and say what is doubtful in them."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.results.acceptance import load_acceptance
from mlperf_det.results.groups import group_runs
from mlperf_det.results.published import published_results
from mlperf_det.results.reading import read_runs
from mlperf_det.results.references.edit import diff, with_references
from mlperf_det.results.references.lint import findings
from mlperf_det.results.references.proposals import from_promises, from_published, from_runs, worth_proposing
from mlperf_det.results.references.scaled import from_measured
from mlperf_det.results.references.table import (
    BENCHMARKS,
    PRECISIONS,
    Key,
    Reference,
    References,
    ReferenceSource,
    SourceKind,
    load_references,
    parse_references,
)
from mlperf_det.tables import print_table, printable

_COLUMNS = ('benchmark', 'accelerator', 'nodes', 'precision', 'metric', 'value', 'unit', 'limit', 'n', 'spread', 'date',
            'source')
_PUBLISHED = ('benchmark', 'accelerator', 'accelerators', 'results', 'best, min', 'median, min', 'worst, min',
              'images/s', 'batch', 'epochs', 'round', 'submitter', 'system')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det reference``."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True)
    show = _action(actions, 'show', 'print references with bounds and provenance, or the published results')
    show.add_argument('file', nargs='?', type=Path, metavar='FILE',
                      help='references.yaml; without it the published MLPerf results are printed')
    show.add_argument('--benchmark', choices=BENCHMARKS, help='of this benchmark only')
    show.add_argument('--accelerator', metavar='NAME', help='of this accelerator only')
    show.set_defaults(reference_action=_show)
    propose = _action(actions, 'propose', 'print a diff that adds or renews references; changes no file')
    propose.add_argument('file', type=Path, metavar='FILE', help='references.yaml; may be absent')
    propose.add_argument('runs', nargs='*', type=Path, metavar='RUN', help='recorded runs or published result trees')
    propose.add_argument('--acceptance', type=Path, metavar='FILE', help="a bidder's promises")
    propose.add_argument('--published', action='store_true', help='published MLPerf results of --accelerator')
    propose.add_argument('--modelled', action='store_true',
                         help='as --published, and a scaling law for node counts that neither others published nor '
                              'FILE has measured')
    propose.add_argument('--benchmark', choices=BENCHMARKS, action='append', help='default: all')
    propose.add_argument('--accelerator', metavar='NAME', help='e.g. H100-SXM5-80GB')
    propose.add_argument('--accelerators-per-node', type=int, default=8, metavar='N', help='default: 8')
    propose.add_argument('--nodes', type=_counts, default=(1,), metavar='N,N', help='node counts (default: 1)')
    propose.add_argument('--precision', choices=PRECISIONS, default='mixed',
                         help='of values that do not say theirs (default: mixed)')
    propose.set_defaults(reference_action=_propose)
    lint = _action(actions, 'lint', 'say what is doubtful; status 1 where anything is')
    lint.add_argument('files', nargs='+', type=Path, metavar='FILE', help='references.yaml')
    lint.set_defaults(reference_action=_lint)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return int(args.reference_action(args))


def _show(args: argparse.Namespace) -> int:
    def wanted(benchmark: str, accelerator: str) -> bool:
        return args.benchmark in (None, benchmark) and args.accelerator in (None, accelerator)
    if args.file is None:
        shown = [result for result in published_results() if wanted(result.benchmark, result.accelerator)]
        print_table(_PUBLISHED, [dict(zip(_PUBLISHED, (
            result.benchmark, result.accelerator, result.accelerators, result.results, result.best_minutes,
            result.median_minutes, result.worst_minutes, result.images_per_second, result.global_batch_size,
            result.epochs, result.round, result.submitter, result.system), strict=True)) for result in shown],
            'Published MLPerf results; images/s to system are of the best')
        return int(not shown)
    rows = [_row(key, reference) for key, reference in load_references(args.file).items() if wanted(key[0], key[1])]
    print_table(_COLUMNS, rows, str(args.file))
    return int(not rows)


def _row(key: Key, reference: Reference) -> dict[str, object]:
    return dict(zip(_COLUMNS, (*key, reference.value, reference.unit, reference.limit(), reference.n, reference.spread,
                               reference.date, source_text(reference.source)), strict=True))


def source_text(source: ReferenceSource) -> str:
    """Return where a value comes from, in words."""
    if source.kind is SourceKind.PUBLISHED:
        origin = f'{source.round} {source.submitter} {source.system}'
    else:
        origin = source.document or ', '.join(source.runs) or source.note
    return f'{source.kind.value}: {origin}' if origin else source.kind.value


def _propose(args: argparse.Namespace) -> int:
    """Print the diff; status 0 also where there is nothing to propose, which is said."""
    if not (args.runs or args.acceptance or args.published or args.modelled):
        raise UserError('nothing to propose from: give runs, --published, --modelled or --acceptance FILE')
    text, known = _present(args.file)
    new: dict[Key, Reference] = {}
    if args.published or args.modelled:
        new |= _published(args, known)
    if args.runs:
        new |= from_runs(group_runs(read_runs(args.runs)), args.precision)
    if args.acceptance:
        new |= from_promises(load_acceptance(args.acceptance), args.precision, _today())
    chosen, skipped = worth_proposing(new, known)
    for line in skipped:
        sys.stderr.write(f'mlperf-det: {printable(line)}\n')
    if not chosen:
        sys.stderr.write(f'mlperf-det: nothing to propose: {len(new)} value(s) found, all there or left out\n')
        return 0
    sys.stdout.write(diff(text, with_references(text, chosen, args.file), args.file))
    return 0


def _published(args: argparse.Namespace, known: References) -> dict[Key, Reference]:
    if not args.accelerator:
        raise UserError('--accelerator: needed for published values; `mlperf-det reference show` lists the names')
    benchmarks = args.benchmark or BENCHMARKS

    def of_others(*, modelled: bool) -> dict[Key, Reference]:
        return {key: reference for benchmark in benchmarks for key, reference in from_published(
            benchmark, args.accelerator, args.accelerators_per_node, args.nodes, args.precision,
            modelled=modelled).items()}

    found: dict[Key, Reference] = {}
    if args.modelled:
        # What this site measured, scaled, says more than the law alone; what was published for this size most of all.
        found = of_others(modelled=True) | from_measured(
            known, args.accelerator, args.accelerators_per_node, args.nodes, args.precision, benchmarks)
    found |= of_others(modelled=False)
    there = {(key[0], key[2]) for key in (*found, *(key for key, _ in known.items())) if key[1] == args.accelerator}
    hint = '' if args.modelled else '; --modelled fits a scaling law'
    for benchmark in benchmarks:
        missing = [str(nodes) for nodes in args.nodes if (benchmark, nodes) not in there]
        if missing:
            sys.stderr.write(f'mlperf-det: {benchmark}: no published value for {printable(args.accelerator)} on '
                             f'{", ".join(missing)} node(s) of {args.accelerators_per_node}{hint}\n')
    return found


def _present(path: Path) -> tuple[str, References]:
    if not path.exists():
        return '', parse_references({}, path)
    known = load_references(path)
    return path.read_text(encoding='utf-8'), known


def _lint(args: argparse.Namespace) -> int:
    problems: list[str] = []
    for path in args.files:
        problems += findings(load_references(path), _today())
    for line in problems:
        sys.stdout.write(printable(line) + '\n')
    return int(bool(problems))


def _action(actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
            text: str) -> argparse.ArgumentParser:
    return actions.add_parser(name, help=text, description=text)


def _counts(text: str) -> Iterable[int]:
    """Read ``1,2,4``."""
    if not all(part.isdecimal() and int(part) for part in text.split(',')):
        raise argparse.ArgumentTypeError(f'{text!r} is no list of node counts; write it as 1,2,4')
    return tuple(int(part) for part in text.split(','))


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date()
