"""The ``mlperf-det`` command: one table of subcommands, each imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mlperf_det import __version__
from mlperf_det.errors import UserError
from mlperf_det.tables import printable


class Command(NamedTuple):
    """A subcommand: the module that has ``add_arguments(parser)`` and ``run(args) -> int``, and its help line."""

    module: str
    help: str


COMMANDS = {
    'accept': Command('mlperf_det.rfm.accept', 'run the checks and the report, with telling exit codes'),
    'lint': Command('mlperf_det.rfm.lint_systems', 'find contradictions in the folder of a site'),
    'new-site': Command('mlperf_det.rfm.new_site', 'write the folder of a site from what Slurm and the devices say'),
    'sbatch': Command('mlperf_det.rfm.sbatch_command', 'write, or submit, the job script of a recipe without ReFrame'),
    'self-test': Command('mlperf_det.rfm.self_test', 'use everything once that training needs'),
    'train': Command('mlperf_det.benchmarks.train_command', 'train a benchmark to its quality target'),
    'data': Command('mlperf_det.data.command', 'download, prepare, verify or generate a dataset'),
    'recipe': Command('mlperf_det.recipes.command', 'list, show or import recipes'),
    'evaluate': Command('mlperf_det.evaluation.command', 'score a COCO result file'),
    'logs': Command('mlperf_det.mllog.command', 'read MLPerf logs: one row a log'),
    'score': Command('mlperf_det.results.score_command', 'score groups of MLPerf logs: one row a group'),
    'verdict': Command('mlperf_det.results.verdict_command', 'judge runs: one line and an exit code'),
    'report': Command('mlperf_det.results.report.command', 'write the report of runs'),
    'reference': Command('mlperf_det.results.references.command', 'show, propose or check reference values'),
    'history': Command('mlperf_det.results.history_command', 'list, show, compare or export recorded runs'),
    'submission': Command('mlperf_det.results.submission_command', 'write an MLPerf-shaped submission tree'),
}

_EPILOG = """to begin:
  mlperf-det accept                    train reduced models on this machine, judge them, write out/report/report.html
  mlperf-det new-site mysite           describe this cluster in systems/mysite/
  mlperf-det verdict RUN...            judge run folders, published results or a ReFrame session
  mlperf-det COMMAND --help            what a command takes

Exit status 2: bad arguments or files; one line names the file, the field and the fix."""


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the subcommand that ``argv`` names gets its arguments (and its imports)."""
    parser = argparse.ArgumentParser(
        prog='mlperf-det', description='Acceptance tests for GPU clusters: MLPerf detection training.',
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_EPILOG)
    parser.add_argument('--version', action='version', version=f'mlperf-det {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND')
    named = next((word for word in argv if not word.startswith('-')), None)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if name == named:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit status; a `UserError` becomes one line and status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = build_parser(words)
        args = parser.parse_args(words)
        if args.command is None:
            parser.print_help(sys.stderr)
            return 2
        return int(args.run(args))
    except UserError as error:
        sys.stderr.write(f'mlperf-det: error: {printable(str(error))}\n')
        return 2
    except KeyboardInterrupt:
        sys.stderr.write('mlperf-det: interrupted\n')
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python must not fail again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == '__main__':
    sys.exit(main())
