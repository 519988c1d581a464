"""Sessions that start together in one folder keep out of each other's way: real ReFrame, real locks."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.rfm import folder_lock
from mlperf_det.rfm.folder_lock import take

CHECKOUT = Path(__file__).resolve().parents[2]
#: A job that fails where another session takes its folder away; both sessions must be at it at the same time.
CHECKS = '''
import reframe as rfm
from reframe.core.builtins import sanity_function
from mlperf_det.rfm.no_silent_pass import NoSilentPass
from mlperf_det.rfm.own_folders import OwnFolders


@rfm.simple_test
class case(rfm.RunOnlyRegressionTest, NoSilentPass, OwnFolders):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    local = True
    executable = 'sh'
    executable_opts = ['-c', "'echo $PPID > mine; "
                             "until [ $(ls $MEETING | wc -l) = 2 ]; do touch $MEETING/$PPID; sleep 0.1; done; sleep 1; "
                             "test $(cat mine) = $PPID'"]
    keep_files = ['mine']

    @sanity_function
    def nothing_to_ask(self):
        return True
'''


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / 'reframe', '-c', folder / 'checks.py', '-r', '--nocolor',
         f'--report-file={folder}/report-{time.monotonic_ns()}.json', *arguments],
        cwd=folder, env={**os.environ, 'MEETING': str(folder / 'meeting'), 'HOME': str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize('system', ['', 'local', 'dgx-a100', 'primergy-gx2460:docker', 'tara'])
def test_two_sessions_at_once_both_pass_and_keep_their_results(tmp_path: Path, system: str) -> None:
    (tmp_path / 'checks.py').write_text(CHECKS)
    (tmp_path / 'meeting').mkdir()
    site = CHECKOUT / 'systems' / system.partition(':')[0] / 'site.py'
    arguments = [f'--config-file={site}', f'--system={system}'] if system else []
    sessions = [start(tmp_path, *arguments) for _ in range(2)]
    said = [session.communicate(timeout=60)[0] for session in sessions]
    assert [session.returncode for session in sessions] == [0, 0], '\n'.join(said)
    assert sum('another session is at work there; this one uses' in text for text in said) == 1, '\n'.join(said)
    cases = [json.loads(report.read_text())['runs'][0]['testcases'][0] for report in tmp_path.glob('report-*.json')]
    kept = [(Path(case['outputdir']) / 'mine').read_text() for case in cases]
    assert len(cases) == len(set(kept)) == 2
    assert {Path(case['outputdir']).relative_to(tmp_path).parts[0] for case in cases} == {'output', 'output-2'}


def test_every_check_and_every_fixture_settles_its_folders_first() -> None:
    from mlperf_det.rfm.datasets import training_dataset
    from mlperf_det.rfm.image import training_image
    from mlperf_det.rfm.own_folders import OwnFolders
    from mlperf_det.rfm.preflight_check import PreflightCheck
    from mlperf_det.rfm.training_check import DetectionTrainingCheck
    for kind in (DetectionTrainingCheck, PreflightCheck, training_dataset, training_image):
        assert issubclass(kind, OwnFolders), kind


def test_sessions_that_follow_each_other_share_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        place, lock = take(tmp_path / 'stage')
        assert place == tmp_path / 'stage'
        lock.close()


def test_a_lock_of_a_living_process_moves_the_next_one(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, '-c', 'import sys; from pathlib import Path; from mlperf_det.rfm.folder_lock import take\n'
         'held = [take(Path(sys.argv[1])) for _ in "1"]; print(held[0][0].name, flush=True); sys.stdin.read()',
         tmp_path / 'stage'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline().strip() == 'stage'
    place, lock = take(tmp_path / 'stage')
    assert place == tmp_path / 'stage-2'
    lock.close()
    holder.kill()
    holder.communicate()
    assert take(tmp_path / 'stage')[0] == tmp_path / 'stage'


def test_without_locks_each_session_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(37, 'No locks available')
    monkeypatch.setattr(fcntl, 'lockf', refuse)
    assert take(tmp_path / 'stage')[0].name.endswith(f'-{os.getpid()}')


def test_what_cannot_be_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file/stage: cannot be written \(Not a directory\); choose another place'):
        take(tmp_path / 'file' / 'stage')

    def taken(*_arguments: object) -> None:
        raise BlockingIOError
    monkeypatch.setattr(fcntl, 'lockf', taken)
    monkeypatch.setattr(folder_lock, 'MOST_SESSIONS', 2)
    with pytest.raises(UserError, match='2 sessions are at work there'):
        take(tmp_path / 'stage')
