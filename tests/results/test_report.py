"""The report: complete, self-contained, the same for the same input, and safe with whatever logs contain."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.judging import judge_all
from mlperf_det.results.reading import read_runs
from mlperf_det.results.report.assets import script
from mlperf_det.results.report.html import escape, tag
from mlperf_det.results.report.page import build_report
from mlperf_det.results.report.spread import suspect_sentences, suspects
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
