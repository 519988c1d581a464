"""Run the checks through ReFrame, judge the session as a whole, and write the report of its training runs.

ReFrame exits 0 when nothing was selected, when every case was skipped, and when a check file could not be loaded. Here
each of these has an exit status of its own:

====  =====================================================================================
0     every selected case ran and passed
1     a case or a fixture failed
2     bad arguments, or ReFrame itself could not start
3     nothing ran: no case was selected, or no check could be loaded
4     cases were skipped, none failed
5     the session ran out of time and was ended
6     degraded: every case passed, but one only when it was run again, or one fails as
      expected, or the verdict on the runs is PASS-SLOW or UNSTABLE
130   told to end, by Ctrl-C or from outside; its jobs are cancelled
====  =====================================================================================

``make run`` is ``mlperf-det accept``: the smoke tier and preflight on this machine. ``--mode`` names the occasion:
``nightly``, ``acceptance`` or ``vetting``.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.reframe_sessions import Case
from mlperf_det.results.judging import judge_all
from mlperf_det.results.verdict import State, overall
from mlperf_det.rfm.folder_lock import take
from mlperf_det.rfm.junit import write_junit
from mlperf_det.rfm.session import Session, run_reframe
from mlperf_det.share import share_path
from mlperf_det.tables import printable

#: Beside site.py; `mlperf_det.rfm.site` would import ReFrame for the name.
REFERENCES_FILE = 'references.yaml'


class Verdict(IntEnum):
    """The exit status of a session; see the table above."""

    PASSED = 0
    FAILED = 1
    UNUSABLE = 2
    NOTHING_RAN = 3
    SKIPPED = 4
    OUT_OF_TIME = 5
    DEGRADED = 6


def judge(session: Session) -> tuple[Verdict, str]:
    """Return the verdict of a session and one line that names the cause."""
    if session.status is None:
        return Verdict.OUT_OF_TIME, 'the session ran out of time and was ended; --timeout gives it more'
    if session.cases is None:
        if session.status == 0:
            return Verdict.NOTHING_RAN, 'nothing ran: no case matches the selection; `reframe -l` lists what there is'
        return Verdict.UNUSABLE, f'ReFrame exited with status {session.status} before any case ran; its output says why'
    bad = [case for case in session.cases if case.is_bad]
    if not bad and session.status != 0:
        # ReFrame forgives what was retried, and does not forgive what failed in one of several runs.
        bad = list(session.overcome)
    if bad:
        # Dependents of a failed fixture say only that a dependency failed: name the fixture first.
        bad.sort(key=lambda case: case.result != 'fail')
        others = f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''
        return Verdict.FAILED, _cause(bad[0]) + others
    skipped = [case for case in session.cases if case.result == 'skip']
    if skipped:
        return Verdict.SKIPPED, f'{len(skipped)} of {len(session.cases)} cases were skipped: {_cause(skipped[0])}'
    ran = [case for case in session.cases if not case.fixture]
    if not ran:
        return Verdict.NOTHING_RAN, 'nothing ran: the session has no case besides fixtures'
    if session.status != 0:
        return Verdict.FAILED, f'ReFrame exited with status {session.status} though no case failed; its output says why'
    if session.dry_run:
        return Verdict.PASSED, f'{len(ran)} cases were rendered, none was run (dry run)'
    if session.overcome:
        return Verdict.DEGRADED, f'passed only when it was run again: {_cause(session.overcome[0])}'
    expected = [case for case in ran if case.result == 'xfail']
    if expected:
        names = ', '.join(case.title for case in expected)
        return Verdict.DEGRADED, f'{len(expected)} of {len(ran)} cases fail as expected: {names}'
    return Verdict.PASSED, f'{len(ran)} cases ran and passed'


def judge_runs(cases: Sequence[Case], references: Path | None) -> tuple[Verdict, str]:
    """Return what the runs themselves say, though every check was content: the bands inside the limits.

    Args:
        cases: those that were held against references are judged; the others say why they needed none.
        references: the site's.
    """
    folders = run_folders(needing_references(cases))
    verdicts = judge_all(folders, references).verdicts if folders else []
    state = overall(verdicts) if verdicts else State.PASS
    if state is State.PASS:
        return Verdict.PASSED, ''
    worst = next(verdict for verdict in verdicts if verdict.state is state)
    return Verdict.DEGRADED if state in (State.PASS_SLOW, State.UNSTABLE) else Verdict.FAILED, worst.line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__.partition('\n\n')[2].replace('``', '`')
    parser.add_argument('-C', '--config-file', action='append', type=Path, metavar='FILE',
                        help='ReFrame configuration of the site (default: systems/local/site.py)')
    parser.add_argument('-c', '--checkpath', action='append', type=Path, metavar='PATH',
                        help='check files or folders (default: checks/)')
    parser.add_argument('--mode', metavar='NAME', help='the occasion: nightly, acceptance, vetting, or one of the site')
    parser.add_argument('-o', '--output', type=Path, default=Path('out'), metavar='DIR',
                        help='where stage, output, logs and the report go (default: out)')
    parser.add_argument('--timeout', type=_minutes, metavar='MINUTES', help='end the session after so long')
    parser.add_argument('--junit', type=Path, metavar='FILE', help='write the cases with their metrics as JUnit')
    parser.add_argument('--no-report', action='store_true', help='leave out the report of the training runs')
    parser.add_argument('reframe_arguments', nargs='*', metavar='-- ARGUMENT',
                        help='further arguments of reframe, e.g. -- -t smoke -S recipe_overrides=epochs=3')


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 < (minutes := float(text)) < math.inf:
            return minutes
    raise argparse.ArgumentTypeError(f'{text} is no number of minutes')


def run(args: argparse.Namespace) -> int:
    """Run, judge and report."""
    if args.junit:
        _clear(args.junit)
    wanted = args.output.absolute()
    # Held until the end: a second session in the same place gets the next folder.
    out, lock = take(wanted)
    with lock:
        if out != wanted:
            _say(f'{wanted}: another session is at work there; this one uses {out}')
        verdict, cause, page = _accept(args, out)
    _say(f'{verdict.name if verdict in (Verdict.PASSED, Verdict.DEGRADED) else "NOT PASSED"}: {cause}')
    if page:
        _say(f'report: {page}')
    return int(verdict)


def _clear(junit: Path) -> None:
    """Remove the file of an earlier session, which would stand for this one if it ended early; make its folder.

    Raises:
        UserError: it cannot be written; better now than when the session is over.
    """
    try:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.touch()
        junit.unlink()
    except OSError as error:
        raise UserError(f'--junit {junit}: cannot be written ({error.strerror})') from error


def _accept(args: argparse.Namespace, out: Path) -> tuple[Verdict, str, Path | None]:
    """Return the verdict, its cause, and the page of the report (None: there is none)."""
    configuration = args.config_file or [share_path('systems') / 'local' / 'site.py']
    checks = args.checkpath or [share_path('checks')]
    report = out / 'reframe-report.json'
    colour = [] if sys.stdout.isatty() else ['--nocolor']
    action = [] if '--dry-run' in args.reframe_arguments else ['--run']
    mode = [f'--mode={args.mode}'] if args.mode else []
    session = run_reframe(
        [*(f'--config-file={path}' for path in configuration), *(f'--checkpath={path}' for path in checks),
         f'--prefix={out}', f'--perflogdir={out / "perflogs"}', '--warn-as-error', *colour, *action, *mode,
         *args.reframe_arguments],
        report=report, timeout_minutes=args.timeout)
    cases = session.cases or []
    own = (path.parent / REFERENCES_FILE for path in reversed(configuration))
    references = next((file for file in own if file.is_file()), None)
    verdict, cause = judge(session)
    if verdict is Verdict.PASSED:
        of_runs = judge_runs(cases, references)
        verdict, cause = (verdict, cause) if of_runs[0] is Verdict.PASSED else of_runs
    wanted = not args.no_report and bool(run_folders(cases))
    held = run_folders(needing_references(cases))
    page = write_report(report, out / 'report', references if held else None) if wanted else None
    if verdict is Verdict.PASSED and wanted and page is None:
        verdict, cause = Verdict.FAILED, 'the checks passed, but their report could not be written'
    if args.junit:
        write_junit(args.junit, cases, verdict=verdict.name, cause=cause,
                    red=verdict not in (Verdict.PASSED, Verdict.DEGRADED, Verdict.SKIPPED))
    return verdict, cause, page


def run_folders(cases: Sequence[Case]) -> list[Path]:
    """Return the run folders that the cases left, in their order."""
    return [folder for case in cases for folder in case.run_folders]


def needing_references(cases: Sequence[Case]) -> list[Case]:
    """Return the cases that were to be held against references."""
    return [case for case in cases if not case.reference_not_needed]


def write_report(session: Path, destination: Path, references: Path | None) -> Path | None:
    """Write the report of a session and return its page; None where that failed (the reason is on stderr).

    Args:
        session: ReFrame's own report. A case that failed without leaving a run is in the page, too.
        destination: folder of the page.
        references: what the runs are held against.
    """
    for stale in destination.glob('*.html'):
        stale.unlink()
    command = [sys.executable, '-m', 'mlperf_det', 'report', str(session), '-o', str(destination),
               *([f'--references={references}'] if references else [])]
    # Its status is the verdict on the runs, so the page itself shows whether it was written.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return next(iter(sorted(destination.glob('*.html'))), None)


def _cause(case: Case) -> str:
    return f'{"fixture " if case.fixture else ""}{case.title}: {case.reason}'


def _say(line: str) -> None:
    sys.stdout.write(printable(line) + os.linesep)
    sys.stdout.flush()
