"""``mlperf-det report``: write report.html and the tables beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.results.evidence import write_evidence
from mlperf_det.results.judging import Judged, judge_all
from mlperf_det.results.junit import junit_xml
from mlperf_det.results.report.page import Options, Theme, build_report
from mlperf_det.results.summary import RUN_COLUMNS, run_facts
from mlperf_det.results.thaisc import benchmark_result, thaisc_score
from mlperf_det.results.verdict import not_run, overall
from mlperf_det.results.verdict_command import add_run_arguments
from mlperf_det.results.verdict_table import print_verdicts, summary_json
from mlperf_det.run_folder import write_atomically
from mlperf_det.tables import csv_bytes, printable

REPORT, RUNS, SUMMARY, JUNIT, EVIDENCE = 'report.html', 'runs.csv', 'summary.json', 'junit.xml', 'evidence.zip'
#: what ThaiSC's procurement asks for, written with ``--thaisc``
BENCHMARK_RESULT = 'benchmark_result.txt'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mlperf-det report``."""
    add_run_arguments(parser)
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR',
                        help=f'folder for {REPORT}, {RUNS}, {SUMMARY} and {JUNIT}; made if absent')
    parser.add_argument('--title', help='headline of the page (default: by its theme)')
    parser.add_argument('--theme', choices=[theme.value for theme in Theme], default=Theme.ACCEPTANCE.value,
                        help='acceptance: verdicts first; nightly: regressions first; vendor: own systems only')
    parser.add_argument('--vendor', metavar='NAME',
                        help='with --theme vendor: leave out published results of any other submitter')
    parser.add_argument('--thaisc', type=_nodes, metavar='NODES',
                        help=f"add ThaiSC's tables, projected to this number of nodes, and {BENCHMARK_RESULT}")
    parser.add_argument('--evidence', action='store_true',
                        help=f'write {EVIDENCE} too: logs, records and tables with checksums')


def run(args: argparse.Namespace) -> int:
    """Judge the runs and write the report; status 1 when there is no run at all.

    The verdict does not change the status: `mlperf-det verdict` is for that.
    """
    judged = judge_all(args.runs, args.references, acceptance_file=args.acceptance, published_rules=args.rules)
    theme = Theme(args.theme)
    if (theme is Theme.VENDOR) != bool(args.vendor):
        raise UserError('--theme vendor and --vendor NAME belong together; give both or neither')
    if args.vendor:
        judged = of_vendor(judged, args.vendor)
    options = Options(title=args.title or f'{theme.value.capitalize()} report', theme=theme, thaisc_nodes=args.thaisc)
    files = [path for path in (args.references, args.acceptance) if path]
    page = write_report(judged, args.output, options, evidence=files if args.evidence else None)
    print_verdicts(judged, as_json=args.json)
    (sys.stderr if args.json else sys.stdout).write(
        f'{overall(judged.verdicts).value}: {printable(str(page.resolve()))}\n')
    return int(not judged.groups)


def of_vendor(judged: Judged, vendor: str) -> Judged:
    """Return what concerns one vendor: runs of our own, and published ones that it submitted."""
    kept = [(group, verdict) for group, verdict in zip(judged.groups, judged.verdicts, strict=False)
            if all(run.record is not None or run.submitter.casefold() == vendor.casefold() for run in group.runs)]
    rest = list(judged.verdicts[len(judged.groups):])
    verdicts = [verdict for _, verdict in kept] + rest or [not_run(f'no run of {vendor}')]
    return Judged(groups=[group for group, _ in kept], verdicts=verdicts, findings=judged.findings,
                  energies=judged.energies)


def write_report(judged: Judged, folder: Path, options: Options, *,
                 evidence: Sequence[Path] | None = None) -> Path:
    """Write the files and return the path of the page.

    Args:
        judged: what the report is about.
        folder: made if absent.
        options: of the page.
        evidence: also write the archive of evidence, with these files in it; None: without.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    runs = [run for group in judged.groups for run in group.runs]
    tables = {RUNS: csv_bytes(RUN_COLUMNS, (run_facts(run, judged.energies) for run in runs)), JUNIT: junit_xml(judged),
              SUMMARY: summary_json(judged)}
    if options.thaisc_nodes:
        scores = [score for group in judged.groups if (score := thaisc_score(group))]
        tables[BENCHMARK_RESULT] = benchmark_result(scores).encode('utf-8', 'backslashreplace')
    tables[REPORT] = build_report(judged, options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in tables.items():
            write_atomically(folder / name, content)
        if evidence is not None:
            write_evidence(folder / EVIDENCE, judged.groups, {
                **tables, **{f'{path.name}': path.read_bytes() for path in evidence}})
    except OSError as error:
        raise UserError(f'{folder}: cannot be written ({error.strerror}); name another folder with -o') from error
    return folder / REPORT


def _nodes(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of nodes; write one of at least 1')
    return int(text)
