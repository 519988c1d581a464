"""The plugin that keeps a check from passing by accident; every check of this suite has it.

ReFrame by itself lets a test pass whose job exited non-zero, whose job Slurm ended for time or a lost node (booked
0:0), whose metric could not be extracted, or whose metric has no reference. Here each of these is a failure that
begins with its cause. Nothing of this applies to a dry run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reframe as rfm
import reframe.utility.typecheck as typ
from reframe.core.builtins import run_after, run_before, variable
from reframe.core.exceptions import SanityError

from mlperf_det.errors import UserError
from mlperf_det.rfm import job_status

#: Written by the job script at its very end; its absence means that the script was cut short.
EXIT_STATUS = 'job_exit_status'


class NoSilentPass(rfm.RegressionTestPlugin):
    """Closes ReFrame's ways to pass by accident.

    A check that has it may set

    =============================  ==================================================================
    ``num_nodes``                  nodes that the job must run on (default 1)
    ``metrics_required``           names of the metrics that must come out
    ``metrics_without_reference``  names of those that inform and are held against nothing
    ``reference_not_needed``       why no metric needs a reference in this run; recorded with the
                                   results. Empty: each must have one
    =============================  ==================================================================
    """

    if TYPE_CHECKING:
        # Attributes of every ReFrame test, which its typing does not show.
        prerun_cmds: list[str]
        postrun_cmds: list[str]
        num_cpus_per_task: int | None
        time_limit: str | float | None

    #: Nodes of the job.
    #:
    #: :type: :class:`int`
    num_nodes = variable(int, value=1, loggable=True)

    #: Metrics that the check must report, by name.
    #:
    #: :type: :class:`List[str]`
    metrics_required = variable(typ.List[str], value=[])

    #: Why metrics need no reference in this run. Empty: a metric without a reference is a failure.
    #:
    #: :type: :class:`str`
    reference_not_needed = variable(str, value='', loggable=True)

    #: Metrics that inform and need no reference.
    #:
    #: :type: :class:`List[str]`
    metrics_without_reference = variable(typ.List[str], value=[])

    @run_before('run', always_last=True)
    def no_silent_pass_record_exit_status(self) -> None:
        """Let the job script itself write down how its commands ended, whatever the scheduler books."""
        self.postrun_cmds = [
            'status=$?',
            *self.no_silent_pass_status(),
            '# Remember the first failure: later commands must not hide it.',
            '[ "${exit_status:-0}" -ne 0 ] || exit_status=$status',
            *self.postrun_cmds,
            f'echo "$exit_status" > {EXIT_STATUS}',
            'exit "$exit_status"',
        ]

    @run_before('sanity')
    def no_silent_pass_require_a_good_end(self) -> None:
        """Fail where the job was cut short, ended non-zero or ran on other nodes than asked for."""
        if self.is_dry_run():
            return
        problem = self._no_silent_pass_job_problem()
        if problem:
            # Said once: the program may state the same cause, with more to it.
            detail = self.no_silent_pass_explain().removeprefix(problem.partition(' (')[0]).removeprefix(': ')
            raise SanityError(f'{problem}{f": {detail}" if detail else ""} (see {self._no_silent_pass_path("stderr")})')

    def no_silent_pass_status(self) -> list[str]:
        """Return script lines that correct ``$status`` where the command itself cannot tell; checks override it."""
        return []

    def no_silent_pass_is_judged(self, status: int) -> bool:
        """Say whether the sanity function itself judges what ended with this exit status; checks override it."""
        return False

    def no_silent_pass_explain(self) -> str:
        """Return the cause of a failed job in the program's own words; checks override it."""
        return last_line(self._no_silent_pass_path('stderr'))

    @run_after('performance', always_last=True)
    def no_silent_pass_require_all_metrics(self) -> None:
        """Fail where a metric is missing, not finite, or has nothing to be held against."""
        if self.is_dry_run():
            return
        found = {key.rsplit(':', 1)[-1]: value for key, value in self.perfvalues.items()}
        for name in sorted({*self.metrics_required, *self.perf_variables}):
            if name not in found:
                raise SanityError(f'metric {name} is missing: {self._no_silent_pass_extraction_error(name)}')
            value, _, low, high, unit, _ = found[name]
            if not math.isfinite(value):
                raise SanityError(f'metric {name} is {value} {unit}, not a finite number')
            needs_reference = not self.reference_not_needed and name not in self.metrics_without_reference
            if low is None and high is None and needs_reference:
                raise SanityError(f'metric {name} has no reference for {self.current_partition.fullname}: '
                                  f'it measured {value:g} {unit}, which nothing was held against')

    def _no_silent_pass_job_problem(self) -> str | None:
        job = self.job
        problem = job_status.state_problem(job.state)
        signal = getattr(job, 'signal', None)
        if signal is not None:
            problem = job_status.signal_problem(signal)
        # The code that the script wrote says more than the state FAILED.
        written = self._no_silent_pass_written_status()
        code = job.exitcode if written is None else written
        if code:
            generic = signal is None and (problem is None or job.state in ('FAILED', 'FAILURE'))
            judged = written is not None and self.no_silent_pass_is_judged(written)
            problem = problem if not generic else None if judged else job_status.exit_problem(code)
        if problem is None and written is None:
            problem = f'the job script was cut short: it never wrote {EXIT_STATUS}'
        return problem or job_status.nodes_problem(job.nodelist, self.num_nodes)

    def _no_silent_pass_written_status(self) -> int | None:
        try:
            return int((Path(self.stagedir) / EXIT_STATUS).read_text())
        except (OSError, ValueError):
            return None

    def _no_silent_pass_extraction_error(self, name: str) -> str:
        if name not in self.perf_variables:
            return 'the check declares it as required but does not measure it'
        try:
            value = self.perf_variables[name].evaluate()
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the reason to report)
            return str(error) or type(error).__name__
        return f'it evaluates to {value!r} now, but could not be evaluated when it was due'

    def _no_silent_pass_path(self, stream: str) -> Path:
        name: Any = self.job.stderr if stream == 'stderr' else self.job.stdout
        return Path(self.stagedir) / str(name)


def refuse_late_settings(fixture: Any, *names: str) -> None:
    """Refuse ``-S CHECK.FIXTURE.VARIABLE`` of a check that was loaded after its fixture was made for another one.

    ReFrame makes a shared fixture with the first check file that needs it, sets variables file by file, and loads files
    in the order in which the folder lists them: it would go on with the value before.

    Raises:
        UserError: there is such a variable.
    """
    kind = type(fixture)
    for name in names:
        if getattr(fixture, name) != getattr(kind, name):
            raise UserError(f'{name} was set for one check, but checks share this fixture, and another check had it '
                            f'first; use -S {kind.__name__}.{name}=...')


def last_line(path: Path) -> str:
    """Return the last line of a text file that says something; empty where there is none."""
    try:
        lines = path.read_text(errors='replace').splitlines()
    except OSError:
        return ''
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
