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
====  =====================================================================================

``make run`` is ``mlperf-det accept``: the smoke tier and preflight on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from mlperf_det.errors import UserError
from mlperf_det.rfm.junit import write_junit
from mlperf_det.run_folder import RUN_JSON
from mlperf_det.share import share_path

#: Results of a case in ReFrame's report with which ReFrame itself is content; 'skip' is apart.
GOOD_RESULTS = ('pass', 'xfail')
#: Seconds between asking ReFrame to stop and killing it.
GRACE_SECONDS = 20


class Verdict(IntEnum):
    """The exit status of a session; see the table above."""

    PASSED = 0
    FAILED = 1
    UNUSABLE = 2
    NOTHING_RAN = 3
    SKIPPED = 4
    OUT_OF_TIME = 5


@dataclass(frozen=True, kw_only=True)
class Session:
    """A ReFrame session after its end.

    Attributes:
        status: exit status of ReFrame; None: it was ended for time.
        cases: test cases of its last run, as in ReFrame's JSON report; None: there is no report.
        dry_run: ReFrame rendered the job scripts only.
    """

    status: int | None
    cases: Sequence[Mapping[str, Any]] | None
    dry_run: bool = False


def judge(session: Session) -> tuple[Verdict, str]:
    """Return the verdict of a session and one line that names the cause."""
    if session.status is None:
        return Verdict.OUT_OF_TIME, 'the session ran out of time and was ended; --timeout gives it more'
    if session.cases is None:
        if session.status == 0:
            return Verdict.NOTHING_RAN, 'nothing ran: no case matches the selection; `reframe -l` lists what there is'
        return Verdict.UNUSABLE, f'ReFrame exited with status {session.status} before any case ran; its output says why'
    bad = [case for case in session.cases if case.get('result') not in (*GOOD_RESULTS, 'skip')]
    if bad:
        # Dependents of a failed fixture say only that a dependency failed: name the fixture first.
        bad.sort(key=lambda case: case.get('result') != 'fail')
        others = f' (and {len(bad) - 1} more)' if len(bad) > 1 else ''
        return Verdict.FAILED, _cause(bad[0]) + others
    skipped = [case for case in session.cases if case.get('result') == 'skip']
    if skipped:
        return Verdict.SKIPPED, f'{len(skipped)} of {len(session.cases)} cases were skipped: {_cause(skipped[0])}'
    ran = [case for case in session.cases if not case.get('fixture')]
    if not ran:
        return Verdict.NOTHING_RAN, 'nothing ran: the session has no case besides fixtures'
    if session.status != 0:
        return Verdict.FAILED, f'ReFrame exited with status {session.status} though no case failed; its output says why'
    if session.dry_run:
        return Verdict.PASSED, f'{len(ran)} cases were rendered, none was run (dry run)'
    expected = sum(case.get('result') == 'xfail' for case in ran)
    note = f', {expected} of them fail as expected' if expected else ''
    return Verdict.PASSED, f'{len(ran)} cases ran and passed{note}'


def run_reframe(arguments: Sequence[str], *, report: Path, timeout_minutes: float | None) -> Session:
    """Run ReFrame with these arguments and return how it ended.

    Args:
        arguments: those of the ``reframe`` command, without the report file.
        report: where ReFrame puts its JSON report; an older one is removed first.
        timeout_minutes: when to end the session; its jobs are cancelled. None: never.
    """
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [reframe_command(), *arguments, f'--report-file={report}']
    process = subprocess.Popen(command)
    status: int | None
    try:
        status = process.wait(None if timeout_minutes is None else timeout_minutes * 60)
    except subprocess.TimeoutExpired:
        _end(process)
        status = None
    except KeyboardInterrupt:
        _end(process)
        raise
    return Session(status=status, cases=read_cases(report), dry_run='--dry-run' in arguments)


def read_cases(report: Path) -> list[dict[str, Any]] | None:
    """Return the cases of the last run in a ReFrame report; None where there is no report or it has no run.

    Raises:
        UserError: the report is not one.
    """
    try:
        # Not msgspec: ReFrame writes NaN and Infinity, which are no JSON.
        content = json.loads(report.read_bytes())
        runs = content['runs']
        return list(runs[-1]['testcases']) if runs and runs[-1]['testcases'] else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{report}: is not a report of ReFrame ({error})') from error


def run_folders(cases: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Return the run folders of the cases: in the output folder of a good one, in the stage folder of a failed one."""
    found: list[Path] = []
    for case in cases:
        places = [Path(str(case[key])) for key in ('outputdir', 'stagedir') if case.get(key)]
        folders = [sorted(path.parent for path in place.glob(f'*/{RUN_JSON}')) for place in places]
        found += next((each for each in folders if each), [])
    return found


def reframe_command() -> str:
    """Return the ``reframe`` program of this Python, else the one on the path.

    Raises:
        UserError: there is none.
    """
    beside = Path(sys.executable).parent / 'reframe'
    command = str(beside) if beside.is_file() else shutil.which('reframe')
    if command is None:
        raise UserError('reframe: not found; install mlperf-det into this Python (`pip install mlperf-det`)')
    return command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('-C', '--config-file', action='append', type=Path, metavar='FILE',
                        help='ReFrame configuration of the site (default: systems/local/site.py)')
    parser.add_argument('-c', '--checkpath', action='append', type=Path, metavar='PATH',
                        help='check files or folders (default: checks/)')
    parser.add_argument('-o', '--output', type=Path, default=Path('out'), metavar='DIR',
                        help='where stage, output, logs and the report go (default: out)')
    parser.add_argument('--timeout', type=float, metavar='MINUTES', help='end the session after so long')
    parser.add_argument('--junit', type=Path, metavar='FILE', help='write the cases with their metrics as JUnit')
    parser.add_argument('--no-report', action='store_true', help='leave out the report of the training runs')
    parser.add_argument('reframe_arguments', nargs='*', metavar='-- ARGUMENT',
                        help='further arguments of reframe, e.g. -- -t smoke -S recipe_overrides=epochs=3')


def run(args: argparse.Namespace) -> int:
    """Run, judge and report."""
    out: Path = args.output.absolute()
    configuration = args.config_file or [share_path('systems') / 'local' / 'site.py']
    checks = args.checkpath or [share_path('checks')]
    report = out / 'reframe-report.json'
    colour = [] if sys.stdout.isatty() else ['--nocolor']
    action = [] if '--dry-run' in args.reframe_arguments else ['--run']
    session = run_reframe(
        [*(f'--config-file={path}' for path in configuration), *(f'--checkpath={path}' for path in checks),
         f'--prefix={out}', f'--perflogdir={out / "perflogs"}', '--warn-as-error', *colour, *action,
         *args.reframe_arguments],
        report=report, timeout_minutes=args.timeout)
    verdict, cause = judge(session)
    if args.junit:
        write_junit(args.junit, session.cases or [])
    folders = run_folders(session.cases or [])
    page = None if args.no_report or not folders else write_report(folders, out / 'report')
    if verdict is Verdict.PASSED and folders and page is None and not args.no_report:
        verdict, cause = Verdict.FAILED, 'the checks passed, but their report could not be written'
    _say(f'{"PASSED" if verdict is Verdict.PASSED else "NOT PASSED"}: {cause}')
    if page:
        _say(f'report: {page}')
    return int(verdict)


def write_report(folders: Sequence[Path], destination: Path) -> Path | None:
    """Write the report of run folders and return its page; None where that failed (the reason is on stderr)."""
    for stale in destination.glob('*.html'):
        stale.unlink()
    command = [sys.executable, '-m', 'mlperf_det', 'report', *map(str, folders), '-o', str(destination)]
    # Its status is the verdict on the runs, so the page itself shows whether it was written.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    return next(iter(sorted(destination.glob('*.html'))), None)


def _cause(case: Mapping[str, Any]) -> str:
    reason = ' '.join(str(case.get('fail_reason') or 'no reason is on record').split())
    kind = 'fixture ' if case.get('fixture') else ''
    return f'{kind}{case.get("display_name") or case.get("name")}: {reason}'


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt ReFrame, which then cancels its jobs; kill it where it does not listen."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _say(line: str) -> None:
    sys.stdout.write(line + os.linesep)
    sys.stdout.flush()
