"""``mlperf-det train``: train a benchmark to its quality target, alone or as one rank of torchrun or srun.

Exit status: 0 converged or did its steps, 1 failed, 2 usage, 3 target missed, 4 diverged, 75 interrupted (resume).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlperf_det.recipes.load import BENCHMARKS, find_recipe, override

EPILOG = """exit status:
  0   converged, or did the steps it was asked for     3   out of epochs below the quality target
  1   failed; traceback in rank_<r>.log                4   a loss was not finite
  2   usage                                            75  told to stop (SIGTERM, SIGUSR1); continue with --resume
torchrun turns every status but 0 into 1: the outcome is in run.json.

several ranks: torchrun --nproc-per-node 4 -m mlperf_det train ..., or srun -n 4 mlperf-det train ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; imports no torch."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument('benchmark', choices=sorted(BENCHMARKS))
    what = parser.add_argument_group('what is trained')
    what.add_argument('--recipe', required=True, metavar='NAME', help='see `mlperf-det recipe list`')
    what.add_argument('--system', metavar='SITE', help='look the recipe up in systems/SITE/recipes.yaml')
    what.add_argument('--recipes', type=Path, metavar='FILE', help='look the recipe up in this file')
    what.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', dest='assignments',
                      help='change a recipe field, e.g. runtime.precision=fp32; repeatable')
    what.add_argument('--data', type=Path, required=True, metavar='DIR', help='folder of the prepared dataset')
    what.add_argument('--backbone', type=Path, metavar='FILE', help='backbone weights (`mlperf-det data backbone`)')
    what.add_argument('--seed', type=_seed, help='0 to 4294967295; drawn when left out')
    where = parser.add_argument_group('where it goes')
    where.add_argument('--output', type=Path, required=True, metavar='DIR', help='run folder; new or empty')
    where.add_argument('--experiment', type=_count, default=0, metavar='N', help='writes result_N.txt (default 0)')
    where.add_argument('--resume', action='store_true',
                       help='continue the run in --output; starts it where the folder is empty')
    how = parser.add_argument_group('on which machine')
    how.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto', help='cuda includes ROCm')
    how.add_argument('--backend', choices=('auto', 'gloo', 'nccl'), default='auto', help='of the gradient exchange')
    how.add_argument('--rank-timeout', type=float, default=600.0, metavar='SECONDS',
                     help='most that one rank waits for another (default 600)')
    log = parser.add_argument_group('what the MLPerf log says')
    log.add_argument('--cache-cleared', action='store_true',
                     help='log cache_clear: you have cleared the page cache on every node just before')
    log.add_argument('--submission-org', default='unknown', metavar='NAME')
    log.add_argument('--submission-platform', default='unknown', metavar='NAME')


def run(args: argparse.Namespace) -> int:
    """Train; see `EPILOG` for the status."""
    recipe = override(find_recipe(args.benchmark, args.recipe, system=args.system, file=args.recipes),
                      args.assignments)
    from mlperf_det.benchmarks.registry import build_task
    from mlperf_det.training.attempt import RunOptions
    from mlperf_det.training.run import run_training
    from mlperf_det.training.run_log import Submission
    return run_training(
        lambda checked: build_task(checked, args.data, args.backbone), recipe,
        RunOptions(output=args.output, experiment=args.experiment, seed=args.seed, resume=args.resume,
                   device=args.device, backend=args.backend, cache_cleared=args.cache_cleared,
                   rank_timeout=args.rank_timeout, command=tuple(sys.argv),
                   submission=Submission(org=args.submission_org, platform=args.submission_platform)))


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f'{number} is negative')
    return number


def _seed(text: str) -> int:
    number = _count(text)
    if number >= 2**32:
        raise argparse.ArgumentTypeError(f'{number} does not fit 32 bits')
    return number
