"""Verdicts: each state has a case that brings it about, an exit code and a cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.groups import group_runs
from mlperf_det.results.reading import read_runs
from mlperf_det.results.references.table import References, load_references
from mlperf_det.results.verdict import EXIT_CODES, SEVERITY, State, Verdict, judge, overall
from mlperf_det.run_folder import Outcome
from tests.results.conftest import FolderMaker, log_text


def references(tmp_path: Path, value: float = 90.0, spread: float | None = 1.0, n: int = 5,
               accelerator: str = 'cpu') -> References:
    path = tmp_path / 'references.yaml'
    path.write_text(f'ssd: {{{accelerator}: {{1: {{fp32: {{time_to_train: {{value: {value}, unit: s, direction: lower, '
                    f'n: {n}, spread: {"null" if spread is None else spread}, date: 2026-01-01, '
                    'source: {kind: measured}}}}}}\n')
    return load_references(path)


def verdict_of(tmp_path: Path, found: References | None = None, **arguments: object) -> Verdict:
    group, = group_runs(read_runs([tmp_path]))
    return judge(group, found, **arguments)  # type: ignore[arg-type]


def times(make_run: FolderMaker, *epoch_seconds: float) -> None:
    for number, seconds in enumerate(epoch_seconds):
        make_run(f'run_{number}', log=log_text(epoch_seconds=seconds))


def test_pass_without_references_says_that_performance_is_not_judged(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run()
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.PASS
    assert 'performance is not judged (no references)' in verdict.cause
    assert 'bbox AP 0.3400 >= 0.3' in verdict.cause
    assert verdict.line.startswith('PASS [smoke tier, open division, random backbone] ssd smoke, 1 node, CPU: ')


def test_pass_against_a_reference(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 30.0, 30.1, 29.9)
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.PASS
    assert 'is as good as the measured reference 90 s' in verdict.cause
    assert '3 of 3 runs' in verdict.cause


def test_slow(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 30.5, 30.51, 30.49)    # 91.5 s; the limit is 94.1 s
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.PASS_SLOW
    assert 'within the limit' in verdict.cause


@pytest.mark.parametrize('seconds', [(40.0,), (40.0, 40.1, 39.9)])
def test_too_slow(make_run: FolderMaker, tmp_path: Path, seconds: tuple[float, ...]) -> None:
    times(make_run, *seconds)
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.FAIL_PERF
    assert 'beyond the limit' in verdict.cause


def test_scattered_runs_are_unstable_and_more_runs_are_advised(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 28.0, 31.5, 31.6)    # mean 91.1 s around a limit of 94.1 s
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.UNSTABLE
    assert 'cannot be told at 95% confidence' in verdict.cause
    assert any('more run(s) would probably settle time_to_train' in note for note in verdict.notes)
    assert verdict.judgements[0].more_runs is not None


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'accelerator': 'H100-SXM5-80GB'}, 'accelerator cpu is missing, there is H100-SXM5-80GB'),
    ({'spread': None, 'n': 1}, 'stands on n = 1 without spread')])
def test_a_missing_or_poor_reference_is_never_silent(make_run: FolderMaker, tmp_path: Path,
                                                     arguments: dict[str, object], words: str) -> None:
    make_run()
    verdict = verdict_of(tmp_path, references(tmp_path, **arguments))  # type: ignore[arg-type]
    assert verdict.state is State.FAIL_INFRA
    assert words in verdict.cause


def test_quality(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run(log=log_text((0.1, 0.2), status='aborted'), outcome=Outcome.ABORTED)
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.FAIL_QUALITY
    assert 'the target is bbox AP 0.3' in verdict.cause


def test_one_failing_run_of_two_is_unstable_of_three_allowed(make_run: FolderMaker, tmp_path: Path) -> None:
    recipe = {'tier': 'convergence'}
    bad = {'log': log_text((0.1, 0.2), status='aborted'), 'outcome': Outcome.ABORTED, 'recipe': recipe}
    make_run('run_0', recipe=recipe)
    make_run('run_1', **bad)
    assert verdict_of(tmp_path).state is State.UNSTABLE
    make_run('run_2', recipe=recipe)
    verdict = verdict_of(tmp_path)
    assert (verdict.state, verdict.score.converged if verdict.score else 0) == (State.PASS, 2)
    assert any('run_1: aborted' in note for note in verdict.notes)
    make_run('run_3', **bad)
    assert verdict_of(tmp_path).state is State.FAIL_QUALITY


def test_a_failing_smoke_run_is_never_allowed(make_run: FolderMaker, tmp_path: Path) -> None:
    for number in range(4):
        make_run(f'run_{number}')
    make_run('run_4', log=log_text((0.1, 0.2), status='aborted'), outcome=Outcome.ABORTED)
    assert verdict_of(tmp_path).state is State.FAIL_QUALITY


def test_fewer_runs_than_the_recipe_asks_for_are_no_pass(make_run: FolderMaker, tmp_path: Path) -> None:
    recipe = {'tier': 'convergence', 'experiments': 3}
    make_run('run_0', recipe=recipe)
    make_run('run_1', recipe=recipe)
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.UNSTABLE
    assert '2 of the 3 runs that the recipe asks for; 1 are missing' in verdict.cause
    make_run('run_2', recipe=recipe)
    assert verdict_of(tmp_path).state is State.PASS


@pytest.mark.parametrize(('log', 'fields'), [(log_text(status=None), {'outcome': Outcome.RUNNING}), ('', {}),
                                             (log_text(seed=9), {}), (log_text(), {'outcome': Outcome.FAILED})])
def test_runs_that_died_or_contradict_themselves(make_run: FolderMaker, tmp_path: Path, log: str,
                                                 fields: dict[str, object]) -> None:
    for number in range(4):
        make_run(f'good_{number}')
    make_run('bad', log=log, **fields)
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.FAIL_INFRA
    assert any(note.startswith('bad: ') for note in verdict.notes)


def test_broken_rules_fail_a_closed_run_only(make_run: FolderMaker, tmp_path: Path) -> None:
    folder = make_run(recipe={'division': 'closed'})
    findings = {str(folder / 'result_0.txt'): ('no weights_initialization',)}
    verdict = verdict_of(tmp_path, findings=findings)
    assert verdict.state is State.FAIL_QUALITY
    assert 'no weights_initialization' in verdict.cause
    make_run('open', seed=7)
    assert verdict_of(tmp_path / 'open', findings={str(tmp_path / 'open' / 'result_0.txt'): ('x',)}).state is State.PASS


def test_a_throughput_run_passes_by_its_steps_alone(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run(log=log_text((), status='aborted'), outcome=Outcome.FINISHED, recipe={'tier': 'throughput'})
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.PASS
    assert 'did the steps' in verdict.cause


def test_every_state_has_its_own_exit_code() -> None:
    assert set(EXIT_CODES) == set(State) == set(SEVERITY)
    assert len(set(EXIT_CODES.values())) == len(State)
    assert [state for state, code in EXIT_CODES.items() if code == 0] == [State.PASS]
    assert not {1, 2} & set(EXIT_CODES.values())
    assert overall([]) is State.NOT_RUN


def test_command(make_run: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert main(['verdict', str(empty)]) == 15
    assert 'NOT-RUN no run: no run.json and no result_*.txt' in capsys.readouterr().out
    good = make_run('good')
    assert main(['verdict', str(good)]) == 0
    bad = make_run('bad', log=log_text(platform='box\x1b[2J</script>', status=None), outcome=Outcome.RUNNING,
                   recipe={'name': 'x\x1b[31m'})
    assert main(['verdict', str(good), str(bad)]) == 14
    out = capsys.readouterr().out
    assert '\x1b' not in out
    assert main(['verdict', '--json', str(good), str(bad)]) == 14
    found = json.loads(capsys.readouterr().out)
    assert (found['schema_version'], found['state'], found['exit_code']) == (1, 'FAIL-INFRA', 14)
    assert sorted(group['state'] for group in found['groups']) == ['FAIL-INFRA', 'PASS']
    assert main(['verdict', str(good), '--references', str(tmp_path / 'none.yaml')]) == 2
    assert 'none.yaml' in capsys.readouterr().err
