"""The command line: one table, one-line errors, lazy imports."""

from __future__ import annotations

import itertools
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

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


ACTIONS = [(command, action) for command, actions in {
    'history': ('list', 'show', 'compare', 'export', 'regressions'), 'reference': ('show', 'propose', 'lint'),
    'recipe': ('list', 'show', 'import'),
    'data': ('download', 'prepare', 'prepare-json', 'verify', 'backbone', 'generate')}.items() for action in actions]


@pytest.mark.parametrize(('command', 'action'), ACTIONS)
def test_every_action_says_what_it_does_and_what_each_argument_is(command: str, action: str,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, '--help'])
    listed = ' '.join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        cli.main([command, action, '--help'])
    text = capsys.readouterr().out
    description = ' '.join(text.split('\n\n')[1].split())
    assert f'{action} {description}' in listed
    # A line of an argument alone, without help beside or below it; choices explain themselves.
    for line, below in itertools.pairwise([*text.split('\n\n', 2)[2].splitlines(), '']):
        if re.fullmatch(r'  [^ {].*', line) and '  ' not in line.strip():
            assert below.startswith('      '), line


@pytest.mark.parametrize(('words', 'said'), [
    (('report', 'x', '-o', 'y', '--thaisc', 'many'), "'many' is no number of nodes; write one of at least 1"),
    (('report', 'x', '-o', 'y', '--thaisc', '0'), "'0' is no number of nodes; write one of at least 1"),
    (('history', 'list', 'x', '--since', 'yesterday'), "'yesterday' is no day; write it as 2026-03-31"),
    (('reference', 'propose', 'x', '--nodes', '1,,2'), "'1,,2' is no list of node counts; write it as 1,2,4")])
def test_an_argument_that_cannot_be_read_says_what_it_should_be(words: tuple[str, ...], said: str,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(('words', 'option'), [
    (('logs', 'FOLDER'), '--csv'), (('score', 'FOLDER'), '--csv'), (('history', 'export', 'FOLDER'), '--csv'),
    (('history', 'export', 'FOLDER'), '--parquet')])
def test_a_table_that_cannot_be_written_is_one_line(words: tuple[str, ...], option: str, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    from tests.results.conftest import log_text
    (tmp_path / 'result_0.txt').write_text(log_text())
    target = tmp_path / 'nowhere' / 'table'
    assert cli.main([*(str(tmp_path) if word == 'FOLDER' else word for word in words), option, str(target)]) == 2
    assert capsys.readouterr().err == (
        f'mlperf-det: error: {option} {target}: cannot be written (No such file or directory); name a file in a folder '
        'that is there and yours\n')


def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(f'"{sys.executable}" -m mlperf_det --help | head -c 1', shell=True, capture_output=True,
                          text=True, check=False)
    assert 'Traceback' not in done.stderr


def test_spawned_helpers_do_not_run_the_command_again() -> None:
    # multiprocessing imports the main module under this name in every process that it spawns.
    runpy.run_module('mlperf_det', run_name='__mp_main__')
