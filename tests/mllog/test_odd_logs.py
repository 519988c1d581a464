"""Facts of a log do not depend on how it reached the file: oddities of real logs, put into sound ones."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

import pytest
from mlperf_logging.compliance_checker.mlp_parser import parse_file

from mlperf_det.mllog.collection import Collection, Log
from mlperf_det.mllog.reader import EventReader, read_events
from mlperf_det.mllog.summary import LogSummary, summarize
from mlperf_det.mllog.table import log_row, published_place
from tests.results.conftest import START_MS, event, log_text

TOKEN = re.compile(rb':::ML')
NOISE = (b' 45%|####      | 12/27 [00:01<00:02,  7.5it/s]\r', b'\x1b[0;31mwarning\x1b[0m\n', b'\xe2\x96\x88\xe2\x96\n',
         b'\x00\x00\x00\n', b'{"event_type": "POINT_IN_TIME"\n', b':::MLLOG\n', b'see :::MLPv0.5.0 for details\n',
         b'Average Recall (AR) @[ IoU=0.50:0.95 ] = 0.000', b'0: node1:77:99 [3] NCCL INFO', b'^[[A^[[B', b'\xff\xfe\n')


def noisy(content: bytes) -> bytes:
    """Put noise before one token in four; whatever has no line end of its own is glued to the token."""
    chance = random.Random(len(content))
    return TOKEN.sub(lambda token: (chance.choice(NOISE) if chance.random() < 0.25 else b'') + token[0], content)


def of_two_ranks(content: bytes) -> bytes:
    """Let a second rank say everything as well, a line later."""
    return b''.join(b'0: ' + line + b'1: ' + line for line in content.splitlines(keepends=True))


#: what may happen to a log on its way
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    'task labels': lambda text: re.sub(rb'(?m)^', b' 3: ', text),
    'MPI labels': lambda text: re.sub(rb'(?m)^', b'[1,0]<stdout>:', text),
    'time stamps': lambda text: re.sub(rb'(?m)^', b'2023-05-01T12:00:00.000Z stdout F ', text),
    'CR LF': lambda text: re.sub(rb'\r?\n', b'\r\n', text),
    'CR': lambda text: re.sub(rb'\r?\n', b'\r', text),
    'empty lines': lambda text: re.sub(rb'\r?\n', b'\n\n \n', text),
    'byte-order mark': lambda text: b'\xef\xbb\xbf' + text,
    'UTF-16': lambda text: text.decode('latin-1').encode('utf-16'),
    'no newline at the end': lambda text: text.rstrip(),
    'noise': noisy,
    'words at the end': lambda text: text.rstrip() + b'\nslurmstepd: error: *** JOB 1 CANCELLED ***\n:::MLLOG {"time_m',
}


def summary_of(content: bytes, path: PurePath) -> LogSummary:
    return summarize(EventReader(io.BytesIO(content)), path)


def facts(summary: LogSummary) -> str:
    # As text: a NaN is not equal to itself.
    return repr(dataclasses.replace(summary, forgiven=()))


def published_samples(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The smallest log of each submitter, benchmark and round."""
    for archive in sorted(folder.glob('*.tar.xz')):
        with tarfile.open(archive) as members:
            smallest: dict[tuple[str, str], tarfile.TarInfo] = {}
            for member in members:
                parts = member.name.split('/')
                if member.name.endswith('.txt'):
                    key = (parts[1], parts[3])
                    smallest[key] = min(smallest.get(key, member), member, key=lambda each: each.size)
            for member in smallest.values():
                stream = members.extractfile(member)
                assert stream is not None
                if member.size < 250_000:
                    yield member.name, stream.read()


@pytest.mark.shared
@pytest.mark.slow
def test_published_logs_say_the_same_in_every_guise(shared_data: Path) -> None:
    samples = list(published_samples(shared_data / 'mlperf-logs'))
    assert len({name.split('/')[0] for name, _ in samples}) == 13
    for name, content in samples:
        plain = summary_of(content, PurePath(name))
        for change, apply in CHANGES.items():
            assert facts(summary_of(apply(content), PurePath(name))) == facts(plain), (name, change)
        twice = summary_of(of_two_ranks(content), PurePath(name))
        for figure in ('seconds', 'init_seconds', 'status', 'target_reached', 'epochs', 'samples', 'seeds',
                       'seed_count', 'train_seconds', 'train_epochs', 'round', 'model', 'hyperparameters',
                       'runs_in_file'):
            assert getattr(twice, figure) == getattr(plain, figure), (name, figure)


@pytest.mark.shared
@pytest.mark.slow
def test_published_logs_have_the_events_of_the_official_parser(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / 'result_0.txt'
    for name, content in published_samples(shared_data / 'mlperf-logs'):
        if (ruleset := f'{name.partition("/")[0][1:]}.0') == '0.5.0':
            continue    # a form that it does not know
        path.write_bytes(content)
        lines, problems = parse_file(str(path), ruleset=ruleset)
        assert not problems
        unit = 1000 if ruleset == '0.6.0' else 1    # v0.6 logs seconds, and it leaves them
        assert [(found.key, round(float(found.time_ms), 3), repr(found.value), found.metadata or {})
                for found in read_events(path)] == [
            (line.key, round(line.timestamp * unit, 3), repr(line.value.get('value')), line.value.get('metadata') or {})
            for line in lines], name


@pytest.mark.parametrize('change', CHANGES)
def test_made_up_logs_say_the_same_in_every_guise(change: str) -> None:
    content = log_text().encode()
    path = PurePath('v1.1/Sub/sys/ssd/result_0.txt')
    assert facts(summary_of(CHANGES[change](content), path)) == facts(summary_of(content, path))


@pytest.mark.parametrize(('old', 'new'), [
    ('"epoch_num": 3', '"epoch_num": 3.0'), ('"epoch_num": 3', '"epoch_num": "3"'),
    ('"seed", "event_type"', '"seed", "x"'),
    ('"value": 0.34', '"value": "0.34"'), ('"value": 0.34', '"value": {"epoch": 3, "value": 0.34}'),
    ('"value": 0.34', '"value": {"BBOX": 0.34}'), ('"value": 0.34', '"value": {"accuracy": 0.34}'),
    ('"value": 0.34', '"value": [0.34]'), ('"value": 7', '"value": "7"'),
    (f'"time_ms": {START_MS + 90_000}, "key": "run_stop"', f'"time_ms": "{START_MS + 90_000}", "key": "run_stop"'),
    (f'"time_ms": {START_MS + 90_000}, "key": "run_stop"', f'"time_ms": {START_MS + 90_000}.0, "key": "run_stop"'),
    ('"status": "success"', '"status": "SUCCESS"'), ('"status": "success"', '"status": {"success": "true"}'),
    ('"status": "success"', '"status": {"success": true}'),
    ('"value": null, "metadata": {"status": "success"}', '"value": {"success": true}, "metadata": null'),
    ('"metadata": {"epoch_num": 3}', '"metadata": {"epoch_num": 3, "x": NaN}')])
def test_the_same_fact_in_another_spelling(old: str, new: str) -> None:
    text, path = log_text(), PurePath('result_0.txt')
    assert old in text
    other = summary_of(text.replace(old, new).encode(), path)
    for figure in ('seconds', 'status', 'target_reached', 'epochs', 'samples', 'throughput', 'seeds', 'init_seconds'):
        assert getattr(other, figure) == getattr(summary_of(text.encode(), path), figure), figure


def test_programs_that_print_python_instead_of_json() -> None:
    v05 = (":::MLPv0.5.0 ssd 1541710000.5 (/a (b)/train.py:371) run_start\n"
           ":::MLPv0.5.0 ssd 1541711222.7 (train.py:333) eval_accuracy: {'epoch': 54, 'value': 0.2124}\n"
           ":::MLPv0.5.0 ssd 1541711300.5 (train.py:333) run_stop: {'success': True}\n")
    summary = summary_of(v05.encode(), PurePath('result_0.txt'))
    assert (summary.round, summary.model, summary.status, summary.target_reached, summary.seconds) == (
        'v0.5', 'ssd300', 'success', True, 1300)
    lines = [f':::MLLOG {json.loads(line[9:])!r}' for line in log_text().splitlines()]
    printed = summary_of('\n'.join(lines).encode(), PurePath('result_0.txt'))
    assert facts(printed) == facts(summary_of(log_text().encode(), PurePath('result_0.txt')))
    assert 'a Python literal instead of JSON' in printed.forgiven[0]


@pytest.mark.parametrize('literal', ["__import__('os').system('true')", '(' * 5000 + '1' + ')' * 5000, '-' * 8000 + '1',
                                     "{'key': 'run_stop', 'time_ms': open('/etc/passwd')}", '[' * 8000, "'" * 7999])
def test_what_looks_like_python_is_not_run(literal: str) -> None:
    for form in (':::MLLOG ', ':::MLL 1.0 run_stop: ', ':::MLPv0.5.0 ssd 1.0 (a:1) other: '):
        reader = EventReader(io.BytesIO(f'{form}{literal}\n'.encode()))
        assert all(isinstance(found.value, str) for found in reader)


def test_a_rank_whose_run_start_comes_late_begins_no_second_run() -> None:
    lines = log_text().splitlines()
    start = event('run_start', seconds=0.2)
    for place in (len(lines) - 1, len(lines) - 5, 15):
        summary = summary_of('\n'.join([*lines[:place], f'1: {start}', *lines[place:]]).encode(), PurePath('r'))
        assert (summary.runs_in_file, summary.status, summary.seconds, summary.epochs) == (1, 'success', 90, 3), place
    again = event('run_start', seconds=95)
    assert summary_of('\n'.join([*lines, again]).encode(), PurePath('r')).runs_in_file == 2


@pytest.mark.parametrize(('path', 'place'), [
    ('v3.1/Sub/sys/ssd', ('v3.1', 'Sub', 'sys', 'ssd')),
    ('/x/training_results_v3.1/Sub/results/sys/ssd', ('v3.1', 'Sub', 'sys', 'ssd')),
    ('/x/training_results_v4.0-main/Sub/results/sys/ssd', ('v4.0', 'Sub', 'sys', 'ssd')),
    ('/x/training_results_v0.5/v0.5.0/google/results/sys/ssd', ('v0.5', 'google', 'sys', 'ssd')),
    ('/x/v0.6/Google/results/tpu-v3-32/mask', ('v0.6', 'Google', 'tpu-v3-32', 'mask')),
    ('/v1.0/x/v3.1/Sub/v2.0/ssd', ('v3.1', 'Sub', 'v2.0', 'ssd')),
    ('/v1.0/x/v3.1/Sub/results/v2.0/ssd', ('v3.1', 'Sub', 'v2.0', 'ssd')),
    ('/x/Sub/sys/ssd', None), ('v3.1/Sub/sys/bert', None), ('ssd', None)])
def test_places_in_published_trees(path: str, place: tuple[str, ...] | None) -> None:
    assert published_place(PurePath(path) / 'result_0.txt') == place


def test_a_tree_is_recognised_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'v1.1' / 'Sub' / 'sys' / 'ssd'
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    summary = summary_of(log_text().encode(), Path('result_0.txt'))
    row = log_row(Log(path=Path('result_0.txt'), summary=summary), Collection())
    assert [row[name] for name in ('round', 'submitter', 'system', 'benchmark')] == ['v1.1', 'Sub', 'sys', 'ssd']
