"""The command line: one table, one-line errors, lazy imports."""

from __future__ import annotations

import runpy
import subprocess
import sys
import types

import pytest

from mlperf_det import cli
from mlperf_det.errors import UserError


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType('fake_command')
    module.add_arguments = lambda parser: parser.add_argument('--number', type=int)
    module.run = lambda args: args.number
    monkeypatch.setitem(sys.modules, 'fake_command', module)
    monkeypatch.setattr(cli, 'COMMANDS', {'fake': cli.Command('fake_command', 'help of fake')})
    return module


def test_the_exit_status_is_the_commands(fake_command: types.ModuleType) -> None:
    assert cli.main(['fake', '--number', '7']) == 7


def test_a_user_error_is_one_line_and_status_2(fake_command, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_args) -> int:
        raise UserError('recipes.yaml: ssd.a.epochs: must be positive')
    fake_command.run = run
    assert cli.main(['fake']) == 2
    assert capsys.readouterr().err == 'mlperf-det: error: recipes.yaml: ssd.a.epochs: must be positive\n'


def test_without_a_command_it_lists_them_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert 'judge runs' in capsys.readouterr().err


def test_what_an_error_quotes_cannot_command_the_terminal(fake_command, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_args) -> int:
        raise UserError('\x1b[2Jgone: no such file')
    fake_command.run = run
    assert cli.main(['fake']) == 2
    assert capsys.readouterr().err == 'mlperf-det: error: \\x1b[2Jgone: no such file\n'


@pytest.mark.parametrize('command', sorted(cli.COMMANDS))
def test_every_command_has_help(command: str) -> None:
    done = subprocess.run([sys.executable, '-m', 'mlperf_det', command, '--help'], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert f'mlperf-det {command}' in done.stdout


def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(f'"{sys.executable}" -m mlperf_det --help | head -c 1', shell=True, capture_output=True,
                          text=True, check=False)
    assert 'Traceback' not in done.stderr


def test_spawned_helpers_do_not_run_the_command_again() -> None:
    # multiprocessing imports the main module under this name in every process that it spawns.
    runpy.run_module('mlperf_det', run_name='__mp_main__')
