"""Where the systems of a report stand: beside published ones, what the scaling law expects, and how they scale."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.groups import Group
from mlperf_det.results.published import published_result, published_results
from mlperf_det.results.report.figures import percent_text
from mlperf_det.results.report.html import Markup, breakable, table, tag, two_lines
from mlperf_det.results.report.scaling_chart import Place, place_of, scaling_chart
from mlperf_det.results.scaling import published_law
from mlperf_det.results.score import Score, scaling_efficiency

#: rows of a table before the rest is left to the chart
_MOST_ROWS = 60
NAMES = {'ssd': 'SSD300', 'retinanet': 'RetinaNet', 'maskrcnn': 'Mask R-CNN'}


def standing_sections(groups: Sequence[Group], scores: Sequence[Score | None], *,
                      published: bool) -> list[tuple[str, str, Markup | None]]:
    """Return anchor, name and content of a section for each benchmark with timed runs at a known geometry.

    Args:
        groups: of the report.
        scores: of the groups.
        published: compare with published results too.
    """
    places = [place for group, score in zip(groups, scores, strict=True)
              if score is not None and (place := place_of(group, score)) is not None]
    return [(f'standing-{benchmark}', name, _section(
        benchmark, [place for place in places if place.benchmark == benchmark], published=published))
            for benchmark, name in NAMES.items()]


def _section(benchmark: str, places: Sequence[Place], *, published: bool) -> Markup | None:
    timed = [place for place in places if place.minutes]
    parts = [scaling_chart(benchmark, timed, published=published) if timed else None,
             _standing_table(benchmark, timed) if timed and published else None, _efficiency_table(places)]
    if not any(parts):
        return None
    title = f'{NAMES[benchmark]}: scaling' + (' and published systems' if published else '')
    return tag('section', tag('h2', title, id=f'standing-{benchmark}'), *parts, class_='group')


def _standing_table(benchmark: str, timed: Sequence[Place]) -> Markup:
    rows = []
    for place in timed[:_MOST_ROWS]:
        minutes = place.minutes or 0.0
        there = published_result(benchmark, place.accelerator, place.accelerators)
        expected = published_law(benchmark, 'time_to_train').predict(place.accelerator, place.accelerators)
        best, middle, to_best, to_middle = two_lines('–', 'none published'), tag('span', '–'), '–', '–'
        if there is not None:
            best = two_lines(f'{there.best_minutes:.2f}', f'{there.round} {there.submitter}')
            middle = two_lines(f'{there.median_minutes:.2f}', f'of {there.results}')
            to_best = percent_text(minutes / there.best_minutes - 1)
            to_middle = percent_text(minutes / there.median_minutes - 1)
        model, to_model = tag('span', '–'), '–'
        if expected is not None:
            low, high = expected.interval()
            model = two_lines(f'{expected.value / 60:.2f}', f'{low / 60:.2f} to {high / 60:.2f}')
            to_model = percent_text(minutes * 60 / expected.value - 1)
        rows.append([breakable(place.group.title), f'{minutes:.2f}', best, to_best, middle, to_middle, model, to_model,
                     _rank(benchmark, place, minutes)])
    rest = f'; the first {_MOST_ROWS} of {len(timed)} groups' if len(timed) > _MOST_ROWS else ''
    return table(
        ['group', 'minutes', 'best published', 'to it', 'median', 'to it', 'modelled', 'to it', 'other kinds'], rows,
        numeric=range(1, 8), titles=(0,), stacked=True, caption=(
            'Beside published MLPerf results of the same accelerator and number of them, in minutes; modelled: the '
            'scaling law of all published results, with its 95 % interval; other kinds: accelerators in the same '
            f'number{rest}'))


def _rank(benchmark: str, place: Place, minutes: float) -> str:
    """Say how many other accelerators are faster in the same number, each by its best published result."""
    others = [result.best_minutes for result in published_results() if result.benchmark == benchmark
              and result.accelerators == place.accelerators and result.accelerator != place.accelerator]
    if not others:
        return 'none published'
    return f'{sum(best < minutes for best in others)} of {len(others)} faster'


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
                             f'{place.rate / small.rate:.2f}', f'{100 * efficiency:.1f} %'])
    if not rows:
        return None
    return table(['group', 'accelerators', 'speed-up', 'efficiency'], rows, numeric=(2, 3), titles=(0,),
                 caption='Scaling: images/s against the smallest geometry; 100 % is ideal')
