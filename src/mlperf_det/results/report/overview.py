"""The first page of a report: the verdict in a sentence, then a line for each group. It is for those who decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mlperf_det.results.judging import Judged
from mlperf_det.results.report.figures import (
    column_texts,
    day_text,
    epochs_of,
    fixed_text,
    percent_text,
    rate_text,
)
from mlperf_det.results.report.group import TONES
from mlperf_det.results.report.html import Markup, breakable, join, table, tag
from mlperf_det.results.run import Run
from mlperf_det.results.verdict import SEVERITY, State, Verdict
from mlperf_det.tables import counted

#: what the worst state of a report means for it as a whole
_MEANINGS: Mapping[State, str] = MappingProxyType({
    State.PASS: 'Everything reached its quality target, and performance is as good as its references.',
    State.PASS_SLOW: 'Everything reached its quality target; some is slower than its reference, within the limit.',
    State.UNSTABLE: 'Nothing has failed, but some runs are too few or too scattered to decide.',
    State.FAIL_QUALITY: 'A quality target was missed, or the rules of the benchmark were broken.',
    State.FAIL_PERF: 'Every quality target was reached, but performance is beyond the limit of a reference.',
    State.FAIL_INFRA: 'Some runs died, contradict themselves, or lack a reference to be judged by.',
    State.NOT_RUN: 'Something that was asked for was not run.'})


_NOT_JUDGED = 'Everything reached its quality target. Performance was not judged: nothing was given to hold it against.'


def top(judged: Judged, title: str, state: State, besides: Markup | None = None) -> Markup:
    """Return the head of the page: title, verdict of the whole, what it stands on, and what is to be said besides."""
    tone, sign = TONES[state]
    runs = [run for group in judged.groups for run in group.runs]
    days = sorted({day_text(run.started) for run in runs if run.started is not None and 0 < run.started < 4e9})
    counts = {each: sum(verdict.state is each for verdict in judged.verdicts) for each in reversed(SEVERITY)}
    said = join(tag('span', tag('b', count, ' ', each.value, class_='state'), class_=TONES[each][0])
                for each, count in counts.items() if count)
    when = '' if not days else f', on {days[0]}' if len(days) == 1 else f', from {days[0]} to {days[-1]}'
    groups = len(judged.verdicts)
    lede = f'{counted(len(runs), "run")} in {counted(groups, "group")}{when}.'
    unjudged = state is State.PASS and not any(verdict.judgements for verdict in judged.verdicts)
    meaning = _NOT_JUDGED if unjudged else _MEANINGS[state]
    return tag('header', tag('p', 'MLPerf detection training', class_='eyebrow'), tag('h1', title),
               tag('p', tag('span', tag('b', sign, aria_hidden='true'), state.value, class_='badge'),
                   tag('span', meaning, class_='meaning'), class_='whole'),
               tag('p', lede, class_='lede'), tag('p', said, class_='counts') if groups > 1 else None, besides,
               class_=f'top {tone}')


def overview(judged: Judged) -> Markup:
    """Return the table of all verdicts, the worst first. What did not pass has its cause below it."""
    runs_of = {number: group.runs for number, group in enumerate(judged.groups)}
    numbered = sorted(enumerate(judged.verdicts), key=lambda item: -SEVERITY.index(item[1].state))
    columns = _columns([(verdict, runs_of.get(number, ())) for number, verdict in numbered])
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    rows: list[Sequence[object] | Markup] = []
    for place, (number, verdict) in enumerate(numbered):
        rows.append([_state(verdict), _name(number, verdict), *(cells[place] for cells in shown.values())])
        if verdict.state is not State.PASS:
            rows.append(_cause(verdict, columns=2 + len(shown)))
    return tag('section', tag('h2', 'Overview'), table(
        ['verdict', 'group', *shown], rows, numeric=range(2, 2 + len(shown)), titles=(1,), stacked=True,
        caption='The score is the mean time to train without the fastest and the slowest run; the AP margin is how far '
                'the lowest final AP lies above its target'), class_='group', id='overview')


def _columns(verdicts: Sequence[tuple[Verdict, Sequence[Run]]]) -> dict[str, list[str]]:
    """Return the figures of each verdict, by name of the column."""
    scores = [verdict.score for verdict, _ in verdicts]
    minutes = [None if score is None else score.minutes if score.minutes is not None else score.mean
               for score in scores]
    means = ['' if score is None or score.minutes is not None or score.mean is None else ' (mean)' for score in scores]
    return {
        'converged': [f'{score.converged} of {score.runs}' if score else '' for score in scores],
        'score, min': [fixed_text(each) + mean for each, mean in zip(minutes, means, strict=True)],
        'to reference': [_to_reference(verdict) for verdict, _ in verdicts],
        'AP margin': [_margin(runs) for _, runs in verdicts],
        'epochs': column_texts([epochs_of(score, runs) if score else None
                                for score, (_, runs) in zip(scores, verdicts, strict=True)]),
        'images/s': [rate_text(None if score is None else score.throughput_training or score.throughput)
                     for score in scores]}


def _margin(runs: Sequence[Run]) -> str:
    """Return how far the lowest final AP of the converged runs lies above its target; empty without any."""
    margins = [run.final_metrics[metric] - least for run in runs if run.converged
               for metric, least in run.target.items() if metric in run.final_metrics]
    return f'{min(margins):+.4f}'.replace('-', '−') if margins else ''


def _state(verdict: Verdict) -> Markup:
    tone, sign = TONES[verdict.state]
    return tag('span', tag('span', f'{sign} {verdict.state.value}', class_='state'), class_=tone)


def _name(number: int, verdict: Verdict) -> Markup:
    return join([tag('a', breakable(verdict.title), href=f'#g{number}'), *(
        tag('span', mark, class_='mark') for mark in verdict.marks)])


def _cause(verdict: Verdict, *, columns: int) -> Markup:
    """Return a row of its own: a sentence needs the width of the page."""
    return tag('tr', tag('td'), tag('td', f'{verdict.cause}.', colspan=columns - 1), class_='why')


def _to_reference(verdict: Verdict) -> str:
    """Return how far the first judged metric is from its reference; empty without one."""
    judged = next((each for each in verdict.judgements if each.reference is not None), None)
    if judged is None or judged.reference is None:
        return ''
    what = 'time' if judged.metric == 'time_to_train' else judged.unit
    return f'{percent_text(judged.mean / judged.reference.value - 1)} {what}'
