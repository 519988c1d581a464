"""``mlperf-det recipe``: what it prints can be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.recipes.load import find_recipe


def test_show_prints_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['recipe', 'show', 'maskrcnn', 'lanta-4x4x8']) == 0
    printed = capsys.readouterr().out
    assert 'base_learning_rate: 0.16' in printed
    assert 'rules of round 0.7.0 (lanta-4x4x8 is declared closed, none of 12 broken)' in printed
    assert 'BREACH' not in printed
    for rule in find_recipe('maskrcnn', 'lanta-4x4x8').closed_rules():
        assert rule.rule in printed


def test_show_marks_breaches_of_an_open_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['recipe', 'show', 'maskrcnn', 'lanta-4x4x8', '--set', 'division=open', '--set',
                 'min_image_size=640']) == 0
    printed = capsys.readouterr().out
    assert 'declared open, 1 of 12 broken' in printed
    assert 'BREACH  min_image_size' in printed


def test_list_names_geometry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['recipe', 'list', 'ssd']) == 0
    assert '1x8x114 = 912 images' in capsys.readouterr().out


def test_an_imported_recipe_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / 'config_OURS.sh'
    config.write_text("export BATCHSIZE=114\nexport DGXNNODES=1\nexport DGXNGPU=8\nexport WALLTIME_MINUTES=25\n"
                      "export EXTRA_PARAMS='--lr-warmup-epoch=5 --lr=0.003157 --dali-workers=4'\n")
    assert main(['recipe', 'import', 'ssd', str(config)]) == 0
    printed = capsys.readouterr()
    recipes = tmp_path / 'recipes.yaml'
    recipes.write_text(printed.out)
    recipe = find_recipe('ssd', 'ours', file=recipes)
    assert (recipe.global_batch_size, recipe.walltime_minutes) == (912, 25)
    assert '--dali-workers 4 has no counterpart' in printed.err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['recipe', 'show', 'ssd', 'nope']) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert main(['recipe', 'import', 'ssd', str(tmp_path / 'none.sh')]) == 2
    assert 'cannot be read' in capsys.readouterr().err


def test_what_was_left_out_is_told_where_something_is_missing(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / 'config_OURS.sh'
    config.write_text('export DGXNNODES=1 DGXNGPU=8\nif true; then\n  export BATCHSIZE=114\nfi\n')
    assert main(['recipe', 'import', 'ssd', str(config)]) == 2
    told = capsys.readouterr().err
    assert 'export BATCHSIZE=114: a condition, a loop or a function, or in one; left out' in told
    assert told.splitlines()[-1].endswith('says nothing of local_batch_size (variables BATCHSIZE)')
