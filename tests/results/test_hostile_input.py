"""Input that means harm or went wrong: clear errors or safe handling, nothing executed, memory bounded."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlperf_det.cli import main
from mlperf_det.results import rules
from mlperf_det.results.judging import judge_all
from mlperf_det.results.verdict import State
from tests.results.conftest import FolderMaker, log_text, run_measured

MEGABYTE = 1 << 20
#: size of the huge logs; `MLPERF_DET_HUGE_MB=2048 pytest tests/results/test_hostile_input.py -k huge` is the real thing
HUGE = int(os.environ.get('MLPERF_DET_HUGE_MB', '200'))


def huge_log(path: Path, separator: bytes) -> None:
    """Write a sound log of `HUGE` megabytes with noise in it, in lines or as one line."""
    head, _, tail = log_text().rpartition(':::MLLOG')
    with path.open('wb') as stream:
        stream.write(head.encode())
        for _ in range(HUGE):
            stream.write(b'x' * (MEGABYTE - 1) + (separator or b'x'))
        stream.write(b'\n:::MLLOG' + tail.encode())


@pytest.mark.slow
@pytest.mark.parametrize('command', ['logs', 'verdict', 'report'])
@pytest.mark.parametrize('separator', [b'', b'\n'])
def test_a_huge_log_and_a_huge_line_take_little_memory(tmp_path: Path, separator: bytes, command: str) -> None:
    log = tmp_path / 'result_0.txt'
    huge_log(log, separator)
    assert log.stat().st_size > HUGE * MEGABYTE
    words = {'report': ['-o', str(tmp_path / 'out'), '--evidence'], 'logs': ['--csv', str(tmp_path / 'logs.csv')]}
    assert run_measured(command, str(log), *words.get(command, [])).mebibytes < 180
    if command == 'report':
        assert (tmp_path / 'out' / 'report.html').stat().st_size < MEGABYTE


@pytest.mark.slow
def test_a_small_archive_of_a_huge_line_takes_little_memory(tmp_path: Path) -> None:
    """A few hundred kilobytes that unpack to `HUGE` megabytes."""
    with gzip.open(tmp_path / 'result_0.txt.gz', 'wb', compresslevel=1) as stream:
        stream.write(log_text().encode())
        for _ in range(HUGE):
            stream.write(b'x' * MEGABYTE)
    assert run_measured('logs', str(tmp_path), '--csv', str(tmp_path / 'logs.csv')).mebibytes < 180
    assert ',success,' in (tmp_path / 'logs.csv').read_text()


def test_a_log_too_large_for_the_checker_is_a_finding(make_run: FolderMaker, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    make_run('runs/run_0', recipe={'division': 'closed', 'ruleset': '1.1.0'}, log=log_text(division='closed'))
    monkeypatch.setattr(rules, 'LARGEST_CHECKED_BYTES', 1000)
    verdict, = judge_all([tmp_path / 'runs']).verdicts
    assert verdict.state is State.FAIL_QUALITY
    assert 'no training log, not checked' in verdict.cause


def test_a_tree_of_loops_and_pipes_ends(make_run: FolderMaker, tmp_path: Path) -> None:
    folder = make_run('runs/run_0')
    (folder / 'loop').symlink_to(tmp_path / 'runs', target_is_directory=True)
    (folder / 'self').symlink_to('self')
    os.mkfifo(folder / 'result_1.txt')
    assert [verdict.state for verdict in judge_all([tmp_path / 'runs']).verdicts].count(State.PASS) == 1


def test_names_of_systems_reach_no_file_system_and_no_terminal(make_run: FolderMaker, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    name = '../../\x1b]0;owned\x07</script><script>alert(1)</script>'
    make_run('runs/run_0', recipe={'name': name}, log=log_text(platform=name))
    for command in (['logs'], ['score'], ['verdict'], ['verdict', '--json'],
                    ['report', '-o', str(tmp_path / 'out'), '--evidence', '--thaisc', '4'],
                    ['history', 'list'], ['history', 'export', '--csv', '-'], ['history', 'regressions']):
        words = [command[0], *command[1:2]] if command[0] == 'history' else [command[0]]
        assert main([*words, str(tmp_path / 'runs'), *command[len(words):]]) == 0
        out, err = capsys.readouterr()
        if '--csv' not in command:
            assert '\x1b' not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'runs']
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert page.count('<script>') == 1
    assert '\x1b' not in page


@pytest.mark.parametrize('content', [
    b'\xff\xfe\x00', b'a: &a [*a]', b'&a [' + b'[' * 5000, b'promises: !!python/name:os.system', b'? {a: 1}\n: 2',
    b'promises:\n  - {benchmark: ssd, accelerator: cpu, nodes: 1e9999, accelerators_per_node: 1, runs: 1}',
    json.dumps({'promises': [{'benchmark': ['ssd']}]}).encode()])
def test_a_hostile_acceptance_or_references_file_is_one_line(make_run: FolderMaker, tmp_path: Path, content: bytes,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    make_run('runs/run_0')
    path = tmp_path / 'file.yaml'
    path.write_bytes(content)
    for option in ('--acceptance', '--references'):
        assert main(['verdict', str(tmp_path / 'runs'), option, str(path)]) == 2
        err = capsys.readouterr().err
        assert err.count('\n') == 1
        assert 'file.yaml' in err


def test_a_yaml_file_of_gigabytes_is_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'file.yaml'
    with path.open('wb') as stream:
        stream.truncate(4 << 30)
    assert main(['reference', 'lint', str(path)]) == 2
    assert 'is larger than 2 MiB' in capsys.readouterr().err


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=6) |
                    st.sampled_from([10**400, -10**400, 1e300]) |
                    st.sampled_from(['success', 'closed', 'ssd', 'retinanet', '1', '-0.5', 'NaN', '1e999']),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(['BBOX', 'SEGM', 'value', 'epoch', 'accuracy', 'status', 'success', 'x']),
                        inner, max_size=3), max_leaves=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(changes=[(12, 'time_ms', 10**400)], own=False)
@example(changes=[(15, 'time_ms', -10**400), (17, 'epoch_num', 10**400)], own=True)
@example(changes=[(17, 'value', 10**400), (6, 'value', 10**400)], own=False)
@example(changes=[(14, 'throughput', 10**400), (9, 'value', 10**400)], own=True)
@given(changes=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(
    ['value', 'time_ms', 'metadata', 'key', 'epoch_num', 'first_epoch_num', 'epoch_count', 'status', 'throughput',
     'step', 'loss']), JSON), min_size=1, max_size=6), own=st.booleans())
def test_values_of_any_type_stop_no_station(make_run: FolderMaker, tmp_path: Path,
                                            changes: list[tuple[int, str, object]], own: bool) -> None:
    """Events whose fields hold anything that JSON can say go through logs, score, verdict and history."""
    events = [json.loads(line[9:]) for line in log_text().splitlines()]
    for number, name, value in changes:
        event = events[number % len(events)]
        if name in event:
            event[name] = value
        else:
            place = 'value' if name in ('throughput', 'loss') else 'metadata'
            event[place] = {**event[place], name: value} if isinstance(event[place], dict) else {name: value}
    text = ''.join(f':::MLLOG {json.dumps(event)}\n' for event in events)
    folder = tmp_path / 'v3.1' / 'Sub' / 'sys' / 'ssd'
    shutil.rmtree(tmp_path / 'v3.1', ignore_errors=True)
    if own:
        make_run('v3.1/Sub/sys/ssd', log=text)
    else:
        folder.mkdir(parents=True)
        (folder / 'result_0.txt').write_text(text)
    for words in (['logs', '--csv', str(tmp_path / 'a.csv')], ['score', '--csv', str(tmp_path / 'b.csv')],
                  ['logs'], ['history', 'list']):
        action = words[:2] if words[0] == 'history' else words[:1]
        assert main([*action, str(tmp_path / 'v3.1'), *words[len(action):]]) in (0, 1)
    verdict, = judge_all([tmp_path / 'v3.1']).verdicts
    if verdict.state is State.PASS:
        logged = [json.dumps(event['value']) for event in events if event['key'] == 'eval_accuracy']
        assert any(float(number) >= 0.23 for number in re.findall(r'\d+(?:\.\d+)?(?:e-?\d+)?', ''.join(logged[-1:])))
