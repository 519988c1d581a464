"""Input that means harm or went wrong: clear errors or safe handling, nothing executed, memory bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results import rules
from mlperf_det.results.judging import judge_all
from mlperf_det.results.verdict import State
from tests.results.conftest import FolderMaker, log_text

MEGABYTE = 1 << 20


# Not getrusage: its figure begins with what the process that forked this one had.
PEAK = '''import pathlib, re, sys
from mlperf_det.cli import main
status = main(sys.argv[1:])
print(int(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1]) / 1024)
sys.exit(status)
'''


def peak_megabytes(*words: str) -> float:
    """Largest resident memory of ``mlperf-det`` with these words, which must succeed."""
    done = subprocess.run([sys.executable, '-c', PEAK, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('separator', [b'', b'\n'])
def test_a_huge_log_and_a_huge_line_take_little_memory(tmp_path: Path, separator: bytes) -> None:
    log = tmp_path / 'result_0.txt'
    head, _, tail = log_text().rpartition(':::MLLOG')
    with log.open('wb') as stream:
        stream.write(head.encode())
        for _ in range(400):
            stream.write(b'x' * (MEGABYTE - 1) + (separator or b'x'))
        stream.write(b'\n:::MLLOG' + tail.encode())
    size = log.stat().st_size / MEGABYTE
    assert size > 400
    assert peak_megabytes('report', str(log), '-o', str(tmp_path / 'out'), '--evidence') < 300
    assert (tmp_path / 'out' / 'report.html').stat().st_size < MEGABYTE


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
    for command in (['verdict'], ['report', '-o', str(tmp_path / 'out'), '--evidence', '--thaisc', '4'],
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
    assert 'is larger than 16 MiB' in capsys.readouterr().err
