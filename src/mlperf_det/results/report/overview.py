"""The first page of a report: the verdict in a sentence, then a line for each group. It is for those who decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mlperf_det.results.judging import Judged
from mlperf_det.results.report.figures import day_text, epochs_of, figure_text, percent_text, rate_text
from mlperf_det.results.report.group import TONES
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.run import Run
from mlperf_det.results.verdict import SEVERITY, State, Verdict

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


def top(judged: Judged, title: str, state: State) -> Markup:
    """Return the head of the page: title, verdict of the whole, and what it stands on."""
    tone, sign = TONES[state]
    runs = [run for group in judged.groups for run in group.runs]
    days = sorted({day_text(run.started) for run in runs if run.started is not None and 0 < run.started < 4e9})
    counts = {each: sum(verdict.state is each for verdict in judged.verdicts) for each in reversed(SEVERITY)}
    said = ', '.join(f'{count} {each.value}' for each, count in counts.items() if count)
    when = '' if not days else f' Run on {days[0]}.' if len(days) == 1 else f' Run from {days[0]} to {days[-1]}.'
    unjudged = state is State.PASS and not any(verdict.judgements for verdict in judged.verdicts)
    meaning = _NOT_JUDGED if unjudged else _MEANINGS[state]
    return tag('header', tag('p', 'MLPerf detection training', class_='eyebrow'), tag('h1', title),
               tag('p', tag('span', tag('b', sign, aria_hidden='true'), state.value, class_='badge'),
                   tag('span', meaning, class_='meaning'), class_='whole'),
               tag('p', f'Runs: {len(runs)}. Groups: {said}.{when}', class_='lede'),
               class_=f'top {tone}')


def overview(judged: Judged) -> Markup:
    """Return the table of all verdicts, the worst first."""
    runs_of = {number: group.runs for number, group in enumerate(judged.groups)}
    numbered = sorted(enumerate(judged.verdicts), key=lambda item: -SEVERITY.index(item[1].state))
    referred = any(map(_to_reference, judged.verdicts))
    compared = ['to reference'] if referred else []
    head = ['verdict', 'group', 'converged', 'score, min', *compared, 'epochs', 'images/s']
    rows: list[Sequence[object] | Markup] = []
    for number, verdict in numbered:
        rows += [_figures(number, verdict, runs_of.get(number, ()), referred=referred),
                 _cause(verdict, columns=len(head))]
    return tag('section', tag('h2', 'Overview'), table(
        head, rows, numeric=range(2, len(head)), titles=(1,), stacked=True,
        caption='The score is the mean time to train without the fastest and the slowest run'),
        class_='group', id='overview')


def _cause(verdict: Verdict, *, columns: int) -> Markup:
    """Return a row of its own: a sentence needs the width of the page."""
    return tag('tr', tag('td'), tag('td', f'{verdict.cause}.', colspan=columns - 1), class_='why')


def _figures(number: int, verdict: Verdict, runs: Sequence[Run], *, referred: bool) -> list[object]:
    tone, sign = TONES[verdict.state]
    score = verdict.score
    marks = [tag('span', mark, class_='mark') for mark in verdict.marks]
    minutes = '' if score is None or score.mean is None else f'{score.mean:.2f} (mean)'
    if score is not None and score.minutes is not None:
        minutes = f'{score.minutes:.2f}'
    rate = None if score is None else score.throughput_training or score.throughput
    return [tag('span', tag('span', f'{sign} {verdict.state.value}', class_='state'), class_=tone),
            join([tag('a', verdict.title, href=f'#g{number}'), *marks]),
            f'{score.converged}/{score.runs}' if score else '', minutes,
            *([_to_reference(verdict)] if referred else []), figure_text(epochs_of(score, runs) if score else None),
            rate_text(rate)]


def _to_reference(verdict: Verdict) -> str:
    """Return how far the first judged metric is from its reference; empty without one."""
    judged = next((each for each in verdict.judgements if each.reference is not None), None)
    if judged is None or judged.reference is None:
        return ''
    what = 'time' if judged.metric == 'time_to_train' else judged.unit
    return f'{percent_text(judged.mean / judged.reference.value - 1)} {what}'
