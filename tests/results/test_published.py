"""All published logs at hand against their independently made truth: every column, text for text, no exceptions."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlperf_det.mllog.collection import Collection, collect
from mlperf_det.mllog.table import COLUMNS, log_row
from mlperf_det.results import score_table
from mlperf_det.results.convergence_points import Basis, check_convergence
from mlperf_det.results.groups import Group, group_runs
from mlperf_det.results.judging import Judged
from mlperf_det.results.reading import runs_in
from mlperf_det.results.report.page import build_report
from mlperf_det.results.run import RunStatus
from mlperf_det.results.score import score_runs
from mlperf_det.results.verdict import judge
from mlperf_det.tables import csv_bytes
from tests.results.conftest import run_measured

pytestmark = [pytest.mark.shared, pytest.mark.slow]
Rows = dict[tuple[str, ...], dict[str, str]]


@pytest.fixture(scope='session')
def published(shared_data: Path) -> Collection:
    return collect([shared_data / 'mlperf-logs'])


@pytest.fixture(scope='session')
def groups(published: Collection) -> list[Group]:
    return group_runs(runs_in(published))


def by_key(text: str, key: Sequence[str]) -> Rows:
    rows = {tuple(row[name] for name in key): row for row in csv.DictReader(io.StringIO(text))}
    assert rows
    return rows


def assert_equal(ours: Rows, truth: Rows, without: Sequence[str] = ()) -> None:
    assert set(ours) == set(truth)
    different = [(key, column, row[column], ours[key][column]) for key, row in truth.items() for column in row
                 if column not in without and ours[key][column] != row[column]]
    assert not different, (len(different), different[:10])


def test_every_log(published: Collection, shared_data: Path) -> None:
    key = ('round', 'submitter', 'system', 'benchmark', 'file')
    ours = csv_bytes(COLUMNS, (log_row(log, published) for log in published.logs)).decode()
    truth = (shared_data / 'mlperf-logs' / 'truth.csv').read_text()
    assert len(published.logs) == 1311
    assert_equal(by_key(ours, key), by_key(truth, key))


def test_every_group(published: Collection, groups: list[Group], shared_data: Path) -> None:
    key = ('round', 'submitter', 'system', 'benchmark')
    factors = [published.scaling_factor(group.folder) for group in groups]
    scores = [score_runs(group.runs, factor) for group, factor in zip(groups, factors, strict=True)]
    rows = [score_table.score_row(group, score, published, name)
            for group, score, name in zip(groups, scores, score_table.clusters_of_shared_runs(groups), strict=True)]
    truth = (shared_data / 'mlperf-logs' / 'scores.csv').read_text()
    # Which half a group was put into and what another collection lacks is not in the logs; library_* is tested beside.
    assert set(next(csv.reader(io.StringIO(truth)))) <= set(score_table.COLUMNS)    # for who joins on names
    assert_equal(by_key(csv_bytes(score_table.COLUMNS, rows).decode(), key), by_key(truth, key), without=[
        'half', 'n_logs_not_in_snapshot', *(name for name in score_table.COLUMNS if name.startswith('library_'))])


def test_published_logs_need_no_forgiveness(published: Collection) -> None:
    assert {log.summary.forgiven for log in published.logs if log.summary} == {()}


def test_states_of_all_runs(groups: list[Group]) -> None:
    states = Counter(run.status for group in groups for run in group.runs)
    assert states == {RunStatus.CONVERGED: 1302, RunStatus.DIVERGED: 7, RunStatus.ABORTED: 1, RunStatus.INCOMPLETE: 1}


#: our outcome of the convergence check -> what mlperf-logging's says
CONVERGENCE = {Basis.FOUND: 'RCP found', Basis.INTERPOLATED: 'RCP Interpolation',
               Basis.SMALLEST: 'RCP not found but slower convergence on smaller batch size',
               Basis.MISSING: 'Missing RCP, please submit RCP with BS = 128'}


def test_every_convergence_check(groups: list[Group], shared_data: Path) -> None:
    truth = by_key((shared_data / 'mlperf-logs' / 'scores.csv').read_text(),
                   ('round', 'submitter', 'system', 'benchmark'))
    outcomes: Counter[bool | None] = Counter()
    for group in groups:
        row = truth[group.folder.parts[-4:]]
        check = check_convergence(group.runs)
        assert check is not None
        # One log of seven is at hand of this group: the library finds no mean, we say that it is too few.
        if not row['library_rcp'] or row['library_rcp_norm'] == 'nan':
            assert check.passed is None
            continue
        word = 'pass' if check.passed else 'FAIL'
        assert f'{word}: {CONVERGENCE[check.basis]}' == row['library_rcp'], group.title
        assert check.factor == pytest.approx(float(row['library_rcp_norm']), abs=1e-6), group.title
        outcomes[check.passed] += 1
    assert outcomes == {True: 224, False: 2, None: 1}


def test_the_report_of_all_groups_is_whole(published: Collection, groups: list[Group]) -> None:
    verdicts = [judge(group, scaling_factor=published.scaling_factor(group.folder)) for group in groups]
    page = build_report(Judged(groups=groups, verdicts=verdicts, findings={}))
    assert len(groups) == 263
    assert page.count(b'<section') == len(groups) + 1 + 3    # the overview, and each benchmark's place


def test_the_report_of_500_groups_is_small_and_quick(shared_data: Path, tmp_path: Path) -> None:
    for copy in ('once', 'again'):
        (tmp_path / copy).mkdir()
        for archive in (shared_data / 'mlperf-logs').glob('*.tar.xz'):
            (tmp_path / copy / archive.name).symlink_to(archive)
    used = run_measured('report', str(tmp_path / 'once'), str(tmp_path / 'again'), '-o', str(tmp_path / 'out'))
    page = (tmp_path / 'out' / 'report.html').read_bytes()
    assert page.count(b'aria-labelledby="g') == 2 * 263
    assert len(page) < 8e6
    assert used.mebibytes < 1024    # measured: 0.3 GiB
    assert used.seconds < 60        # of the processor, one process; measured: 11 s


def test_the_library_agrees(shared_data: Path, tmp_path: Path) -> None:
    import tarfile

    from mlperf_det.results.library_score import COLUMNS as LIBRARY
    from mlperf_det.results.library_score import library_columns
    with tarfile.open(shared_data / 'mlperf-logs' / 'v5.0.tar.xz') as archive:
        archive.extractall(tmp_path, [member for member in archive if 'tinybox' in member.name], filter='data')
    group, = group_runs(runs_in(collect([tmp_path])))
    truth = by_key((shared_data / 'mlperf-logs' / 'scores.csv').read_text(), ('system',))[('tinybox_green',)]
    ours, = csv.DictReader(io.StringIO(csv_bytes(LIBRARY, [library_columns(group)]).decode()))
    assert ours == {name: truth[name] for name in LIBRARY}
