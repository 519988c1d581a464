"""The report: complete, self-contained, the same for the same input, and safe with whatever logs contain."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlperf_det.cli import main
from mlperf_det.results.judging import judge_all
from mlperf_det.results.reading import read_runs
from mlperf_det.results.report.assets import script
from mlperf_det.results.report.downsample import downsample
from mlperf_det.results.report.figures import column_texts, percent_text
from mlperf_det.results.report.html import escape, tag
from mlperf_det.results.report.page import build_report
from mlperf_det.results.report.spread import suspect_sentences, suspects
from mlperf_det.results.report.svg import Axis, Band, Rule, Series, line_chart, numbers, ticks
from mlperf_det.results.report.svg_rows import Bar, Dots, bar_chart, dot_chart
from mlperf_det.results.run import RankTime
from mlperf_det.results.summary import RUN_COLUMNS, summary_of
from mlperf_det.run_folder import Outcome
from tests.results.conftest import FolderMaker, log_text, metrics_text


class Outline(HTMLParser):
    """Collects elements, headings, texts, and whatever a browser would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.headings: list[int] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ''
        self.feed(page)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        if name not in ('meta', 'br', 'hr', 'wbr'):
            self.open.append(name)
        if re.fullmatch('h[1-6]', name):
            self.headings.append(int(name[1]))
        for key, value in attributes:
            if key in ('src', 'srcset', 'action', 'data', 'xlink:href') or key.startswith('on'):
                self.loaded.append(f'{name} {key}={value}')
            if key == 'href':
                self.links.append(value or '')
            if key == 'id':
                self.ids.append(value or '')

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*paths: Path) -> str:
    return build_report(judge_all(paths, None, published_rules=False)).decode()


def test_the_page_is_whole_and_says_what_is_needed_to_repeat_the_run(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run(metrics=metrics_text(4, slow_rank=2), ranks=4)
    page = Outline(page_of(tmp_path))
    assert page.open == []
    assert page.loaded == []
    assert not {'link', 'img', 'iframe', 'object', 'base', 'form'} & set(page.tags)
    assert page.tags.count('script') == 1
    assert len(page.ids) == len(set(page.ids))
    assert page.headings[0] == 1
    assert all(later <= earlier + 1 for earlier, later in zip(page.headings, page.headings[1:], strict=False))
    assert 'published runs' not in page.text    # a smoke run is not the benchmark
    for needed in ('PASS', 'What was checked', 'smoke tier', 'random backbone', 'bbox AP over time', 'target 0.3',
                   'Training loss', 'Throughput', 'Time breakdown', 'mlperf-det train ssd --seed 7', 'sha256:1234',
                   '2.14.1', 'Example CPU', 'learning_rate_per_32', 'rank 2 n1', 'suspects', 'fp32',
                   'none: ran outside a container'):
        assert needed in page.text, needed


def test_a_suspect_is_named_among_the_checks(make_run: FolderMaker, tmp_path: Path) -> None:
    for number in range(3):
        make_run(f'run_{number}', metrics=metrics_text(8, slow_rank=5 if number else None), ranks=8)
    assert suspect_sentences(read_runs([tmp_path])) == [
        'n2: waiting for data takes 5 s where the median is 1 s, in 2 of 3 runs']
    assert 'n2: waiting for data takes 5 s' in Outline(page_of(tmp_path)).text


def test_the_same_runs_give_the_same_bytes(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('run_0')
    make_run('run_1', log=log_text(epoch_seconds=33))
    outputs = [tmp_path / 'out_a', tmp_path / 'out_b']
    for output in outputs:
        assert main(['report', str(tmp_path / 'run_0'), str(tmp_path / 'run_1'), '-o', str(output)]) == 0
    for name in ('report.html', 'runs.csv', 'summary.json', 'junit.xml'):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    rows = list(csv.DictReader((outputs[0] / 'runs.csv').open()))
    assert [row['time_to_train_seconds'] for row in rows] == ['90.0', '99.0']
    summary = json.loads((outputs[0] / 'summary.json').read_text())
    assert (summary['schema_version'], len(summary['groups'][0]['runs'])) == (1, 2)
    assert sorted(path.name for path in outputs[0].iterdir()) == [
        'junit.xml', 'report.html', 'runs.csv', 'summary.json']


HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\' \x1b[2J\x00\u202e&amp;'


def test_texts_from_logs_and_records_stay_texts(make_run: FolderMaker, tmp_path: Path) -> None:
    published = tmp_path / 'v5.0' / 'Sub' / '<b>sys' / 'ssd'
    published.mkdir(parents=True)
    (published / 'result_0.txt').write_text(log_text((0.1,), platform=HOSTILE, status='aborted'))
    (published.parent / 'system.json').write_text(json.dumps({
        'submitter': HOSTILE, 'number_of_nodes': 1, 'accelerators_per_node': 1, 'accelerator_model_name': HOSTILE}))
    make_run(recipe={'name': HOSTILE}, runtime={'precision': HOSTILE, HOSTILE: 1}, command=('run', HOSTILE),
             software={HOSTILE: HOSTILE}, reason=HOSTILE, outcome=Outcome.FAILED, environment={HOSTILE: HOSTILE},
             dataset={'fingerprint': HOSTILE}, image={'path': HOSTILE}, metrics=metrics_text().replace('n0', '<i>n0'))
    text = page_of(tmp_path)
    page = Outline(text)
    assert page.loaded == []
    assert not {'img', 'b>sys'} & set(page.tags)
    assert text.count('<script>') == text.count('</script>') == 1
    assert text.endswith(f'<script>{script()}</script></body></html>\n')
    assert '<i>n0' in page.text
    assert '\x1b' not in text
    assert '\x00' not in text
    assert '\u202e' not in text
    assert 'alert(1)' in page.text


@pytest.mark.parametrize('log', [log_text(()), log_text(status=None), 'nothing', '', log_text((float('nan'),))])
def test_runs_with_little_in_them_still_make_a_page(make_run: FolderMaker, tmp_path: Path, log: str) -> None:
    make_run(log=log, metrics='')
    page = Outline(page_of(tmp_path))
    assert page.open == []
    assert 'FAIL' in page.text


def test_without_any_run_the_page_says_so_and_the_command_fails(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['report', str(tmp_path), '-o', str(tmp_path / 'out')]) == 1
    assert 'NOT-RUN' in capsys.readouterr().out
    assert 'NOT-RUN' in Outline((tmp_path / 'out' / 'report.html').read_text()).text


def test_a_folder_that_cannot_be_written_is_the_users_error(make_run: FolderMaker, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    make_run()
    (tmp_path / 'file').write_text('')
    assert main(['report', str(tmp_path / 'run_0'), '-o', str(tmp_path / 'file')]) == 2
    assert 'cannot be written' in capsys.readouterr().err


def test_links_lead_to_groups(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('run_0')
    make_run('run_1', recipe={'name': 'other'})
    page = Outline(page_of(tmp_path))
    assert page.links == ['#overview', '#g0', '#g1', '#g0', '#g1']    # of the navigation, then of the overview
    assert {link[1:] for link in page.links} <= set(page.ids)
    make_run('run_2', recipe={'name': 'dead'}, log=log_text(status=None), outcome=Outcome.RUNNING)
    page = Outline(page_of(tmp_path))
    assert page.links[-3:] == ['#g2', '#g0', '#g1']    # the worst first
    assert 'Some runs died' in page.text


def test_of_many_groups_those_that_passed_are_folded(make_run: FolderMaker, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    make_run('run_0')
    make_run('run_1', recipe={'name': 'dead'}, log=log_text(status=None), outcome=Outcome.RUNNING)
    monkeypatch.setattr('mlperf_det.results.report.page.MANY_GROUPS', 1)
    sections = re.findall(r'<section class="group (\w+) many".*?</section>', text := page_of(tmp_path))
    assert sections == ['good', 'bad']
    assert text.count('<details open="open"><summary>Course of the runs, configuration and provenance') == 1
    assert text.count('<details><summary>Course of the runs, configuration and provenance') == 1


def test_a_passed_group_needs_no_sentence_in_the_overview(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('run_0')
    make_run('run_1', recipe={'name': 'dead'}, log=log_text(status=None), outcome=Outcome.RUNNING)
    page = page_of(tmp_path)
    table = page[page.index('id="overview"'):page.index('</section>')]
    assert table.count('class="why"') == 1
    assert 'no run_stop' in table
    assert 'data-label="AP margin">+0.0400</td>' in table    # 0.34 where 0.3 is asked for


#: of runs.csv, which is read by name
RUN_NAMES = [
    'source', 'log', 'benchmark', 'model', 'round', 'submitter', 'system', 'status', 'reason', 'tier', 'division',
    'precision', 'seed', 'nodes', 'accelerators_per_node', 'accelerators', 'accelerator', 'global_batch_size',
    'time_to_train_seconds', 'init_seconds', 'epochs_to_target', 'samples', 'images_per_second',
    'images_per_second_training', 'images_per_second_steady', 'bbox_ap', 'segm_ap', 'bbox_target', 'segm_target',
    'data_wait_share', 'evaluation_seconds', 'energy_joules', 'deviations', 'forgiven']
#: of summary.json at version 1: whoever changes a name or takes one away counts the version up
SUMMARY_KEYS = {
    'schema_version', 'state', 'exit_code', 'groups', 'groups.title', 'groups.state', 'groups.exit_code',
    'groups.cause', 'groups.marks', 'groups.notes', 'groups.score', 'groups.convergence', 'groups.judgements',
    'groups.runs', *(f'groups.score.{name}' for name in (
        'minutes', 'olympic_minutes', 'scaling_factor', 'runs', 'converged', 'best_minutes', 'worst_minutes',
        'mean_minutes', 'stdev_minutes', 'epochs', 'reason', 'energy_joules')),
    *(f'groups.runs.{name}' for name in (*RUN_NAMES, 'rules_checked', 'rule_findings'))}


def test_the_schema_of_the_summary_changes_with_its_version_alone(make_run: FolderMaker, tmp_path: Path) -> None:
    make_run('run_0')
    found: set[str] = set()

    def walk(value: object, name: str) -> None:
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                for key, inner in each.items():
                    found.add(f'{name}{key}')
                    walk(inner, f'{name}{key}.')

    summary = summary_of(judge_all([tmp_path]))
    walk(summary, '')
    assert summary['schema_version'] == 1
    assert found == SUMMARY_KEYS
    assert list(RUN_COLUMNS) == RUN_NAMES


def test_charts_are_well_formed_and_carry_their_data() -> None:
    svg = line_chart('A & B', 'desc', [Series(name='<x>', points=[(0, 1), (1, 2)], tips=['first', 'second'])],
                     Axis(title='x', low=0.0), Axis(title='y', low=0.0), [Rule(value=1.5, label='target')])
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    assert root.attrib['aria-label'] == 'A & B. desc'
    circles = list(root.iter('circle'))
    assert [circle.findtext('title') for circle in circles] == ['first', 'second']
    first, second = ((float(circle.attrib['cx']), float(circle.attrib['cy'])) for circle in circles)
    assert first[0] < second[0]
    assert first[1] > second[1]    # larger values are higher up
    rule = next(element for element in root.iter('line') if 'target' in element.attrib['class'])
    assert second[1] < float(rule.attrib['y1']) < first[1]


def test_a_band_lies_behind_the_curves_and_a_terse_chart_says_less() -> None:
    arguments = ('t', 'd', [Series(name='run', points=[(0, 1), (1, 2)], tips=['first', 'last'])],
                 Axis(title='x', low=0.0), Axis(title='y', low=0.0), [], Band(points=[(0, 1, 3), (2, 2, 4)], tip='b'))
    root = ElementTree.fromstring(line_chart(*arguments))  # noqa: S314 - our own
    paths = [path.attrib['class'] for path in root.iter('path')]
    assert paths.index('band') < paths.index('curve')
    band = next(path for path in root.iter('path') if path.attrib['class'] == 'band')
    corners = [tuple(map(float, corner.split())) for corner in band.attrib['d'].strip('MZ').split('L')]
    assert len(corners) == 4
    assert corners[0][1] > corners[3][1]    # at the same x, the upper bound lies above the lower
    assert corners[0][0] == corners[3][0]
    short = line_chart(*arguments, terse=True)
    assert len(short) < len(line_chart(*arguments))
    assert 'run: last' in short
    assert '<circle' not in short


def test_bars_are_as_long_as_their_values() -> None:
    bars = [Bar(label='a', parts=[(1, 'p'), (3, 'q')]), Bar(label='b', parts=[(2, 'p')])]
    root = ElementTree.fromstring(bar_chart('t', 'd', bars, 's'))  # noqa: S314 - our own
    widths = [float(element.attrib['width']) for element in root.iter('rect')]
    assert widths == pytest.approx([widths[0], widths[0] * 3, widths[0] * 2], rel=0.01)


def test_dots_keep_their_places_beside_marks_and_the_tolerance() -> None:
    rows = [Dots(label='a', points=[(27.0, 'a', 'c0')]), Dots(label='b', points=[(33.0, 'b', 'c1')]),
            Dots(label='m', points=(), mean=30.0, interval=(28.5, 31.5), tolerance=(28.0, 29.0))]
    marks = [Rule(value=28.0, label='promised 28'), Rule(value=29.0, label='limit 29', kind='limit')]
    root = ElementTree.fromstring(dot_chart('t', 'd', rows, 'min', marks))  # noqa: S314 - our own
    first, second = (float(circle.attrib['cx']) for circle in root.iter('circle'))
    scale = (second - first) / 6.0
    lines = {line.attrib['class']: line for line in root.iter('line')}
    assert float(lines['rule target'].attrib['x1']) == pytest.approx(first + scale, abs=0.2)
    assert float(lines['rule limit'].attrib['x1']) == pytest.approx(first + 2 * scale, abs=0.2)
    assert (float(lines['interval'].attrib['x1']), float(lines['interval'].attrib['x2'])) == pytest.approx(
        (first + 1.5 * scale, first + 4.5 * scale), abs=0.2)
    shaded = [(float(rect.attrib['x']), float(rect.attrib['width'])) for rect in root.iter('rect')]
    assert shaded == [pytest.approx((first + scale, scale), abs=0.2)] * 2    # of all rows, and of the third
    names = {text.text: text for text in root.iter('text')}
    assert names['promised 28'].attrib['y'] != names['limit 29'].attrib['y']    # they cannot hide each other


@pytest.mark.parametrize('values', [(5.0,), (5.0, 5.0), ()])
def test_dots_without_any_spread_are_inside_their_chart(values: tuple[float, ...]) -> None:
    rows = [Dots(label='a', points=[(value, '', 'c0')]) for value in values]
    root = ElementTree.fromstring(dot_chart('t', 'd', rows, 'min'))  # noqa: S314 - our own
    assert all(124 < float(circle.attrib['cx']) < 396 for circle in root.iter('circle'))


@pytest.mark.parametrize(('values', 'texts'), [
    ([14, 14.667, None], ['14.00', '14.67', '']), ([4.0, 12.0], ['4', '12']), ([1234.5, 1.0], ['1,234.5', '1.0'])])
def test_the_points_of_a_column_stand_under_each_other(values: list[float | None], texts: list[str]) -> None:
    assert column_texts(values) == texts


@pytest.mark.parametrize(('values', 'labels'), [
    ([0, 0.1, 0.25], ['0', '0.10', '0.25']), ([27.5, 30], ['27.5', '30.0']), ([0, 5000, 10000], ['0', '5k', '10k']),
    ([-5, 0, 5], ['−5', '0', '5']), ([], [])])
def test_the_numbers_of_an_axis_have_the_same_decimals(values: list[float], labels: list[str]) -> None:
    assert numbers(values) == labels


def test_a_share_has_its_sign() -> None:
    texts = [percent_text(share) for share in (0.029, -0.029, 0.0004, -0.0004)]
    assert texts == ['+2.9 %', '−2.9 %', '±0.0 %', '±0.0 %']


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 12
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


def test_thinned_curves_keep_ends_and_spikes() -> None:
    points = [(float(x), 100.0 if x == 500 else 1.0) for x in range(1000)]
    thin = downsample(points, 50)
    assert len(thin) == 50
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert (500.0, 100.0) in thin
    assert downsample(points[:50], 50) == points[:50]


def test_markup_is_escaped_once() -> None:
    assert tag('p', '<&>', tag('b', 'x'), title='"') == '<p title="&quot;">&lt;&amp;&gt;<b>x</b></p>'
    assert escape('\x1b[31m') == '\\x1b[31m'


def test_a_suspect_stands_out_and_equal_ranks_have_none() -> None:
    def ranks(*waits: float) -> list[RankTime]:
        return [RankTime(rank=number, host='h', seconds=100, phases={'data_wait': wait})
                for number, wait in enumerate(waits)]
    assert [rank.rank for rank in suspects(ranks(1.0, 1.1, 0.9, 9.0), 'data_wait')] == [3]
    assert suspects(ranks(1.0, 1.01, 0.99, 1.02), 'data_wait') == []
    assert suspects(ranks(0.1, 0.11, 0.09, 0.9), 'data_wait') == []    # less than a hundredth of its time
    assert suspects(ranks(0.0, 0.0, 0.0, 9.0), 'data_wait') == []      # the duty of one rank
    assert suspects([], 'data_wait') == []
