"""The job script for those who want no ReFrame: the check's own, with the vendors' variables honoured."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from mlperf_det.cli import build_parser
from mlperf_det.errors import UserError
from mlperf_det.rfm import sbatch_command

GOLDEN = Path(__file__).resolve().parents[1] / 'golden'


def parse(*words: str) -> argparse.Namespace:
    argv = ['sbatch', 'ssd', *words]
    return build_parser(argv).parse_args(argv)


def written(tmp_path: Path, *words: str, **environ: str) -> str:
    script = sbatch_command.write_script(parse(*words), {'LOGDIR': str(tmp_path / 'logs'), **environ})
    assert script.path.is_relative_to(tmp_path / 'logs')
    assert (script.path.parent / 'recipes.yaml').is_file()
    return script.path.read_text().replace(str(script.path.parent), '/HERE')


def test_it_is_the_script_that_the_check_would_submit(tmp_path: Path) -> None:
    golden = (GOLDEN / 'dgx-a100' / 'dgx-ssd-1x8x114.sh').read_text()
    ours = written(tmp_path, '--system', 'dgx-a100', '--recipe', '1x8x114')
    golden, ours = (re.sub(r'ssd_\w{4,8}', 'CASE', re.sub(r'/(HERE|stage/[^:]*)', '/HERE', text))
                    for text in (golden, ours))
    assert ours == golden


def test_the_vendors_variables_are_honoured(tmp_path: Path) -> None:
    script = written(tmp_path, '--system', 'dgx-a100', '--recipe', '1x8x114', '--set', 'epochs=60',
                     '--set', 'decay_epochs=[44, 55]', '-S', 'requeue=yes',
                     DATADIR='/scratch/coco', CONT='/c/det.sqsh', BACKBONE_DIR='/w', NEXP='2')
    line = re.sub(r'\s*\\\n\s*', ' ', script)
    assert '/scratch/coco:/scratch/coco:ro,/w:/w:ro' in line
    assert '--container-image=/c/det.sqsh ' in line
    assert '--data /scratch/coco --backbone /w/resnet34-333f7ec4.pth' in line
    assert "--set epochs=60 --set 'decay_epochs=[44, 55]' --set experiments=2" in line
    assert 'for experiment in 0 1; do' in line
    assert '#SBATCH --requeue' in line


def test_pretrained_dir_and_a_folder_of_datasets_are_honoured(tmp_path: Path) -> None:
    (tmp_path / 'data' / 'coco2017').mkdir(parents=True)
    script = written(tmp_path, '--system', 'dgx-a100', '--recipe', '1x8x114', DATADIR=str(tmp_path / 'data'),
                     PRETRAINED_DIR='/p')
    assert f'{tmp_path}/data/coco2017' in script
    assert '/p/resnet34-333f7ec4.pth' in script


def test_an_image_that_nobody_has_built_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('LOGDIR', str(tmp_path))
    for there in (False, True):
        if there:
            (tmp_path / 'det image.sqsh').touch()
        monkeypatch.setenv('CONT', str(tmp_path / 'det image.sqsh'))
        assert sbatch_command.run(parse('--system', 'dgx-a100', '--recipe', '1x8x114')) == 0
        assert (f'notice: {tmp_path}/det image.sqsh is not on this machine' in capsys.readouterr().err) is not there


@pytest.mark.parametrize(('words', 'environ', 'cause'), [
    ([], {'NEXP': 'many'}, 'NEXP=many: is no number of runs'),
    (['-S', 'nosuch=1'], {}, "ERROR: run session stopped: warning as error: test 'ssd': the following variables were"),
    ([], {'CONT': 'det.sqsh'}, "image 'det.sqsh': Pyxis needs the absolute path")])
def test_what_is_refused_is_named_and_leaves_nothing(tmp_path: Path, words: list[str], environ: dict[str, str],
                                                     cause: str) -> None:
    with pytest.raises(UserError, match=re.escape(cause)) as refused:
        written(tmp_path, '--system', 'dgx-a100', '--recipe', '1x8x114', *words, **environ)
    assert '--warn-as-error' not in str(refused.value)
    assert not list(tmp_path.glob('logs/*'))


@pytest.mark.parametrize(('words', 'cause'), [
    (['--system', 'nowhere', '--recipe', 'x'], 'mlperf-det new-site nowhere'),
    (['--system', 'dgx-a100', '--recipe', '1x8x115'], "did you mean '1x8x114'"),
    (['--system', 'primergy-gx2460', '--recipe', '1x4x114'], 'several partitions run it, choose one: '
                                                             'primergy-gx2460:gx, primergy-gx2460:docker'),
    (['--system', 'dgx-a100', '--recipe', 'smoke'], 'set DATADIR'),
    (['--system', 'dgx-a100', '--recipe', '1x8x114', '--set', 'epochs=0'], 'epochs: 0 is not a positive number')])
def test_what_cannot_be_written_is_refused(tmp_path: Path, words: list[str], cause: str) -> None:
    with pytest.raises(UserError, match=re.escape(cause)):
        written(tmp_path, *words)


def test_the_script_is_submitted_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / 'bin' / 'sbatch'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$PWD $*" > {tmp_path}/call\n')
    program.chmod(0o755)
    script = tmp_path / 'job folder' / 'rfm_job.sh'
    script.parent.mkdir()
    monkeypatch.setenv('PATH', f'{program.parent}:/usr/bin:/bin')
    assert sbatch_command.submit(script) == 0
    assert (tmp_path / 'call').read_text() == f'{script.parent} rfm_job.sh\n'
    monkeypatch.setenv('PATH', '/nowhere')
    with pytest.raises(UserError, match='sbatch is not on the path'):
        sbatch_command.submit(script)
