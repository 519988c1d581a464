"""The self-test of images: it uses what it names, and is red where something is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mlperf_det.rfm import node_facts, self_test


def run(require: list[str] | None) -> int:
    return self_test.run(argparse.Namespace(require=require))


def test_everything_is_there_in_the_environment_of_the_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == 'everything is there'
    assert [line.split()[1].rstrip(':') for line in lines[:-1]] == list(self_test.CHECKS)


def test_one_broken_thing_is_named_and_hides_no_other(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(node_facts, 'COMPILED_MODULES', ('numpy', 'no_such_module'))
    monkeypatch.delitem(self_test.CHECKS, 'data_formats')
    monkeypatch.setenv('PATH', '/nowhere')
    assert run(['numactl']) == 1
    out = capsys.readouterr().out
    assert "FAIL  compiled_modules: no_such_module: No module named 'no_such_module'" in out
    assert 'FAIL  numactl: ' in out
    assert 'ok    operators: ' in out
    assert out.endswith('2 of these do not work\n')


def test_an_image_requires_the_tools_that_it_was_built_with(tmp_path: Path) -> None:
    file = tmp_path / 'tools'
    assert self_test.built_with(file) == []
    file.write_text('numactl\ndali\n')
    assert self_test.built_with(file) == ['numactl', 'dali']
