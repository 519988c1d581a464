"""What lies beside the report: junit.xml, evidence.zip, ThaiSC's files; themes; the section on regressions."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.run_folder import Outcome
from tests.results.conftest import FolderMaker, log_text


def report(tmp_path: Path, *words: str, out: str = 'out') -> Path:
    assert main(['report', str(tmp_path / 'runs'), '-o', str(tmp_path / out), *words]) == 0
    return tmp_path / out


def published(tmp_path: Path, submitter: str, seconds: tuple[float, ...]) -> None:
    folder = tmp_path / 'runs' / 'v1.1' / submitter / 'results' / 'box' / 'ssd'
    folder.mkdir(parents=True)
    for number, each in enumerate(seconds):
        text = log_text((0.1, 0.24), epoch_seconds=each / 2, seed=number, division='closed')
        (folder / f'result_{number}.txt').write_text(text + f'RESULT,OBJECT_DETECTION,,{each + 30:.0f},nvidia,x\n')
    systems = tmp_path / 'runs' / 'v1.1' / submitter / 'systems'
    systems.mkdir()
    (systems / 'box.json').write_text(
        f'{{"submitter": "{submitter}", "number_of_nodes": 2, "accelerators_per_node": 4, '
        '"accelerator_model_name": "NVIDIA A100-SXM-80GB"}')


def test_junit_carries_metrics_and_no_state_passes_by_accident(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('runs/good')
    make_run('runs/bad', recipe={'name': 'b\x1b[2J\x00<&'}, log=log_text((0.1,), status='aborted'),
             outcome=Outcome.ABORTED)
    make_run('runs/dead', recipe={'name': 'dead'}, log=log_text(status=None), outcome=Outcome.RUNNING)
    root = ElementTree.parse(report(tmp_path) / 'junit.xml').getroot()  # noqa: S314 - our own
    suite = root[0]
    assert (suite.attrib['tests'], suite.attrib['failures'], suite.attrib['errors']) == ('3', '1', '1')
    good = next(case for case in suite if case.find('failure') is None and case.find('error') is None)
    properties = {each.attrib['name']: each.attrib['value'] for each in good.iter('property')}
    assert (properties['state'], properties['mean_minutes'], good.attrib['time']) == ('PASS', '1.5', '90.000')
    failure = next(suite.iter('failure'))
    assert failure.attrib['type'] == 'FAIL-QUALITY'
    assert 'target' in failure.attrib['message']


def test_broken_rules_are_told_once_with_the_runs_they_occur_in(make_run: FolderMaker, tmp_path: Path) -> None:
    recipe = {'division': 'closed', 'ruleset': '1.1.0', 'tier': 'convergence'}
    for number in range(3):
        make_run(f'runs/run_{number}', recipe=recipe, log=log_text(division='closed'))
    page = (report(tmp_path) / 'report.html').read_text()
    assert '3 of 3 checked logs break rule set 1.1.0; see the findings below' in page
    assert page.count("<li>all 3 runs: Required EXACTLY_ONE occurrence of &#x27;gradient_accumulation_steps&#x27;") == 1
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert all(run['rules_checked'] and run['rule_findings'] for run in summary['groups'][0]['runs'])


def test_json_on_standard_output_is_the_summary(make_run: FolderMaker, tmp_path: Path,
                                                capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    make_run('runs/good')
    out = report(tmp_path, '--json')
    assert capfdbinary.readouterr().out == (out / 'summary.json').read_bytes()


def test_evidence_is_whole_checked_and_the_same_byte_for_byte(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('runs/run_0')
    published(tmp_path, 'Sub', (100, 110, 120))
    first = report(tmp_path, '--evidence', out='a') / 'evidence.zip'
    for path in (tmp_path / 'runs').rglob('*.txt'):
        path.touch()    # the time of a file is no part of the evidence
    second = report(tmp_path, '--evidence', out='b') / 'evidence.zip'
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        # Neither the hour nor the user's mask is in it.
        assert {(each.date_time, each.external_attr >> 16) for each in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0o644)}
        names = archive.namelist()
        sums = dict(reversed(line.split('  ')) for line in archive.read('SHA256SUMS').decode().splitlines())
        assert set(sums) == set(names) - {'SHA256SUMS'}
        assert all(hashlib.sha256(archive.read(name)).hexdigest() == digest for name, digest in sums.items())
    for ending in ('report.html', 'summary.json', 'run.json', 'metrics.jsonl', 'system.json'):
        assert any(name.endswith(ending) for name in names), ending
    assert sum(name.endswith('.txt') for name in names) == 4
    assert not any(name.startswith('/') or '..' in name for name in names)


def test_evidence_says_what_it_lacks(tmp_path: Path) -> None:
    published(tmp_path, 'Sub', (100, 110, 120))
    shutil.make_archive(str(tmp_path / 'logs'), 'gztar', tmp_path / 'runs')
    out = tmp_path / 'out'
    assert main(['report', str(tmp_path / 'logs.tar.gz'), '-o', str(out), '--evidence']) == 0
    with zipfile.ZipFile(out / 'evidence.zip') as archive:
        assert archive.read('NOT-INCLUDED.txt').decode().count('lies in an archive or is gone') == 3


def test_thaisc_scores_by_its_own_seconds_and_projects_linearly(tmp_path: Path) -> None:
    # VENDOR's five v0.7 results on 4x8 A100, the worked example of the rule: 1741.7 s, 49.61 jobs/day.
    published(tmp_path, 'Sub', tuple(seconds - 30 for seconds in (1676, 1782, 1767, 1658, 2017)))
    out = report(tmp_path, '--thaisc', '250')
    text = (out / 'benchmark_result.txt').read_text()
    assert 'Benchmark performance =     49.608 jobs/day\n' in text
    page = (out / 'report.html').read_text()
    assert '>24.804<' in page    # two nodes
    assert f'>{86400 / (5225 / 3) / 2 * 250:.3f}<' in page
    assert re.search('>1741.7</td><td[^>]*>RESULT seconds<', page)
    assert '>1711.7<' in page    # time to train by the same rule: thirty seconds less than each job
    assert '>5 of 5<' in page
    assert 'benchmark_result.txt' not in [path.name for path in report(tmp_path, out='without').iterdir()]


def test_a_name_of_a_system_adds_no_result_of_its_own(tmp_path: Path) -> None:
    published(tmp_path, 'Sub', (100, 110, 120))
    (tmp_path / 'runs' / 'v1.1' / 'Sub' / 'results' / 'box').rename(
        tmp_path / 'runs' / 'v1.1' / 'Sub' / 'results' / 'box\nBenchmark performance =  99999.000 jobs per day')
    system = tmp_path / 'runs' / 'v1.1' / 'Sub' / 'systems' / 'box.json'
    system.rename(system.with_name('box\nBenchmark performance =  99999.000 jobs per day.json'))
    text = (report(tmp_path, '--thaisc', '250') / 'benchmark_result.txt').read_text()
    assert [line.partition('=')[0] for line in text.splitlines() if not line.startswith('#')] == [
        'Benchmark performance ']
    assert '99999' in text.splitlines()[0]


def test_a_vendor_sees_nothing_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(tmp_path, 'Ours', (100, 110, 120))
    published(tmp_path, 'Rival', (100, 111, 120))
    out = report(tmp_path, '--theme', 'vendor', '--vendor', 'ours', '--evidence')
    for path in out.iterdir():
        if path.suffix != '.zip':
            assert 'Rival' not in path.read_text(), path
    page = (out / 'report.html').read_text()
    assert 'Ours' in page
    assert 'best published' not in page
    with zipfile.ZipFile(out / 'evidence.zip') as archive:
        assert not any('Rival' in name for name in archive.namelist())
    assert main(['report', str(tmp_path / 'runs'), '-o', str(out), '--theme', 'vendor']) == 2
    assert 'belong together' in capsys.readouterr().err


def test_where_a_system_stands_among_published_ones(tmp_path: Path) -> None:
    published(tmp_path, 'Sub', (480, 500, 520))
    page = (report(tmp_path) / 'report.html').read_text()
    # 500 s on 8 A100-SXM4-80GB; published: best 7.98 min, median 8.31 min of 14.
    assert 'SSD300: scaling and published systems' in page
    assert '<small>v1.1 Inspur</small></td><td class="n" data-label="to it">+4.4 %</td>' in page
    assert '<small>of 14</small></td><td class="n" data-label="to it">+0.3 %</td>' in page
    assert '>0 of 8 faster</td>' in page
    chart = page[page.index('Time to train over accelerators'):]
    chart = chart[:chart.index('</figure>')]
    assert chart.count('class="diamond"') == 1
    assert chart.count('class="modelled"') == 1
    assert 'A100-SXM4-80GB: modelled, with its 95 % band' in chart
    assert '<g class="published c0"><circle' in chart


PROMISE = """promises:
  - {benchmark: ssd, accelerator: A100-SXM4-80GB, nodes: 2, accelerators_per_node: 4, runs: 3, document: offer 17,
     time_to_train: {value: 8.0, unit: min, tolerance: 0.05}}
"""


def test_promise_measurement_and_certainty_stand_beside_each_other(tmp_path: Path) -> None:
    published(tmp_path, 'Sub', (480, 500, 520))
    (tmp_path / 'acceptance.yaml').write_text(PROMISE)
    out = report(tmp_path, '--acceptance', str(tmp_path / 'acceptance.yaml'))
    judgement = json.loads((out / 'summary.json').read_text())['groups'][0]['judgements'][0]
    low, high = judgement['interval']
    assert low < judgement['mean'] < high
    assert low * high == pytest.approx(judgement['mean'] ** 2)    # about the geometric mean
    page = (out / 'report.html').read_text()
    table = page[page.index('Against the references'):]
    table = table[:table.index('</table>')]
    assert '<span>8.329 min</span><small>3 runs</small>' in table
    assert '<span>8 min</span><small>promised: offer 17</small>' in table
    assert '>+4.1 %</td>' in table
    assert '>8.4 min</td>' in table
    assert f'<span>{100 * judgement["sure"]:.1f} % within</span>' in table
    assert f'<dd>{100 * judgement["sure"]:.1f} %<small>within the limit of time to train</small>' in page
    chart = page[page.index('Distance from the reference'):]
    chart = chart[:chart.index('</figure>')]
    assert '>4.1 % worse</text>' in chart
    assert (chart.count('class="soft"'), chart.count('class="diamond"'), chart.count('class="interval"')) == (3, 1, 1)


def test_a_vendor_is_not_told_who_published_a_reference(tmp_path: Path) -> None:
    published(tmp_path, 'Ours', (480, 500, 520))
    (tmp_path / 'references.yaml').write_text("""ssd: {A100-SXM4-80GB: {2: {mixed: {time_to_train: {
        value: 500, unit: s, direction: lower, n: 5, spread: 9, date: 2021-12-01,
        source: {kind: published, round: v1.1, submitter: Rival, system: box}}}}}}""")
    words = ('--references', str(tmp_path / 'references.yaml'))
    assert '<small>published: v1.1 Rival, n = 5</small>' in (report(tmp_path, *words) / 'report.html').read_text()
    page = (report(tmp_path, *words, '--theme', 'vendor', '--vendor', 'Ours') / 'report.html').read_text()
    assert 'Rival' not in page
    assert '<small>published, n = 5</small>' in page


def nights(make_run: FolderMaker, count: int, slow_from: int) -> None:
    for night in range(count):
        seconds = (30.0 if night < slow_from else 32.0) * (1 + 0.004 * ((night * 7919) % 5 - 2))
        folder = make_run(f'runs/night_{night:02d}', software={'driver': '550' if night < slow_from else '560'})
        shifted = '\n'.join(_shift(line, night) for line in log_text(epoch_seconds=seconds).splitlines()) + '\n'
        (folder / 'result_0.txt').write_text(shifted)


def _shift(line: str, days: int) -> str:
    head, _, rest = line.partition('"time_ms": ')
    digits, comma, tail = rest.partition(',')
    return f'{head}"time_ms": {int(digits) + 86_400_000 * days}{comma}{tail}'


def test_regressions_are_told_with_date_and_cause(make_run: FolderMaker, tmp_path: Path) -> None:
    nights(make_run, 50, slow_from=35)
    page = (report(tmp_path, '--theme', 'nightly') / 'report.html').read_text()
    assert 'for the worse' in page
    assert '<li>software: driver: 550 → 560</li>' in page
    assert '2025-11-13' in page    # the 36th night after 2025-10-09
    assert page.index('Regressions') < page.index('aria-labelledby="g0"')
    # Who reads the head alone must not take the green verdict of the runs for all there is to say.
    head = page[page.index('<header'):page.index('</header>')]
    assert '<h1>Nightly report</h1>' in head
    assert '1 lasting change for the worse' in head
    chart = page[page.index('time to train: +6.7 % from 2025-11-13 on'):]
    assert chart[:chart.index('</figure>')].count('<circle') == 50


def test_a_nightly_report_without_a_history_says_so(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('runs/run_0')
    assert 'for the worse' not in (report(tmp_path, '--theme', 'nightly') / 'report.html').read_text()
    assert 'nothing can be said of changes' in (report(tmp_path, '--theme', 'nightly') / 'report.html').read_text()


def node_metrics(slow: str) -> str:
    """Two ranks on each of four nodes, one of which waits for data."""
    lines = [{'kind': 'epoch', 'rank': rank, 'host': f'n{rank // 2}', 'seconds': 90.0, 'step': 60.0, 'evaluation': 10.0,
              'data_wait': (9.0 if f'n{rank // 2}' == slow else 1.0) + 0.01 * rank} for rank in range(8)]
    return ''.join(json.dumps(line) + '\n' for line in lines)


def test_a_slow_node_is_named(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('runs/run_0', metrics=node_metrics('n2'), ranks=8)
    page = (report(tmp_path) / 'report.html').read_text()
    assert 'Spread over the nodes' in page
    rows = dict(re.findall(r'<tr><td>(n\d)</td>.*?<td>([^<]*)</td></tr>', page))
    assert rows == {'n0': 'none', 'n1': 'none', 'n2': 'waiting for data', 'n3': 'none'}


def test_scaling_efficiency_between_geometries(make_run: FolderMaker, tmp_path: Path) -> None:
    for nodes, rate in ((1, 100.0), (4, 320.0)):
        hosts = tuple({'name': f'n{node}', 'ranks': [node], 'devices': ['NVIDIA H100 80GB HBM3']}
                      for node in range(nodes))
        metrics = json.dumps({'kind': 'steady_state', 'images_per_second': rate}) + '\n'
        make_run(f'runs/run_{nodes}', hosts=hosts, metrics=metrics, recipe={'tier': 'convergence'})
    page = (report(tmp_path) / 'report.html').read_text()
    assert 'Scaling: images/s against the smallest geometry' in page
    assert '<td>1 to 4</td><td class="n">3.20</td><td class="n">80.0 %</td>' in page
