"""Where the systems of a report stand: beside published ones, what the scaling law expects, and how they scale."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.groups import Group
from mlperf_det.results.published import published_result, published_results
from mlperf_det.results.report.figures import percent_text
from mlperf_det.results.report.html import Markup, table, tag
from mlperf_det.results.report.scaling_chart import Place, place_of, scaling_chart
from mlperf_det.results.scaling import published_law
from mlperf_det.results.score import Score, scaling_efficiency

#: rows of a table before the rest is left to the chart
_MOST_ROWS = 60
NAMES = {'ssd': 'SSD300', 'retinanet': 'RetinaNet', 'maskrcnn': 'Mask R-CNN'}


def standing_sections(groups: Sequence[Group], scores: Sequence[Score | None], *, published: bool) -> list[Markup]:
    """Return a section for each benchmark with timed runs at a known geometry.

    Args:
        groups: of the report.
        scores: of the groups.
        published: compare with published results too.
    """
    places = [place for group, score in zip(groups, scores, strict=True)
              if score is not None and (place := place_of(group, score)) is not None]
    sections = [_section(benchmark, [place for place in places if place.benchmark == benchmark], published=published)
                for benchmark in NAMES]
    return [section for section in sections if section]


def _section(benchmark: str, places: Sequence[Place], *, published: bool) -> Markup | None:
    timed = [place for place in places if place.minutes]
    parts = [scaling_chart(benchmark, timed, published=published) if timed else None,
             _standing_table(benchmark, timed) if timed and published else None, _efficiency_table(places)]
    if not any(parts):
        return None
    title = f'{NAMES[benchmark]}: scaling' + (' and published systems' if published else '')
    return tag('section', tag('h2', title), *parts, class_='group')


def _standing_table(benchmark: str, timed: Sequence[Place]) -> Markup:
    rows = []
    for place in timed[:_MOST_ROWS]:
        minutes = place.minutes or 0.0
        there = published_result(benchmark, place.accelerator, place.accelerators)
        expected = published_law(benchmark, 'time_to_train').predict(place.accelerator, place.accelerators)
        if there is None:
            said = ('nobody published this accelerator' if expected is None else
                    f'{percent_text(minutes * 60 / expected.value - 1)} to the model')
            best = middle = '–'
        else:
            said = (f'{percent_text(minutes / there.median_minutes - 1)} to the median, '
                    f'{percent_text(minutes / there.best_minutes - 1)} to the best')
            best, middle = (f'{there.best_minutes:.2f} ({there.round} {there.submitter})',
                            f'{there.median_minutes:.2f} of {there.results}')
        model = '–'
        if expected is not None:
            low, high = expected.interval()
            model = f'{expected.value / 60:.2f} ({low / 60:.2f} to {high / 60:.2f})'
        rows.append([place.group.title, f'{minutes:.2f}', best, middle, model, said,
                     _rank(benchmark, place, minutes)])
    rest = f'; the first {_MOST_ROWS} of {len(timed)} groups' if len(timed) > _MOST_ROWS else ''
    return table(
        ['group', 'minutes', 'best published', 'median', 'modelled (95 %)', 'this system', 'other kinds'], rows,
        numeric=(1,), titles=(0,), stacked=True, caption=(
            'Beside published MLPerf results of the same accelerator and number of them, in minutes; modelled: the '
            f'scaling law of all published results; other kinds: accelerators in the same number{rest}'))


def _rank(benchmark: str, place: Place, minutes: float) -> str:
    """Say how many other accelerators are faster in the same number, each by its best published result."""
    others = [result.best_minutes for result in published_results() if result.benchmark == benchmark
              and result.accelerators == place.accelerators and result.accelerator != place.accelerator]
    if not others:
        return 'none published'
    return f'{sum(best < minutes for best in others)} of {len(others)} are faster'


def _efficiency_table(places: Sequence[Place]) -> Markup | None:
    """Compare geometries of one system; published systems differ in more than their size."""
    rows = []
    families: dict[tuple[str, ...], list[Place]] = {}
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
    return table(['group', 'accelerators', 'speed-up', 'efficiency'], rows, numeric=(2, 3), titles=(0,),
                 caption='Scaling: images/s against the smallest geometry; 100 % is ideal')
