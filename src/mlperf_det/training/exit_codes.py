"""Exit status of ``mlperf-det train``. Imports no torch."""

from __future__ import annotations

from enum import IntEnum

from mlperf_det.run_folder import Outcome


class ExitCode(IntEnum):
    """What the status of the training process means; ``torchrun`` turns every status but 0 into 1."""

    OK = 0                  # converged, or did the steps it was asked for
    FAILED = 1              # an error; the traceback is in rank_<r>.log and on stderr
    USAGE = 2               # bad arguments, recipe or data; one line on stderr
    TARGET_MISSED = 3       # ended below the quality target: out of epochs, or hopeless
    DIVERGED = 4            # a loss was not finite
    INTERRUPTED = 75        # told to stop, checkpoint written: start again with --resume (EX_TEMPFAIL of sysexits.h)


EXIT_CODES = {
    Outcome.CONVERGED: ExitCode.OK,
    Outcome.FINISHED: ExitCode.OK,
    Outcome.ABORTED: ExitCode.TARGET_MISSED,
    Outcome.DIVERGED: ExitCode.DIVERGED,
    Outcome.INTERRUPTED: ExitCode.INTERRUPTED,
    Outcome.FAILED: ExitCode.FAILED,
}
