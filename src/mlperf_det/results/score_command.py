"""``mlperf-det score``: score groups of MLPerf logs as MLPerf does and write one row a group."""

from __future__ import annotations

import argparse
import sys

from mlperf_det.mllog import command as logs_command
from mlperf_det.mllog.collection import collect
from mlperf_det.results.groups import group_runs
from mlperf_det.results.reading import runs_in
from mlperf_det.results.score import score_runs
from mlperf_det.results.score_table import COLUMNS, clusters_of_shared_runs, score_row
from mlperf_det.tables import csv_bytes, print_table, write_table

_SHORT = ('round', 'submitter', 'system', 'benchmark', 'n_converged', 'n_logs', 'score_minutes', 'olympic_epochs',
          'throughput_mean', 'no_score_because')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det score``."""
    logs_command.add_arguments(parser)
    parser.add_argument('--library', action='store_true',
                        help='also fill the library_* columns with the score and the convergence-point verdict of '
                             'mlperf-logging (seconds a group)')


def run(args: argparse.Namespace) -> int:
    """Score the groups and write the table; status 1 without any log, or by ``--strict`` without a score."""
    collection = collect(args.paths)
    groups = group_runs(runs_in(collection))
    scores = [score_runs(group.runs, collection.scaling_factor(group.folder)) for group in groups]
    clusters = clusters_of_shared_runs(groups)
    rows = [score_row(group, score, collection, cluster)
            for group, score, cluster in zip(groups, scores, clusters, strict=True)]
    if args.library:
        from mlperf_det.results.library_score import library_columns
        for group, row in zip(groups, rows, strict=True):
            row |= library_columns(group)
    if args.csv is None:
        print_table(_SHORT, rows, 'MLPerf scores')
    else:
        write_table(args.csv, csv_bytes(COLUMNS, rows))
    logs_command.report_problems(collection)
    if not rows:
        sys.stderr.write('mlperf-det: no log found; folders are searched for result_*.txt\n')
        return 1
    return int(args.strict and any(score.minutes is None for score in scores))
