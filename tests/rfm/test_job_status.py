"""States, exit codes and signals in words."""

from __future__ import annotations

import pytest

from mlperf_det.rfm.job_status import exit_problem, nodes_problem, signal_problem, state_problem


@pytest.mark.parametrize('state', [None, '', 'SUCCESS', 'COMPLETED', 'COMPLETED,COMPLETED'])
def test_good_states_are_no_problem(state: str | None) -> None:
    assert state_problem(state) is None


@pytest.mark.parametrize(('state', 'cause'), [
    ('TIMEOUT', 'the scheduler ended the job at its time limit (job state TIMEOUT)'),
    ('NODE_FAIL', 'a node of the job failed (job state NODE_FAIL)'),
    ('COMPLETED,OUT_OF_MEMORY', 'a process of the job ran out of memory (job state OUT_OF_MEMORY)'),
    ('SOMETHING_NEW', 'the job did not complete (job state SOMETHING_NEW)'),
])
def test_every_other_state_is_a_problem(state: str, cause: str) -> None:
    assert state_problem(state) == cause


@pytest.mark.parametrize(('code', 'cause'), [
    (3, 'training ended below the quality target (exit code 3)'), (42, 'the job failed (exit code 42)'),
    (137, 'killed by SIGKILL (exit code 137)'), (-15, 'killed by SIGTERM (exit code -15)'),
    (127, 'the command was not found (exit code 127)'), (255, 'the job failed (exit code 255)')])
def test_exit_codes(code: int, cause: str) -> None:
    assert exit_problem(code) == cause


def test_exit_code_zero_is_no_problem() -> None:
    assert exit_problem(0) is None


def test_signals_are_named() -> None:
    assert signal_problem(9) == 'the job script was killed by SIGKILL'


def test_nodes_are_counted_where_the_scheduler_names_them() -> None:
    assert nodes_problem(['a', 'b'], 2) is None
    assert nodes_problem(None, 2) is None
    assert nodes_problem(['a'], 2) == 'the job ran on 1 node(s), 2 were asked for (a)'
