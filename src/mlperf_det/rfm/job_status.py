"""How a batch job ended, in words: what a scheduler's state, an exit code or a signal means for the run."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType

#: States in which a scheduler says that nothing went wrong (local: SUCCESS; Slurm, PBS, Flux: COMPLETED).
GOOD_STATES = frozenset({'SUCCESS', 'COMPLETED'})

#: Slurm books most of these with exit code 0:0 (sacct(1), "JOB STATE CODES").
_STATES: Mapping[str, str] = MappingProxyType({
    'TIMEOUT': 'the scheduler ended the job at its time limit',
    'DEADLINE': 'the job missed its deadline',
    'NODE_FAIL': 'a node of the job failed',
    'BOOT_FAIL': 'a node of the job did not boot',
    'OUT_OF_MEMORY': 'a process of the job ran out of memory',
    'PREEMPTED': 'the job was preempted',
    'REVOKED': 'the job was revoked by its cluster',
    'CANCELLED': 'the job was cancelled',
    'FAILED': 'the job failed',
    'FAILURE': 'the job failed',
})

#: Exit codes of ``mlperf-det train``.
_EXIT_CODES: Mapping[int, str] = MappingProxyType({
    1: 'the training program failed',
    2: 'the training program refused its input',
    3: 'training ended below the quality target',
    4: 'training diverged: a loss was not finite',
    75: 'training was interrupted before its end',
    126: 'the command could not be executed',
    127: 'the command was not found',
})


def state_problem(state: str | None) -> str | None:
    """Return what is wrong with a scheduler state; None where it is a good one.

    Args:
        state: as ReFrame keeps it: one word, or several with commas for an array; None: the scheduler tells none.
    """
    for word in (state or '').split(','):
        if word and word not in GOOD_STATES:
            return f'{_STATES.get(word, "the job did not complete")} (job state {word})'
    return None


def exit_problem(code: int) -> str | None:
    """Return what an exit code of a shell or of ``mlperf-det train`` means; None for 0."""
    if code == 0:
        return None
    number = -code if code < 0 else code - 128
    if code < 0 or 128 < code < 128 + signal.NSIG:
        return f'killed by {_signal_name(number)} (exit code {code})'
    return f'{_EXIT_CODES.get(code, "the job failed")} (exit code {code})'


def signal_problem(number: int) -> str:
    """Return what it means that the job script itself was ended by a signal."""
    return f'the job script was killed by {_signal_name(number)}'


def nodes_problem(nodes: Sequence[str] | None, expected: int) -> str | None:
    """Return what is wrong with the nodes of a job; None where their number is right or the scheduler names none."""
    if not nodes or len(nodes) == expected:
        return None
    return f'the job ran on {len(nodes)} node(s), {expected} were asked for ({", ".join(nodes)})'


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'
