"""Runs: what counts as converged, and that nothing else does."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlperf_det.errors import UserError
from mlperf_det.mllog.reader import EventReader
from mlperf_det.mllog.summary import summarize
from mlperf_det.results.reading import read_runs
from mlperf_det.results.run import Run, RunStatus
from mlperf_det.results.run_metrics import RunMetrics
from mlperf_det.results.status import judge_status
from mlperf_det.run_folder import Outcome
from tests.results.conftest import FolderMaker, event, log_text, metrics_text


def read_one(path: Path) -> Run:
    runs = read_runs([path])
    assert len(runs) == 1
    return runs[0]


def from_text(tmp_path: Path, text: str | bytes) -> Run:
    path = tmp_path / 'result_0.txt'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_one(path)


def test_a_good_run_folder(make_run: FolderMaker) -> None:
    run = read_one(make_run())
    assert (run.status, run.benchmark, run.model, run.tier) == (RunStatus.CONVERGED, 'ssd', 'ssd300', 'smoke')
    assert run.deviations == ('smoke tier', 'open division', 'random backbone')
    assert (run.time_to_train_seconds, run.epochs_to_target, run.samples, run.batch, run.seed) == (90, 3, 600, 16, 7)
    assert run.init_seconds == 20
    assert run.throughput.overall == pytest.approx(600 / 90)
    assert run.throughput.training == pytest.approx(600 / 72)
    assert run.throughput.steady == 8.8
    assert [(each.epoch, each.seconds, each.metrics['bbox']) for each in run.evaluations] == [
        (1, 30, 0.1), (2, 60, 0.25), (3, 90, 0.34)]
    assert (run.geometry.nodes, run.geometry.accelerators_per_node, run.geometry.accelerator) == (1, 2, 'cpu')
    assert (len(run.track), run.track[0].loss, len(run.ranks)) == (90, 9.0, 2)
    assert run.data_wait_share == pytest.approx(1 / 90)
    assert run.evaluation_seconds == pytest.approx(17)
    assert run.ranks[0].other == pytest.approx(12)
    assert run.forgiven == ()


def test_the_log_inside_a_run_folder_is_the_same_run(make_run: FolderMaker) -> None:
    folder = make_run()
    assert read_one(folder / 'result_0.txt').record == read_one(folder).record is not None


@pytest.mark.parametrize(('log', 'fields', 'status', 'words'), [
    (log_text(status=None), {}, RunStatus.INCOMPLETE, 'no run_stop: the run ended after epoch 3'),
    (log_text((), status=None), {}, RunStatus.INCOMPLETE, 'before the first evaluation'),
    (log_text((0.1, 0.29)), {}, RunStatus.ABORTED, 'claims success, but the last evaluation is bbox AP 0.2900'),
    (log_text(()), {}, RunStatus.ABORTED, 'no evaluation before run_stop'),
    (log_text((0.1, 0.2), status='aborted'), {'outcome': Outcome.ABORTED}, RunStatus.ABORTED, 'gave up'),
    (log_text(status='aborted'), {}, RunStatus.ABORTED, 'run.json says converged, but run_stop'),
    (log_text(status='abort'), {'outcome': Outcome.ABORTED}, RunStatus.ABORTED, 'gave up'),
    (log_text((0.35, 0.2)), {}, RunStatus.ABORTED, 'bbox AP 0.2000'),
    (log_text((0.35, 'NaN')), {}, RunStatus.ABORTED, 'NaN'),
    (log_text((float('nan'),)), {}, RunStatus.ABORTED, 'NaN'),
    (log_text((35.0,)), {}, RunStatus.ABORTED, '35.0000'),
    (log_text((0.1, 0.0), status='aborted'), {'outcome': Outcome.ABORTED}, RunStatus.DIVERGED, 'fell to'),
    (log_text((0.0, 0.0), status='aborted'), {'outcome': Outcome.ABORTED}, RunStatus.ABORTED, 'gave up'),
    (log_text(), {'outcome': Outcome.RUNNING}, RunStatus.INCOMPLETE, 'but run.json says running'),
    (log_text(), {'outcome': Outcome.FAILED, 'reason': 'boom'}, RunStatus.ABORTED, 'run.json says failed: boom'),
    (log_text(), {'outcome': Outcome.DIVERGED}, RunStatus.DIVERGED, 'not finite'),
    (log_text(seed=8), {}, RunStatus.ABORTED, 'seed is 7 and 8'),
    (log_text(), {'benchmark': 'retinanet'}, RunStatus.ABORTED, 'contradict each other: benchmark'),
    (log_text(), {'recipe': {'quality_target': {'bbox': 0.5}}}, RunStatus.ABORTED, 'target is bbox AP 0.5'),
    (log_text((0.1, 0.22), division='closed'), {'recipe': {'division': 'closed', 'quality_target': {'bbox': 0.1}}},
     RunStatus.ABORTED, 'target is bbox AP 0.23'),
    ('', {}, RunStatus.UNREADABLE, 'result_0.txt is missing'),
    ('no event here\n', {}, RunStatus.UNREADABLE, 'no MLPerf event'),
    (log_text().replace('"time_ms": 1760000000000, "key": "run_start"', '"time_ms": 1990000000000, "key": "run_start"'),
     {}, RunStatus.UNREADABLE, 'run_stop lies before run_start'),
])
def test_everything_else_is_not_converged(make_run: FolderMaker, log: str, fields: dict[str, Any], status: RunStatus,
                                          words: str) -> None:
    run = read_one(make_run(log=log, **fields))
    assert (run.status, run.converged) == (status, False)
    assert words in run.reason
    assert '\n' not in run.reason
    assert run.epochs_to_target is None


def test_a_loss_that_is_not_finite_means_diverged(make_run: FolderMaker) -> None:
    assert read_one(make_run(metrics=metrics_text(loss=None))).status is RunStatus.DIVERGED


def test_a_throughput_run_did_its_steps(make_run: FolderMaker) -> None:
    folder = make_run(log=log_text((), status='aborted'), outcome=Outcome.FINISHED, recipe={'tier': 'throughput'})
    run = read_one(folder)
    assert run.finished_steps
    assert not run.converged
    assert 'throughput tier' in run.deviations
    assert run.throughput.steady == 8.8


@pytest.mark.parametrize('content', [b'', b'{', b'\xff\xfe', b'{"schema_version": 99}', b'[1]', b'"x"', b'[' * 100_000,
                                     b'{"schema_version": 1, "benchmark": 3}'])
def test_a_broken_record_is_a_run_that_cannot_be_read(make_run: FolderMaker, content: bytes) -> None:
    folder = make_run()
    (folder / 'run.json').write_bytes(content)
    run = read_one(folder)
    assert run.status is RunStatus.UNREADABLE
    assert 'run.json' in run.reason


def test_broken_lines_of_metrics_are_forgiven_and_told(make_run: FolderMaker) -> None:
    run = read_one(make_run(metrics=metrics_text() + '{"kind": "step", "lo'))
    assert run.converged
    assert run.forgiven == ('metrics.jsonl: 1 line(s) that cannot be read left out',)


def test_the_last_of_several_runs_in_one_file_counts(tmp_path: Path) -> None:
    good, bad = log_text((0.1, 0.25)), log_text((0.1, 0.2), status='aborted')
    assert not from_text(tmp_path, good + bad).converged
    again = from_text(tmp_path, bad + good)
    assert again.converged
    assert again.time_to_train_seconds == 60
    assert any('several runs in one file' in noted for noted in again.forgiven)


def test_ranks_that_disagree_on_success_are_not_a_success(tmp_path: Path) -> None:
    assert from_text(tmp_path, log_text() + event('run_stop', seconds=90, status='success') + '\n').converged
    assert not from_text(tmp_path, log_text() + event('run_stop', seconds=91, status='aborted') + '\n').converged


def test_an_evaluation_after_the_end_does_not_count(tmp_path: Path) -> None:
    run = from_text(tmp_path, log_text((0.1, 0.2)) + event('eval_accuracy', 0.5, seconds=99, epoch_num=3) + '\n')
    assert not run.converged
    assert len(run.evaluations) == 2


def test_what_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='No such file'):
        read_runs([tmp_path / 'absent'])
    assert read_runs([tmp_path]) == []


def states_success_at_target(text: bytes) -> bool:
    """Judge by the rule itself, in the simplest way: parse every line and look."""
    accuracy, stopped = None, False
    for line in text.splitlines():
        try:
            fact = json.loads(line.partition(b':::MLLOG ')[2])
        except ValueError:
            continue
        if fact['key'] == 'eval_accuracy' and not stopped:
            accuracy = fact['value']
        elif fact['key'] == 'run_stop':
            stopped = fact['metadata'].get('status') == 'success'
    return stopped and accuracy is not None and accuracy >= 0.23


def test_truncation_at_every_byte_never_raises_nor_converges_early(tmp_path: Path) -> None:
    whole = log_text((0.1, 0.24)).encode()
    for length in range(len(whole)):
        summary = summarize(EventReader(io.BytesIO(whole[:length])), PurePath('result_0.txt'))
        status, _ = judge_status(summary, None, RunMetrics())
        assert (status is RunStatus.CONVERGED) == states_success_at_target(whole[:length]), length
    assert from_text(tmp_path, whole).converged


def in_older_form(round_name: str) -> bytes:
    """A converged log of v0.5 or v0.6."""
    events = [json.loads(line[9:]) for line in log_text((0.1, 0.24)).splitlines()]
    if round_name == 'v0.6':
        lines = [f':::MLL {each["time_ms"] / 1000:.3f} {each["key"]}: '
                 + json.dumps({'value': each['value'], 'metadata': each['metadata']}) for each in events]
    else:
        values = {'run_start': '', 'run_stop': ': {"success": true}', 'eval_accuracy': ': {"epoch": %d, "value": %s}'}
        lines = [f':::MLPv0.5.0 ssd {each["time_ms"] / 1000:.6f} (train.py:1) {each["key"]}'
                 + (values[each['key']] % (each['metadata']['epoch_num'], each['value'])
                    if each['key'] == 'eval_accuracy' else values[each['key']])
                 for each in events if each['key'] in values]
    return '\n'.join(lines).encode()


@pytest.mark.parametrize('round_name', ['v0.5', 'v0.6'])
def test_truncation_of_older_forms_at_every_byte(round_name: str) -> None:
    whole = in_older_form(round_name)
    for length in range(len(whole) + 1):
        summary = summarize(EventReader(io.BytesIO(whole[:length])), PurePath('result_0.txt'))
        status, _ = judge_status(summary, None, RunMetrics())
        assert (status is RunStatus.CONVERGED) == (length == len(whole)), length
    assert (summary.round, summary.seconds, summary.epochs) == (round_name, 60, 2)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), accuracies=st.lists(st.sampled_from([0.0, 0.1, 0.24, 0.9]), max_size=3),
       status=st.sampled_from(['success', 'aborted', None]), ranks=st.integers(1, 3))
def test_random_interleavings_of_ranks(tmp_path_factory: pytest.TempPathFactory, seed: int, accuracies: list[float],
                                       status: str | None, ranks: int) -> None:
    shuffler = random.Random(seed)
    streams = [log_text(accuracies, status=status).splitlines() for _ in range(ranks)]
    merged = []
    while any(streams):
        rank = shuffler.choice([number for number, stream in enumerate(streams) if stream])
        merged.append(f'{rank}: {streams[rank].pop(0)}')
        if shuffler.random() < 0.1:
            merged[-1] = merged[-1][:shuffler.randrange(len(merged[-1]))]
    run = from_text(tmp_path_factory.mktemp('interleaved'), '\n'.join(merged))
    if run.converged:
        assert status == 'success'
        assert any(accuracy >= 0.23 for accuracy in accuracies)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), ranks=st.integers(2, 8), status=st.sampled_from(['success', 'aborted', None]))
def test_ranks_in_step_say_what_one_says(tmp_path_factory: pytest.TempPathFactory, seed: int, ranks: int,
                                         status: str | None) -> None:
    """Each event comes from some of the ranks, in any order, with other output between and glued before."""
    shuffler = random.Random(seed)
    folder = tmp_path_factory.mktemp('ranks')
    text = log_text((0.1, 0.24), status=status)
    merged = ''
    for line in text.splitlines():
        for rank in shuffler.sample(range(ranks), shuffler.randint(1, ranks)):
            merged += shuffler.choice(['', '', ' 50%|###  |\r', 'loss 0.3\n', '\x1b[0m']) + f'{rank}: {line}'
            merged += shuffler.choice(['\n', '\r\n'])
    one, many = from_text(folder, text), from_text(folder, merged)
    assert (many.status, many.time_to_train_seconds, many.epochs_to_target, many.final_metrics, many.seed) == (
        one.status, one.time_to_train_seconds, one.epochs_to_target, one.final_metrics, one.seed)
    assert [(each.epoch, each.seconds) for each in many.evaluations] == [
        (each.epoch, each.seconds) for each in one.evaluations]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400))
def test_arbitrary_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp('bytes')
    for name in ('result_0.txt', 'run.json', 'metrics.jsonl', 'system.json', 'scaling.json'):
        (folder / name).write_bytes(content)
    assert not any(run.converged for run in read_runs([folder]))
