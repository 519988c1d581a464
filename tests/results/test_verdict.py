"""Verdicts: each state has a case that brings it about, an exit code and a cause."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from mlperf_det.cli import main
from mlperf_det.results.convergence_points import check_convergence
from mlperf_det.results.groups import group_runs
from mlperf_det.results.judging import judge_all
from mlperf_det.results.performance import Standing, judge_metric
from mlperf_det.results.reading import read_runs
from mlperf_det.results.references.table import (
    Direction,
    Lookup,
    Reference,
    References,
    ReferenceSource,
    SourceKind,
    load_references,
)
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


def test_a_smoke_run_needs_no_reference(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run()
    (tmp_path / 'references.yaml').write_text('{}')
    verdict = verdict_of(tmp_path, load_references(tmp_path / 'references.yaml'))
    assert verdict.state is State.PASS
    assert 'performance is not judged' in verdict.cause


def test_pass_against_a_reference(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 30.0, 30.1, 29.9)
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.PASS
    assert 'is as good as the measured reference 1.5 min' in verdict.cause
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
    assert 'cannot be told at 95 % confidence' in verdict.cause
    more = verdict.judgements[0].more_runs
    assert more is not None
    assert f'; {more} more runs would settle it with 80 % probability' in verdict.cause


def test_runs_that_no_number_of_runs_would_settle_say_so(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 31.3, 31.37, 31.44)    # mean 94.11 s at a limit of 94.1 s
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.UNSTABLE
    assert 'it lies too near the limit for 1000 runs of this scatter to settle it' in verdict.cause


def test_a_mean_that_is_only_not_shown_to_be_worse_is_not_called_as_good(make_run: FolderMaker, tmp_path: Path) -> None:
    times(make_run, 29.8, 30.1, 30.4)    # mean 90.3 s, reference 90 s
    verdict = verdict_of(tmp_path, references(tmp_path))
    assert verdict.state is State.PASS
    assert 'cannot be told from, and is within the limit of, the measured reference 1.5 min' in verdict.cause


@pytest.mark.parametrize(('arguments', 'words'), [
    ({'accelerator': 'H100-SXM5-80GB'}, 'accelerator cpu is missing, there is H100-SXM5-80GB'),
    ({'spread': None, 'n': 1}, 'stands on n = 1 without spread')])
def test_a_missing_or_poor_reference_is_never_silent(make_run: FolderMaker, tmp_path: Path,
                                                     arguments: dict[str, object], words: str) -> None:
    make_run(recipe={'tier': 'throughput'})
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
                                             (log_text(seed=9), {}), (log_text(), {'outcome': Outcome.FAILED}),
                                             (log_text((0.1,), status='aborted'), {'outcome': Outcome.CONVERGED})])
def test_runs_that_died_or_contradict_themselves(make_run: FolderMaker, tmp_path: Path, log: str,
                                                 fields: dict[str, object]) -> None:
    for number in range(4):
        make_run(f'good_{number}')
    make_run('bad', log=log, **fields)
    verdict = verdict_of(tmp_path)
    assert verdict.state is State.FAIL_INFRA
    assert 'bad: ' in verdict.cause


def test_a_foreign_reason_makes_no_contradiction(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run(log=log_text((0.1,), status='aborted'), outcome=Outcome.ABORTED, reason='logs contradict each other')
    assert verdict_of(tmp_path).state is State.FAIL_QUALITY


def test_broken_rules_fail_a_closed_run_only(make_run: FolderMaker, tmp_path: Path) -> None:
    folder = make_run(recipe={'division': 'closed'})
    findings = {str(folder / 'result_0.txt'): ('no weights_initialization',)}
    verdict = verdict_of(tmp_path, findings=findings)
    assert verdict.state is State.FAIL_QUALITY
    assert 'no weights_initialization' in verdict.cause
    make_run('open', seed=7)
    assert verdict_of(tmp_path / 'open', findings={str(tmp_path / 'open' / 'result_0.txt'): ('x',)}).state is State.PASS


def epochs_to(make_run: FolderMaker, *epochs: int, batch: int = 1024) -> None:
    """Closed SSD runs; at batch 1024 the rules 1.1.0 have a reference of 50 epochs without any scatter."""
    recipe = {'tier': 'convergence', 'division': 'closed', 'ruleset': '1.1.0', 'global_batch_size': batch}
    for number, last in enumerate(epochs):
        make_run(f'run_{number}', recipe=recipe, log=log_text((0.1,) * (last - 1) + (0.35,), division='closed',
                                                              batch=batch, epoch_seconds=1))


def test_convergence_that_is_too_fast_breaks_the_rules(make_run: FolderMaker, tmp_path: Path) -> None:
    epochs_to(make_run, 49, 50, 50, 49, 50)
    group, = group_runs(read_runs([tmp_path]))
    verdict = judge(group, convergence=check_convergence(group.runs))
    assert verdict.state is State.FAIL_QUALITY
    assert 'too fast to be explained by chance: 49.67 epochs at batch 1024' in verdict.cause


def test_convergence_as_slow_as_the_reference_is_no_obstacle(make_run: FolderMaker, tmp_path: Path) -> None:
    epochs_to(make_run, 49, 50, 50, 50, 51)
    group, = group_runs(read_runs([tmp_path]))
    verdict = judge(group, convergence=check_convergence(group.runs))
    assert verdict.state is State.PASS
    assert any('no faster than the reference: 50 epochs' in note for note in verdict.notes)


def test_our_own_score_is_normalised_where_convergence_is_fast_but_allowed(make_run: FolderMaker,
                                                                           tmp_path: Path) -> None:
    epochs_to(make_run, 85, 85, 85, batch=4096)    # the reference takes 87, and 84.5 are due
    verdict, = judge_all([tmp_path]).verdicts
    assert verdict.score is not None
    assert verdict.score.scaling_factor == pytest.approx(87 / 85)
    assert verdict.score.minutes == pytest.approx(87 / 60)
    assert verdict.convergence is not None
    assert 'the score is normalised by 1.0235' in verdict.convergence.sentence


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


def test_a_terminal_gets_a_table(make_run: FolderMaker) -> None:
    folder = make_run(recipe={'name': 'x\x1b[31m'})
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, '-m', 'mlperf_det', 'verdict', str(folder)], stdout=theirs,
                          env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '100', 'NO_COLOR': '1'}) as process:
        os.close(theirs)
        shown = b''
        with contextlib.suppress(OSError):    # Linux says so when the other end is closed
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
    os.close(ours)
    assert process.returncode == 0
    text = re.sub('\x1b\\[[0-9;]*m', '', shown.decode())
    lines = [line.rstrip() for line in text.splitlines()]
    head, row = (next(line for line in lines if line.startswith(word)) for word in ('verdict', 'PASS'))
    assert head.split() == ['verdict', 'group', 'runs', 'score,', 'min']
    assert row.split()[-2:] == ['1/1', '-']
    assert '[smoke tier]' in text
    # The sentence has the width of the terminal rather than that of a column.
    assert any(line.startswith('  the run reached the target') and len(line) > 80 for line in lines)
    assert '\x1b' not in text
    assert '\\x1b[31m' in text    # a name from a file stays a text


def test_the_advised_number_of_runs_settles_most_cases() -> None:
    """Draw runs from the very distribution that the undecided ones look like: four of five times they are settled."""
    reference = Reference(value=90.0, unit='s', direction=Direction.LOWER, n=5, spread=1.0,
                          date=datetime.date(2026, 1, 1), source=ReferenceSource(kind=SourceKind.MEASURED))
    found = Lookup(reference=reference, upper=93.0)
    undecided = judge_metric('time_to_train', [89.0, 91.5, 94.0], found)
    assert undecided.standing is Standing.UNDECIDED
    assert undecided.more_runs is not None
    generator = numpy.random.default_rng(5)
    logs = numpy.log([89.0, 91.5, 94.0])
    drawn = numpy.exp(generator.normal(logs.mean(), logs.std(ddof=1), size=(1000, 3 + undecided.more_runs)))
    settled = sum(judge_metric('time_to_train', list(values), found).standing is not Standing.UNDECIDED
                  for values in drawn)
    assert 0.75 < settled / len(drawn) < 0.9
