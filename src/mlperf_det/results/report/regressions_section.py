"""The section of a report on lasting changes in the histories of its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.change_points import Kind
from mlperf_det.results.groups import Group
from mlperf_det.results.history import of_run, series_of
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Regression, find_regressions
from mlperf_det.results.report.figures import day_text, percent_text
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.report.svg import Axis, Series, line_chart
from mlperf_det.tables import counted

#: histories that are drawn, those for the worse first
_MOST_CHARTS = 6
#: fewer values than this tell nothing of changes
LEAST_HISTORY = 11


def regressions_of(groups: Sequence[Group]) -> tuple[int, list[Regression]]:
    """Return how many histories are long enough to judge, and their lasting changes."""
    series = [each for each in series_of(of_run(run) for group in groups for run in group.runs if run.record)
              if len(each.observations) >= LEAST_HISTORY]
    return len(series), find_regressions(series)


def regressions_section(histories: int, found: Sequence[Regression], *, always: bool) -> Markup | None:
    """Return the section on lasting changes; None where no history is long enough and nobody asked for it."""
    if not histories and not always:
        return None
    heading = tag('h2', 'Regressions', id='regressions')
    if not found:
        said = (f'No lasting change in {histories} histories.' if histories else
                f'No metric has a history of {LEAST_HISTORY} good runs yet; nothing can be said of changes.')
        return tag('section', heading, tag('p', said), class_='group none')
    rows = []
    for each in found:
        causes = tag('ul', join(tag('li', f'{cause.name}: {cause.before or "–"} → {cause.after or "–"}'
                                    + ('' if cause.lasting else ' (changed at other times too)'))
                                for cause in each.causes)) if each.causes else 'nothing that is on record'
        unit = METRICS[each.series.metric][0]
        tone, words = ('bad', '✕ worse') if each.worse else ('good', '✓ better')
        rows.append([tag('span', tag('span', words, class_='state'), class_=tone),
                     each.series.metric.replace('_', ' '), each.series.case, day_text(each.first_bad.time),
                     each.kind.value, f'{_size(each)} ({each.before:.4g} → {each.after:.4g} {unit})', causes])
    worse = sum(each.worse for each in found)
    shown = sorted(found, key=lambda each: not each.worse)[:_MOST_CHARTS]
    return tag('section', heading, tag('p', _said(worse, len(found))), table(
        ['', 'metric', 'case', 'since', 'kind', 'change', 'changed at that date'], rows, narrow=(0, 3), stacked=True,
        caption='Steps and drifts in the history of each metric, with the first run that is different'),
        tag('div', *map(_chart, shown), class_='charts'), class_='group bad' if worse else 'group good')


def for_the_worse(found: Sequence[Regression]) -> Markup | None:
    """Return a line for the head of the page that leads to the section; None where nothing turned worse."""
    worse = sum(each.worse for each in found)
    return tag('p', tag('a', f'✕ {counted(worse, "lasting change")} for the worse', href='#regressions', class_='bad'),
               class_='counts') if worse else None


def _said(worse: int, found: int) -> str:
    changes = counted(found, 'lasting change')
    return f'{changes}, {worse} for the worse.' if worse else f'{changes}, none for the worse.'


def _size(found: Regression) -> str:
    """Return the relative change; of a share, the difference."""
    if METRICS[found.series.metric][0] != 'fraction':
        return percent_text(found.change)
    return f'{found.change:+.3f}'.replace('-', '−')


def _chart(found: Regression) -> Markup:
    """Draw the history of a metric with its level on either side of the change (of a drift, its way)."""
    observations, last = found.series.observations, len(found.series.observations) - 1
    metric, unit = found.series.metric.replace('_', ' '), METRICS[found.series.metric][0]
    days = [day_text(each.time) for each in observations]
    step = found.kind is Kind.STEP
    points = [(float(place), each.value) for place, each in enumerate(observations)]
    tips = [f'{day}: {value:.4g} {unit}' for day, (_, value) in zip(days, points, strict=True)]
    levels = [Series(name=f'before: {found.before:.4g} {unit}', colour=2, points=[
                  (0.0, found.before), (max(found.index - 1.0, 0.0), found.before)]),
              Series(name=f'after: {found.after:.4g} {unit}', colour=1, points=[
                  (float(found.index), found.after if step else found.before), (float(last), found.after)])]

    def dates(places: Sequence[float]) -> list[str]:
        return [days[int(place)][5:] if place == int(place) else '' for place in places]

    title = f'{metric}: {_size(found)} from {day_text(found.first_bad.time)} on'
    said = (f'{found.series.case}: {found.before:.4g} before, {found.after:.4g} {unit} after. Runs in their order, by '
            'month and day.')
    chart = line_chart(title, said, [*levels, Series(name='runs', points=points, tips=tips, line=False)],
                       Axis(title='', low=0.0, labels=dates), Axis(title=unit))
    return tag('figure', tag('h3', title), chart, tag('figcaption', said))
