"""What goes wrong on a cluster ends red, with the cause named; and a requeued job goes on where it was stopped."""

from __future__ import annotations

import pytest

from mlperf_det.mllog.reader import read_events

#: Trains until something else ends it: no evaluation before epoch 60.
ENDLESS = 'epochs=60 evaluation_interval=60'


@pytest.mark.slow
def test_a_requeued_job_resumes_from_its_checkpoint(suite, cluster) -> None:
    session = suite.train(requeue='true', recipe_overrides='epochs=12 evaluation_interval=6')
    job = session.job()
    session.wait_until_trained(2)
    cluster.run('scontrol', 'requeue', job)
    case = session.only_case()
    assert case.result == 'pass', case.reason
    first, second = case.record.attempts
    assert 'SIGTERM' in first.reason
    assert second.resumed_from_step >= 2 * 24
    assert case.record.environment['SLURM_RESTART_COUNT'] == '1'
    epochs = [event.meta('epoch_num') for event in read_events(case.folder / 'run_0' / case.record.log)
              if event.key == 'epoch_start']
    assert epochs == sorted(set(epochs)), 'an epoch was logged twice'


@pytest.mark.slow
def test_a_node_that_dies_is_red(suite, cluster) -> None:
    session = suite.train(recipe_overrides=ENDLESS)
    job = session.job()
    session.wait_until_trained(1)
    cluster.kill_node('n2')
    try:
        case = session.only_case()
    finally:
        cluster.start_node('n2')
    assert cluster.accounting(job)['State'] == 'NODE_FAIL'
    assert cluster.accounting(job)['ExitCode'] == '0:0', 'what ReFrame alone would let pass'
    assert case.result == 'fail'
    assert 'a node of the job failed (job state NODE_FAIL)' in case.reason


@pytest.mark.slow
def test_a_time_limit_is_red(suite, cluster) -> None:
    session = suite.train(recipe_overrides=ENDLESS, time_limit='1m')
    case = session.only_case()
    assert cluster.accounting(case.job)['State'] == 'TIMEOUT'
    assert cluster.accounting(case.job)['ExitCode'] == '0:0', 'what ReFrame alone would let pass'
    assert case.result == 'fail'
    assert 'the scheduler ended the job at its time limit (job state TIMEOUT)' in case.reason


@pytest.mark.slow
def test_a_cancelled_job_is_red(suite, cluster) -> None:
    session = suite.train(recipe_overrides=ENDLESS)
    job = session.job()
    cluster.run('scancel', job)
    case = session.only_case()
    assert cluster.accounting(job)['State'].startswith('CANCELLED')
    assert case.result == 'fail'
    assert 'the job was cancelled (job state CANCELLED)' in case.reason


def test_a_submission_that_slurm_refuses_is_red(suite) -> None:
    case = suite.train('ssd', '-J', 'gres=gpu:5').only_case()
    assert case.result == 'fail'
    assert 'Requested node configuration is not available' in case.reason


def test_a_job_that_waits_too_long_is_red(suite, cluster) -> None:
    cluster.run('scontrol', 'update', 'nodename=n2', 'state=drain', 'reason=maintenance')
    try:
        case = suite.train(max_pending_time='5s').only_case()
    finally:
        cluster.run('scontrol', 'update', 'nodename=n2', 'state=resume')
    assert case.result == 'fail'
    # By its age, or before that because ReFrame knows the reason for which it waits as a hopeless one.
    assert 'job was cancelled (job state CANCELLED)' in case.reason or 'ReqNodeNotAvail' in case.reason
