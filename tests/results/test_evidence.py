"""What is handed over says the same as what it was made from; nothing that was asked for is left out in silence."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from mlperf_det.cli import main
from tests.results.conftest import FolderMaker, log_text


def verdict(capsys: pytest.CaptureFixture[str], *paths: Path) -> tuple[int, str]:
    status = main(['verdict', *map(str, paths)])
    return status, capsys.readouterr().out


def test_the_evidence_alone_gives_the_same_verdict(make_run: FolderMaker, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    for number, seconds in enumerate((30, 31, 35)):
        make_run(f'runs/run_{number}', log=log_text(epoch_seconds=seconds))
    published = tmp_path / 'runs' / 'v1.1' / 'Sub' / 'sys' / 'ssd'
    published.mkdir(parents=True)
    (published / 'result_0.txt').write_text(log_text())
    for place in ('one', 'two'):
        assert main(['report', str(tmp_path / 'runs'), '-o', str(tmp_path / place), '--evidence']) == 0
    capsys.readouterr()
    evidence = tmp_path / 'one' / 'evidence.zip'
    assert evidence.read_bytes() == (tmp_path / 'two' / 'evidence.zip').read_bytes()
    with zipfile.ZipFile(evidence) as archive:
        sums = dict(reversed(line.split('  ')) for line in archive.read('SHA256SUMS').decode().splitlines())
        assert {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()
                if name != 'SHA256SUMS'} == sums
    own = [line for line in verdict(capsys, tmp_path / 'runs')[1].splitlines() if 'smoke tier' in line]
    assert own == [line for line in verdict(capsys, evidence)[1].splitlines() if 'smoke tier' in line]
    assert '3 of 3 runs' in own[0]


def test_a_damaged_archive_among_good_runs_is_not_passed_over(make_run: FolderMaker, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    make_run('all/run_0')
    assert verdict(capsys, tmp_path / 'all')[0] == 0
    (tmp_path / 'all' / 'more.tar').write_bytes(b'no archive' * 100)
    status, out = verdict(capsys, tmp_path / 'all')
    assert status == 14
    assert 'damaged archive' in out


def test_a_log_of_any_name_that_is_asked_for_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'slurm-17.out').write_text(log_text())
    status, out = verdict(capsys, tmp_path / 'slurm-17.out')
    assert status == 0
    assert out.startswith('PASS')
