"""The report: one self-contained page of runs and verdicts. The same runs and verdicts give the same bytes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from mlperf_det import __version__
from mlperf_det.results.groups import Group
from mlperf_det.results.judging import Judged
from mlperf_det.results.report.charts import (
    accuracy_chart,
    breakdown_chart,
    run_name,
    runs_legend,
    times_chart,
    track_chart,
)
from mlperf_det.results.report.facts import configuration, node_table, provenance, rank_table
from mlperf_det.results.report.html import Markup, escape, join, raw, table, tag
from mlperf_det.results.report.script import SCRIPT, SCRIPT_HASH
from mlperf_det.results.report.standing import regressions_of, regressions_section, standing_sections
from mlperf_det.results.report.style import CSS
from mlperf_det.results.report.thaisc_tables import thaisc_section
from mlperf_det.results.run import Run, TrackPoint
from mlperf_det.results.verdict import State, Verdict, overall

#: state -> tone of the page, and a sign that needs no colour
_TONES: Mapping[State, tuple[str, str]] = MappingProxyType({
    State.PASS: ('good', '✓'), State.PASS_SLOW: ('warn', '✓'), State.UNSTABLE: ('warn', '?'),
    State.FAIL_QUALITY: ('bad', '✕'), State.FAIL_PERF: ('bad', '✕'), State.FAIL_INFRA: ('bad', '!'),
    State.NOT_RUN: ('none', '–'),
})
#: with more groups, details are folded and curves are thinned
MANY_GROUPS = 20
_CURVE_POINTS, _CURVE_POINTS_OF_MANY = 160, 16
#: hyperparameters of a published log that are shown
_FACTS, _FACTS_OF_MANY = 40, 10


class Theme(str, Enum):
    """Whom a report is for."""

    ACCEPTANCE = 'acceptance'    # verdicts first, with the place among published systems
    NIGHTLY = 'nightly'          # what turned worse first
    VENDOR = 'vendor'            # a vendor's own systems alone: nothing of others is in it


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a report is written.

    Attributes:
        title: headline of the page.
        theme: whom it is for.
        thaisc_nodes: proposed node count for ThaiSC's tables; None: without these tables.
    """

    title: str = 'Acceptance report'
    theme: Theme = Theme.ACCEPTANCE
    thaisc_nodes: int | None = None


def build_report(judged: Judged, options: Options = Options()) -> bytes:
    """Return the page as UTF-8. Nothing in it is loaded from anywhere; texts from logs are escaped."""
    state = overall(judged.verdicts)
    many = len(judged.groups) > MANY_GROUPS
    nightly, several = options.theme is Theme.NIGHTLY, len(judged.verdicts) > 1
    regressions = regressions_section(*regressions_of(judged.groups), always=nightly)
    standing = standing_sections(judged.groups, [verdict.score for verdict in judged.verdicts[:len(judged.groups)]],
                                 published=options.theme is not Theme.VENDOR)
    beside = [*standing, None if nightly else regressions]
    if options.thaisc_nodes:
        beside.append(thaisc_section(judged.groups, options.thaisc_nodes))
    groups = [_group(group, verdict, number, judged.findings, many=many)
              for number, (group, verdict) in enumerate(zip(judged.groups, judged.verdicts, strict=False))]
    for number, verdict in enumerate(judged.verdicts[len(judged.groups):], start=len(judged.groups)):
        groups.append(tag('section', _headline(verdict, f'g{number}'), class_=f'group {_TONES[verdict.state][0]}'))
    # The verdict comes first: that of several groups is the overview.
    sections = [_overview(judged) if several else None, regressions if nightly else None,
                *(beside if several else groups), *(groups if several else beside)]
    head = tag('head', tag('meta', charset='utf-8'), tag('title', f'{state.value} – {options.title}'),
               tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
               tag('meta', http_equiv='Content-Security-Policy',
                   content=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{SCRIPT_HASH}'"),
               tag('style', raw(CSS)))
    body = tag('body', _top(judged, options.title, state), tag('main', *sections), _footer(),
               tag('script', raw(SCRIPT)))
    return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'.encode()


def _top(judged: Judged, title: str, state: State) -> Markup:
    runs = [run for group in judged.groups for run in group.runs]
    started = [run.started for run in runs if run.started is not None and 0 < run.started < 4e9]
    counts = {each: sum(verdict.state is each for verdict in judged.verdicts) for each in State}
    said = ', '.join(f'{count} {each.value}' for each, count in counts.items() if count)
    when = f' Runs of {_day(min(started))}' + (
        f' to {_day(max(started))}.' if _day(min(started)) != _day(max(started)) else '.') if started else ''
    return tag('header', tag('p', 'MLPerf detection training', class_='eyebrow'), tag('h1', title),
               tag('p', f'{len(judged.groups)} group(s), {len(runs)} run(s): {said}.{when}', class_='lede'),
               class_=f'top {_TONES[state][0]}')


def _overview(judged: Judged) -> Markup:
    rows = []
    for number, verdict in enumerate(judged.verdicts):
        tone, sign = _TONES[verdict.state]
        score = verdict.score
        rows.append([
            tag('span', tag('span', f'{sign} {verdict.state.value}', class_='state'), class_=tone),
            tag('a', verdict.title, href=f'#g{number}'), f'{score.converged}/{score.runs}' if score else '',
            _number(score.minutes if score else None), _number(score.epochs if score else None),
            _rate_text(score.throughput if score else None), ', '.join(verdict.marks)])
    return tag('section', tag('h2', 'Overview'), table(
        ['verdict', 'group', 'converged', 'score, min', 'epochs', 'images/s', 'marks'], rows, numeric=(2, 3, 4, 5),
        caption='MLPerf score: mean time to train without the fastest and the slowest run'), class_='group',
        id='overview')


def _group(group: Group, verdict: Verdict, number: int, findings: Mapping[str, Sequence[str]], *, many: bool) -> Markup:
    runs = group.runs
    points = _CURVE_POINTS_OF_MANY if many else _CURVE_POINTS
    charts = [accuracy_chart(runs, metric, over_epochs=epochs, terse=many)
              for metric in ('bbox', 'segm') for epochs in ((False,) if many else (False, True))]
    charts += [track_chart(runs, 'Training loss', '', _loss, points),
               track_chart(runs, 'Throughput', 'images/s', _rate, points),
               times_chart(runs, verdict.judgements), breakdown_chart(runs)]
    details = [_runs_table(runs), rank_table(runs), node_table(runs),
               configuration(runs[0], _FACTS_OF_MANY if many else _FACTS), provenance(runs[0])]
    return tag(
        'section', _headline(verdict, f'g{number}'), _tiles(runs, verdict), _notes(verdict),
        _findings(runs, findings), tag('h3', 'Course of the runs'), runs_legend(runs),
        tag('div', *charts, class_='charts'),
        tag('details', tag('summary', 'Runs, configuration and provenance'), *details) if many else join(
            part for part in details if part),
        class_=f'group {_TONES[verdict.state][0]}' + (' many' if many else ''), aria_labelledby=f'g{number}')


def _headline(verdict: Verdict, identifier: str) -> Markup:
    tone, sign = _TONES[verdict.state]
    marks = tag('p', join(tag('span', mark, class_='mark') for mark in verdict.marks), class_='marks')
    return tag('div', tag('span', tag('b', sign, aria_hidden='true'), verdict.state.value, class_='badge'),
               tag('h2', verdict.title, id=identifier), tag('p', f'{verdict.cause}.', class_='cause'),
               marks if verdict.marks else None, class_=f'verdict {tone}')


def _tiles(runs: Sequence[Run], verdict: Verdict) -> Markup:
    score = verdict.score
    assert score is not None
    first = runs[0]
    shown: list[tuple[str, str, str]] = [('Converged', f'{score.converged} of {score.runs}', 'runs')]
    minutes = score.minutes if score.minutes is not None else score.mean
    if minutes is not None:
        kind = 'MLPerf score' if score.minutes is not None else 'mean'
        shown.append(('Time to train', f'{minutes:.2f}' if minutes < 1000 else f'{minutes:.0f}', f'min, {kind}'))
    epochs = score.epochs or next((run.epochs_to_target for run in runs if run.epochs_to_target), None)
    if epochs is not None:
        shown.append(('Epochs to target', f'{epochs:.4g}', ''))
    rate = score.throughput_training or score.throughput or first.throughput.steady
    if rate is not None:
        shown.append(('Throughput', _rate_text(rate), 'images/s in training'))
    for metric, value in first.final_metrics.items():
        worst = min((run.final_metrics[metric] for run in runs if metric in run.final_metrics and run.converged),
                    default=value)
        shown.append((f'Lowest final {metric} AP', f'{worst:.4f}', f'target {first.target.get(metric, 0):g}'))
    if (count := first.geometry.accelerators) and first.geometry.accelerator == 'cpu':
        shown.append(('Hardware', 'CPU', f'{count} rank{"s" if count > 1 else ""}'))
    elif count:
        shown.append(('Hardware', f'{count} ×', first.geometry.accelerator or 'accelerators'))
    return tag('dl', join(tag('div', tag('dt', name), tag('dd', value, tag('small', unit)), class_='tile')
                          for name, value, unit in shown), class_='tiles')


def _notes(verdict: Verdict) -> Markup | None:
    return tag('ul', join(tag('li', note) for note in verdict.notes), class_='notes') if verdict.notes else None


def _findings(runs: Sequence[Run], findings: Mapping[str, Sequence[str]]) -> Markup | None:
    found = [(run_name(run), finding) for run in runs for finding in findings.get(str(run.log), ())]
    if not found:
        return None
    return tag('div', tag('h3', 'Rule findings'), tag('ul', join(
        tag('li', f'{name}: {finding}') for name, finding in found)), class_='findings')


def _runs_table(runs: Sequence[Run]) -> Markup:
    rows = [[run_name(run), run.status.value, _number(_minutes(run.time_to_train_seconds)),
             _number(run.epochs_to_target), *(_number(run.final_metrics.get(metric), 4) for metric in ('bbox', 'segm')),
             _rate_text(run.throughput.training or run.throughput.steady), run.seed if run.seed is not None else '',
             run.reason + (f'; forgiven: {"; ".join(run.forgiven)}' if run.forgiven else '')] for run in runs]
    return join([tag('h3', 'Runs'), table(
        ['run', 'status', 'time, min', 'epochs', 'bbox AP', 'segm AP', 'images/s', 'seed', 'in words'], rows,
        caption='Each run, by its own log', numeric=(2, 3, 4, 5, 6, 7))])


def _footer() -> Markup:
    return tag('footer', tag('p', (
        f'mlperf-det {__version__}. Times are run_stop − run_start; the score is the mean of the times without the '
        'fastest and the slowest run. AP is COCO average precision at IoU 0.50 to 0.95. runs.csv and summary.json '
        'beside this page hold the same figures.')))


def _loss(point: TrackPoint) -> float | None:
    return point.loss


def _rate(point: TrackPoint) -> float | None:
    return point.images_per_second


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


def _number(value: float | None, digits: int = 0) -> Markup:
    if value is None:
        return escape('')
    return escape(f'{value:.{digits}g}' if digits else f'{value:.2f}'.rstrip('0').rstrip('.'))


def _rate_text(rate: float | None) -> str:
    if rate is None:
        return ''
    return f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date().isoformat()
