"""The section of a report on lasting changes in the histories of its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.groups import Group
from mlperf_det.results.history import of_run, series_of
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Regression, find_regressions
from mlperf_det.results.report.figures import day_text
from mlperf_det.results.report.html import Markup, join, table, tag

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
        size = f'{each.change:+.1%}' if unit != 'fraction' else f'{each.change:+.3f}'
        rows.append(['✕ worse' if each.worse else '✓ better', each.series.metric.replace('_', ' '), each.series.case,
                     day_text(each.first_bad.time), each.kind.value,
                     f'{size} ({each.before:.4g} → {each.after:.4g} {unit})', causes])
    worse = sum(each.worse for each in found)
    return tag('section', heading, tag('p', f'{worse} of {len(found)} lasting changes are for the worse.'), table(
        ['', 'metric', 'case', 'since', 'kind', 'change', 'changed at that date'], rows,
        caption='Steps and drifts in the history of each metric, with the first run that is different'),
        class_='group bad' if worse else 'group good')
