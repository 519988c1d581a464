"""Time to train over the number of accelerators: measured, published and modelled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mlperf_det.results.groups import Group
from mlperf_det.results.published import published_results
from mlperf_det.results.report.html import Markup, join, tag
from mlperf_det.results.report.svg import COLOURS
from mlperf_det.results.report.svg_scatter import Cloud, Fit, scatter_chart
from mlperf_det.results.scaling import published_law
from mlperf_det.results.score import Score
from mlperf_det.tables import counted

#: accelerators of a report that get a fitted curve; the bands of more would hide each other
_MOST_FITS = 3
_FIT_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class Place:
    """A group's geometry and figures: minutes to train and images/s; None: not known."""

    group: Group
    benchmark: str
    accelerators: int
    accelerator: str
    minutes: float | None
    rate: float | None


def place_of(group: Group, score: Score) -> Place | None:
    """Return the place of a group; None for reduced runs, runs without accelerators, and those with no figure."""
    first = group.runs[0]
    count = first.geometry.accelerators
    if not count or first.geometry.accelerator == 'cpu' or first.tier == 'smoke':
        return None
    # Without a score, only the mean of runs that all converged can be compared.
    minutes = score.minutes if score.minutes is not None else score.mean if score.converged == score.runs else None
    rates = [rate for run in group.runs if (rate := run.throughput.steady or run.throughput.training)]
    if not minutes and not rates:
        return None
    return Place(group=group, benchmark=first.benchmark, accelerators=count, accelerator=first.geometry.accelerator,
                 minutes=minutes or None, rate=sum(rates) / len(rates) if rates else None)


def scaling_chart(benchmark: str, timed: Sequence[Place], *, published: bool) -> Markup:
    """Return the chart of groups with a time, at least one; with published results and the law fitted to them."""
    names = [name for name, _ in Counter(place.accelerator for place in timed).most_common()]
    clouds, fits = [], []
    if published:
        fits = [fit for number, name in enumerate(names[:_MOST_FITS]) if (fit := _fit(benchmark, name, number))]
        clouds = _published(benchmark, names)
    for number, name in enumerate(names):
        mine = sorted((place for place in timed if place.accelerator == name), key=lambda place: place.accelerators)
        clouds.append(Cloud(
            kind=f'c{number % COLOURS}', diamond=True, points=[(place.accelerators, place.minutes or 0)
                                                               for place in mine],
            tips=[f'{place.group.title}: {place.minutes:.2f} min on {place.accelerators} x {name}' for place in mine]))
    listed = ', '.join(names[:COLOURS]) + (' and others' if len(names) > COLOURS else '')
    said = f'{counted(len(timed), "group")} of this report on {listed}.'
    if fits:
        said += (' The curve is the scaling law fitted to all published results; 95 % of further results are expected '
                 'in its band.')
    title = 'Time to train over accelerators'
    chart = scatter_chart(title, said, clouds, fits, 'accelerators', 'minutes')
    return tag('figure', tag('h3', title), chart, _key(names, [cloud.kind for cloud in clouds], fitted=bool(fits)),
               tag('figcaption', said), class_='wide')


def _published(benchmark: str, names: Sequence[str]) -> list[Cloud]:
    """Return the published results: of the report's accelerators in their colours, of others in grey."""
    results = [result for result in published_results() if result.benchmark == benchmark]
    colours = {name: f'published c{number % COLOURS}' for number, name in enumerate(names)}
    clouds = []
    for kind in dict.fromkeys(['published', *colours.values()]):
        mine = [result for result in results if colours.get(result.accelerator, 'published') == kind]
        if mine:
            points = [(result.accelerators, result.best_minutes) for result in mine]
            clouds.append(Cloud(kind=kind, points=points, tips=[
                f'{result.accelerators} x {result.accelerator}: {result.best_minutes:.2f} min '
                f'({result.round} {result.submitter})' for result in mine]))
    return clouds


def _fit(benchmark: str, accelerator: str, number: int) -> Fit | None:
    """Return the law between the smallest and the largest published number; None for one number or none."""
    law = published_law(benchmark, 'time_to_train')
    counts = law.counts.get(accelerator, ())
    if len(counts) < 2:
        return None
    low, high = math.log(min(counts)), math.log(max(counts))
    points = []
    for step in range(_FIT_POINTS + 1):
        count = math.exp(low + (high - low) * step / _FIT_POINTS)
        found = law.predict(accelerator, count)
        if found is not None:
            least, most = found.interval()
            points.append((count, found.value / 60, least / 60, most / 60))
    return Fit(points=points, kind=f'c{number % COLOURS}', tip=f'{accelerator}: modelled, with its 95 % band')


def _key(names: Sequence[str], kinds: Sequence[str], *, fitted: bool) -> Markup:
    """Return the key to colours and marks, of what the chart has."""
    keys = [tag('span', tag('i', class_=f'swatch c{number}'), name, class_='key')
            for number, name in enumerate(names)] if len(names) <= COLOURS else []
    keys.append(tag('span', tag('i', '◆', aria_hidden='true'), ' measured', class_='key'))
    if any(kind.startswith('published c') for kind in kinds):
        keys.append(tag('span', tag('i', '○', aria_hidden='true'), ' published, same accelerator', class_='key'))
    if 'published' in kinds:
        keys.append(tag('span', tag('i', '●', aria_hidden='true', class_='soft'), ' published, others', class_='key'))
    if fitted:
        keys.append(tag('span', tag('i', class_='swatch modelled'), 'modelled, 95 % band', class_='key'))
    return tag('p', join(keys), class_='legend')
