"""A session of ReFrame as a process: start it, end it in time, and read what its report says of each case."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.reframe_sessions import Case, read_sessions

#: Seconds between asking ReFrame to stop and killing it.
GRACE_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Session:
    """A ReFrame session after its end.

    Attributes:
        status: exit status of ReFrame; None: it was ended for time.
        cases: each test case as it ended last; None: there is no report.
        overcome: failures of cases that ended better when they were run again.
        dry_run: ReFrame rendered the job scripts only.
    """

    status: int | None
    cases: Sequence[Case] | None
    overcome: Sequence[Case] = ()
    dry_run: bool = False


def run_reframe(arguments: Sequence[str], *, report: Path, timeout_minutes: float | None) -> Session:
    """Run ReFrame with these arguments and return how it ended.

    Args:
        arguments: those of the ``reframe`` command, without the report file.
        report: where ReFrame puts its JSON report; an older one is removed first.
        timeout_minutes: when to end the session; its jobs are cancelled. None: never.

    Raises:
        KeyboardInterrupt: this process was told to end, by whatever signal; the session ended, its jobs are cancelled.
    """
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = [reframe_command(), *arguments, f'--report-file={report}']
    status: int | None
    with _interrupted_by(signal.SIGTERM, signal.SIGHUP):
        # In a session of its own: a terminal would interrupt it as well, and once more while it cancels its jobs.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            status = process.wait(None if timeout_minutes is None else timeout_minutes * 60)
        except subprocess.TimeoutExpired:
            _end(process)
            status = None
        except KeyboardInterrupt:
            _end(process)
            raise
    cases, overcome = read_cases(report)
    return Session(status=status, cases=cases or None, overcome=overcome, dry_run='--dry-run' in arguments)


def read_cases(report: Path) -> tuple[list[Case], list[Case]]:
    """Return each case of a ReFrame report as it ended last, and the failures that a later run overcame.

    Retries and further runs of the session follow the first in the report. Without a report there is no case.

    Raises:
        UserError: the report is not one.
    """
    if not report.is_file():
        return [], []
    return next(read_sessions(report)).outcomes()


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


@contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Let signals interrupt as Ctrl-C does: who only dies of them, as of a time limit in CI, leaves jobs behind."""
    def interrupt(*_signal: object) -> None:
        raise KeyboardInterrupt
    # A signal that is ignored, as under nohup, stays ignored.
    before = {each: signal.getsignal(each) for each in signals if signal.getsignal(each) == signal.SIG_DFL}
    for each in before:
        signal.signal(each, interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt ReFrame, which then cancels its jobs; kill it where it does not listen."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
