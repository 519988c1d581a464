"""What a report says over all groups: scaling, the place among published systems, and regressions."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from mlperf_det.results.groups import Group
from mlperf_det.results.history import of_run, series_of
from mlperf_det.results.published import published_result, published_results
from mlperf_det.results.references.table import METRICS
from mlperf_det.results.regressions import Regression, find_regressions
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.report.svg import COLOURS, legend
from mlperf_det.results.report.svg_scatter import Cloud, scatter_chart
from mlperf_det.results.score import Score, scaling_efficiency

#: fewer values than this tell nothing of changes
LEAST_HISTORY = 11
#: rows of a table before the rest is left to the chart
_MOST_ROWS = 60
_NAMES = {'ssd': 'SSD300', 'retinanet': 'RetinaNet', 'maskrcnn': 'Mask R-CNN'}


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A group's geometry and figures: minutes to train and images/s; None: not known."""

    group: Group
    accelerators: int
    accelerator: str
    minutes: float | None
    rate: float | None


def standing_sections(groups: Sequence[Group], scores: Sequence[Score | None], *, published: bool) -> list[Markup]:
    """Return a section for each benchmark with runs at a known geometry.

    Args:
        groups: of the report.
        scores: of the groups.
        published: compare with published results too.
    """
    places = [place for group, score in zip(groups, scores, strict=True)
              if (place := _place(group, score)) is not None]
    return [_section(benchmark, found, published=published) for benchmark in _NAMES
            if (found := [place for place in places if place.group.runs[0].benchmark == benchmark])]


def _place(group: Group, score: Score | None) -> _Place | None:
    first = group.runs[0]
    count = first.geometry.accelerators
    if score is None or not count or first.geometry.accelerator == 'cpu' or first.tier == 'smoke':
        return None
    minutes = score.minutes if score.minutes is not None else score.mean
    rates = [rate for run in group.runs if (rate := run.throughput.steady or run.throughput.training)]
    if not minutes and not rates:
        return None
    return _Place(group=group, accelerators=count, accelerator=first.geometry.accelerator, minutes=minutes or None,
                  rate=sum(rates) / len(rates) if rates else None)


def _section(benchmark: str, places: Sequence[_Place], *, published: bool) -> Markup:
    parts = [tag('h2', f'{_NAMES[benchmark]}: scaling' + (' and published systems' if published else ''))]
    parts += [chart for chart in (_scaling_chart(benchmark, places, published=published),) if chart]
    if published:
        parts.append(_standing_table(benchmark, places))
    if efficiency := _efficiency_table(places):
        parts.append(efficiency)
    return tag('section', *parts, class_='group')


def _scaling_chart(benchmark: str, places: Sequence[_Place], *, published: bool) -> Markup | None:
    timed = sorted((place for place in places if place.minutes), key=lambda place: place.accelerators)
    if not timed:
        return None
    clouds = []
    if published:
        results = [result for result in published_results() if result.benchmark == benchmark]
        clouds.append(Cloud(kind='published', points=[(result.accelerators, result.best_minutes) for result in results],
                            tips=[f'{result.accelerators} x {result.accelerator}: {result.best_minutes:.2f} min '
                                  f'({result.round} {result.submitter})' for result in results]))
    names = list(dict.fromkeys(place.accelerator for place in timed))
    for number, name in enumerate(names):
        mine = [place for place in timed if place.accelerator == name]
        clouds.append(Cloud(kind=f'c{number % COLOURS}', points=[
            (place.accelerators, place.minutes or 0) for place in mine], tips=[
            f'{place.group.title}: {place.minutes:.2f} min on {place.accelerators} x {name}' for place in mine]))
    said = (f'{len(timed)} group(s) of this report on {", ".join(names[:6])}{" and others" if len(names) > 6 else ""}'
            + ('; grey: the best published result of each accelerator and count.' if published else '.'))
    title = 'Time to train over accelerators'
    return tag('figure', tag('h3', title), scatter_chart(title, said, clouds, 'accelerators', 'minutes'),
               legend(names) if len(names) <= COLOURS else None, tag('figcaption', said), class_='wide')


def _standing_table(benchmark: str, places: Sequence[_Place]) -> Markup:
    rows = []
    for place in places[:_MOST_ROWS]:
        if not place.minutes:
            continue
        there = published_result(benchmark, place.accelerator, place.accelerators)
        geometry = f'{place.accelerators} × {place.accelerator}'
        if there is None:
            rows.append([place.group.title, geometry, f'{place.minutes:.2f}', '', '', 'nobody published this geometry'])
            continue
        best = (f'{there.best_minutes:.2f} ({there.round} {there.submitter})')
        middle = f'{there.median_minutes:.2f} of {there.results}'
        rows.append([place.group.title, geometry, f'{place.minutes:.2f}', best, middle,
                     f'{_percent(place.minutes / there.median_minutes - 1)} to the median'])
    rest = f'; the first {_MOST_ROWS} of {len(places)} groups' if len(places) > _MOST_ROWS else ''
    return table(['group', 'hardware', 'minutes', 'best published', 'median', 'this system'], rows, numeric=(2,),
                 caption=f'Beside published MLPerf results of the same accelerator and number of them{rest}')


def _efficiency_table(places: Sequence[_Place]) -> Markup | None:
    """Compare geometries of one system; published systems differ in more than their size."""
    rows = []
    families: dict[tuple[str, ...], list[_Place]] = {}
    for place in places:
        run = place.group.runs[0]
        if place.rate and run.record is not None:
            families.setdefault((run.system, place.accelerator, run.precision), []).append(place)
    for family in families.values():
        small = min(family, key=lambda place: place.accelerators)
        for place in sorted(family, key=lambda place: place.accelerators):
            if place.accelerators > small.accelerators and place.rate and small.rate:
                efficiency = scaling_efficiency((small.accelerators, small.rate), (place.accelerators, place.rate))
                rows.append([place.group.title, f'{small.accelerators} to {place.accelerators}',
                             f'{place.rate / small.rate:.2f}', f'{efficiency:.1%}'])
    if not rows:
        return None
    return table(['group', 'accelerators', 'speed-up', 'efficiency'], rows, numeric=(2, 3),
                 caption='Scaling: images/s against the smallest geometry; 100 % is ideal')


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
                     _day(each.first_bad.time), each.kind.value,
                     f'{size} ({each.before:.4g} → {each.after:.4g} {unit})', causes])
    worse = sum(each.worse for each in found)
    return tag('section', heading, tag('p', f'{worse} of {len(found)} lasting changes are for the worse.'), table(
        ['', 'metric', 'case', 'since', 'kind', 'change', 'changed at that date'], rows,
        caption='Steps and drifts in the history of each metric, with the first run that is different'),
        class_='group bad' if worse else 'group good')


def _percent(share: float) -> str:
    """Return a share with its sign; what rounds to zero has none."""
    text = f'{share:+.1%}'
    return '±0.0%' if text in ('+0.0%', '-0.0%') else text


def _day(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date().isoformat()
