from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlperf_det.cli import main


def test_help_imports_no_torch() -> None:
    program = ('import sys; from mlperf_det.cli import build_parser\n'
               'build_parser(["train"]).format_help(); assert "torch" not in sys.modules, "torch was imported"')
    subprocess.run([sys.executable, '-c', program], check=True)


def test_bad_arguments_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ['--data', str(tmp_path), '--output', str(tmp_path / 'run')]
    assert main(['train', 'ssd', '--recipe', 'no-such-recipe', *where]) == 2
    assert 'no-such-recipe' in capsys.readouterr().err
    assert main(['train', 'ssd', '--recipe', 'smoke', '--set', 'no_such_field=1', *where]) == 2
    assert 'no_such_field' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main(['train', 'ssd', '--recipe', 'smoke', '--seed', str(2**32), *where])
    assert not (tmp_path / 'run').exists()


def test_a_dataset_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['train', 'ssd', '--recipe', 'smoke', '--data', str(tmp_path / 'absent'), '--device', 'cpu',
                 '--output', str(tmp_path / 'run')]) == 2
    assert 'absent' in capsys.readouterr().err
    assert list((tmp_path / 'run').iterdir()) == []
