"""The submission tree: accepted by mlperf-logging's package checker when the logs are, refused when they are not."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.submission import check_submission
from tests.results.conftest import FolderMaker, log_text

COMMAND = ['--organisation', 'Lab', '--system', 'box']


@pytest.fixture
def runs(make_run: FolderMaker, tmp_path: Path, shared_data: Path) -> Path:
    """Five published logs of one system, as run folders."""
    with tarfile.open(shared_data / 'mlperf-logs' / 'v5.1.tar.xz') as archive:
        names = sorted(name for name in archive.getnames() if name.endswith('.txt') and '/retinanet/' in name)
        folder = names[0].rpartition('/')[0]
        for number, name in enumerate(name for name in names if name.startswith(folder + '/')):
            stream = archive.extractfile(name)
            assert stream is not None
            make_run(f'runs/run_{number}', log=stream.read().decode(), benchmark='retinanet', recipe={
                'ruleset': '5.1.0', 'division': 'closed', 'tier': 'convergence', 'name': 'r', 'experiments': 5})
    return tmp_path / 'runs'


@pytest.mark.shared
@pytest.mark.slow
def test_the_checkers_accept_a_good_tree_and_refuse_a_bad_one(runs: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'out'
    assert main(['submission', str(runs), '-o', str(out), *COMMAND, '--fact', 'cooling=liquid']) == 0
    assert 'accepted by the package checker' in capsys.readouterr().out
    root = out / 'Lab'
    # The RCP checker may leave its scaling.json beside the logs.
    assert sorted(path.name for path in (root / 'results' / 'box' / 'retinanet').glob('*.txt')) == [
        f'result_{number}.txt' for number in range(5)]
    system = json.loads((root / 'systems' / 'box.json').read_text())
    assert (system['submitter'], system['division'], system['cooling']) == ('Lab', 'closed', 'liquid')
    code = root / 'benchmarks' / 'retinanet' / 'implementations' / 'mlperf-det' / 'README.md'
    assert 'recipe `r`' in code.read_text()
    assert main(['submission', str(runs), '-o', str(out), *COMMAND]) == 2
    assert 'exists' in capsys.readouterr().err
    description = root / 'systems' / 'box.json'
    for fields, problem in (({**system, 'status': 'soon'}, 'status contains a non valid value'),
                            ({name: value for name, value in system.items() if name != 'cooling'},
                             'Missing field cooling')):
        description.write_text(json.dumps(fields))
        found = check_submission(root, '5.1.0')
        assert not found.passed
        assert any(problem in line for line in found.errors), found.errors
    description.unlink()
    assert not check_submission(root, '5.1.0').passed
    for number in (0, 1):
        log = runs / f'run_{number}' / 'result_0.txt'
        log.write_text(log.read_text().replace('"global_batch_size"', '"other"'))
    assert main(['submission', str(runs), '-o', str(tmp_path / 'bad'), *COMMAND]) == 1
    said = capsys.readouterr()
    assert 'REFUSED' in said.out
    assert '2 files do not comply' in said.err


@pytest.mark.parametrize(('words', 'problem'), [
    (['--organisation', '../x', '--system', 'box'], "'../x' cannot be a folder name"),
    (['--organisation', 'Lab', '--system', 'a/b'], "'a/b' cannot be a folder name"),
    ([*COMMAND, '--fact', 'colour=red'], 'is no field of a system description'),
    ([*COMMAND, '--fact', 'cooling'], 'must be FIELD=TEXT')])
def test_wrong_names_and_facts_are_refused(make_run: FolderMaker, tmp_path: Path, words: list[str], problem: str,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    make_run('runs/run_0')
    assert main(['submission', str(tmp_path / 'runs'), '-o', str(tmp_path / 'out'), *words]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_what_cannot_be_submitted_is_refused(make_run: FolderMaker, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'runs').mkdir()
    command = ['submission', str(tmp_path / 'runs'), '-o', str(tmp_path / 'out'), *COMMAND]
    assert main(command) == 2
    assert 'no run to submit' in capsys.readouterr().err
    (tmp_path / 'runs' / 'result_0.txt').write_text(log_text())
    assert main(command) == 2
    assert 'is no run folder with a log' in capsys.readouterr().err
    (tmp_path / 'runs' / 'result_0.txt').unlink()
    make_run('runs/run_0')
    make_run('runs/run_1', recipe={'name': 'other'})
    assert main(command) == 2
    assert 'several groups of ssd' in capsys.readouterr().err
    make_run('other/run_0', recipe={'name': 'third', 'ruleset': '0.7.0'}, benchmark='maskrcnn')
    assert main(['submission', str(tmp_path / 'runs' / 'run_0'), str(tmp_path / 'other'), *command[2:]]) == 2
    assert 'rules of several rounds (0.7.0, 1.1.0)' in capsys.readouterr().err
