"""The charts of a report, as functions of runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from mlperf_det.results.performance import Judgement
from mlperf_det.results.published_courses import Course, published_course
from mlperf_det.results.report.downsample import Point, downsample
from mlperf_det.results.report.figures import rate_text
from mlperf_det.results.report.html import Markup, tag
from mlperf_det.results.report.svg import (
    COLOURS,
    Axis,
    Band,
    Rule,
    Series,
    legend,
    line_chart,
)
from mlperf_det.results.report.svg_rows import Bar, Dots, bar_chart, dot_chart
from mlperf_det.results.run import Run, TrackPoint
from mlperf_det.results.run_metrics import PHASES
from mlperf_det.tables import counted

#: what the phases are called in the report
PHASE_NAMES = dict(zip(
    PHASES, ('waiting for data', 'training steps', 'evaluation', 'waiting for scores', 'checkpoints'), strict=True))
#: evaluations of a curve on a page of many groups
_TERSE_POINTS = 8
#: ranks drawn one by one; of more, the extremes and the middle
MOST_RANKS = 16


def accuracy_chart(runs: Sequence[Run], metric: str, *, over_epochs: bool = False, published: bool = False,
                   terse: bool = False) -> Markup | None:
    """Return AP over time (or completed epochs) with the target; None where no run was evaluated for the metric.

    Args:
        runs: of one group.
        metric: ``bbox`` or ``segm``.
        over_epochs: completed epochs instead of minutes.
        published: with the band of published runs at about the same batch size. Over time it is drawn at the pace of
            these runs, since every system has its own: it tells whether the AP is due at this point of the training.
        terse: thin curves out, for pages of many groups.
    """
    series = [_accuracy_curve(run, index, metric, over_epochs=over_epochs, terse=terse)
              for index, run in enumerate(runs)]
    if not any(curve.points for curve in series):
        return None
    title = f'{metric} AP over {"epochs" if over_epochs else "time"}'
    least = next((run.target[metric] for run in runs if metric in run.target), None)
    best = max(value for curve in series for _, value in curve.points)
    if least is not None:
        reached = sum(run.final_metrics.get(metric, 0.0) >= run.target.get(metric, least) for run in runs)
        title += f': {reached} of {counted(len(runs), "run")} reached {least:g}'
    said = f'Best {metric} AP {best:.4f}' + (f', target {least:g}.' if least is not None else '.')
    course = published_course(runs[0].model, metric, runs[0].batch) if published and _as_published(runs) else None
    band = _course_band(runs, course, over_epochs=over_epochs) if course else None
    if course and band:
        said += _band_words(course, over_epochs=over_epochs, terse=terse)
    rules = [Rule(value=least, label=f'target {least:g}')] if least is not None else []
    across = Axis(title='completed epochs' if over_epochs else 'minutes since run_start', low=0.0)
    return _figure(title, line_chart(title, said, series, across, Axis(title='AP', low=0.0), rules, band,
                                     terse=terse), said)


def _accuracy_curve(run: Run, index: int, metric: str, *, over_epochs: bool, terse: bool) -> Series:
    tip_at: dict[Point, str] = {}
    for evaluation in run.evaluations:
        value, minutes, epoch = evaluation.metrics.get(metric, math.nan), evaluation.seconds / 60, evaluation.epoch
        x = epoch if over_epochs else minutes
        if x is None or not math.isfinite(value + x):
            continue
        when = f'epoch {epoch:g}, ' if epoch is not None else ''
        tip_at[x, value] = f'{"" if terse else run_name(run) + ": "}{value:.4f} ({when}{minutes:.2f} min)'
    points = downsample(list(tip_at), _TERSE_POINTS) if terse else list(tip_at)
    return Series(name=run_name(run), colour=index, points=points, tips=[tip_at[point] for point in points])


def _as_published(runs: Sequence[Run]) -> bool:
    """Say whether the runs train the benchmark itself; smoke and throughput runs do not."""
    return all(run.tier in ('', 'convergence') for run in runs)


def _course_band(runs: Sequence[Run], course: Course, *, over_epochs: bool) -> Band | None:
    """Return the band over epochs, or over minutes at the mean pace of these runs; None where they have no pace."""
    pace = 1.0
    if not over_epochs:
        paces = [run.evaluations[-1].seconds / 60 / epoch for run in runs
                 if run.evaluations and (epoch := run.evaluations[-1].epoch)]
        paces = [each for each in paces if math.isfinite(each) and each > 0]
        if not paces:
            return None
        pace = statistics.fmean(paces)
    return Band(points=[(epoch * pace, low, high) for epoch, low, _, high in course.points],
                tip=f'middle 80 % of {course.runs} published runs')


def _band_words(course: Course, *, over_epochs: bool, terse: bool) -> str:
    if terse:
        return f' Shaded: {course.runs} published runs.'
    batches = f'{course.least_batch}' + (f' to {course.most_batch}' if course.most_batch > course.least_batch else '')
    pace = '' if over_epochs else ', at the pace of these runs'
    return f' Shaded: the middle 80 % of {course.runs} published runs with batch {batches}{pace}.'


def track_chart(runs: Sequence[Run], title: str, unit: str, value_of: Callable[[TrackPoint], float | None],
                finding: Callable[[Sequence[Sequence[float]]], str], most_points: int, *,
                terse: bool = False) -> Markup | None:
    """Return a tracked quantity over time, thinned out; None where no run tracked it.

    Args:
        runs: of one group.
        title, unit: of the quantity.
        value_of: a point of the track -> the quantity.
        finding: values of each run -> what they say, for the title.
        most_points: of a curve.
        terse: as in `accuracy_chart`.
    """
    series = []
    for index, run in enumerate(runs):
        points: list[Point] = []
        for point in run.track:
            value = value_of(point)
            if value is not None and math.isfinite(value) and point.seconds >= 0:
                points.append((point.seconds / 60, value))
        series.append(Series(name=run_name(run), points=downsample(points, most_points), colour=index))
    shown = next((curve for curve in series if curve.points), None)
    if shown is None:
        return None
    said = (f'{shown.name}: from {shown.points[0][1]:.4g} to {shown.points[-1][1]:.4g}'
            f'{" " + unit if unit else ""}.')
    found = f'{title}: {finding([[value for _, value in curve.points] for curve in series if curve.points])}'
    return _figure(found, line_chart(found, said, series, Axis(title='minutes since run_start', low=0.0),
                                     Axis(title=unit or title.lower(), low=0.0), terse=terse), said)


def loss_finding(values: Sequence[Sequence[float]]) -> str:
    """Say from where to where the loss went, in the mean of the runs."""
    first, last = (statistics.fmean(each[place] for each in values) for place in (0, -1))
    return f'{first:.3g} at first, {last:.3g} at the end'


def rate_finding(values: Sequence[Sequence[float]]) -> str:
    """Say how fast the runs went."""
    return f'{rate_text(statistics.median(value for each in values for value in each))} images/s in the median'


def times_chart(runs: Sequence[Run], judgements: Sequence[Judgement], *, terse: bool = False) -> Markup | None:
    """Return time to train per run, with reference, limit and the tolerance between; None where no run ended."""
    rows = []
    for index, run in enumerate(runs):
        minutes = None if run.time_to_train_seconds is None else run.time_to_train_seconds / 60
        note = ('' if minutes is None else f'{minutes:.2f}') + ('' if run.converged else ' ✕')
        kind = f'c{index % COLOURS}' + ('' if run.converged else ' hollow')
        rows.append(Dots(label=run_name(run), note=note.strip(), points=() if minutes is None else (
            (minutes, '' if terse else f'{run_name(run)}: {minutes:.2f} min, {run.status.value}', kind),)))
    if not any(row.points for row in rows):
        return None
    converged = [run.time_to_train_seconds / 60 for run in runs if run.converged and run.time_to_train_seconds]
    title = 'Time to train' + (f': {_from_to(min(converged), max(converged))} min' if converged else '')
    said = f'{len(converged)} of {len(runs)} runs converged.'
    if len(converged) < len(runs):
        said += ' Hollow, with ✕: those that did not.'
    marks = []
    judged = next((each for each in judgements if each.metric == 'time_to_train' and each.reference), None)
    if judged is not None and judged.reference is not None:
        kind, value = judged.reference.source.kind.value, judged.reference.value / 60
        marks.append(Rule(value=value, label=f'{kind} {value:.2f}'))
        if judged.limit is not None:
            marks.append(Rule(value=judged.limit / 60, label=f'limit {judged.limit / 60:.2f}', kind='limit'))
            said += ' Shaded: the tolerance between the reference and its limit.'
    return _figure(title, dot_chart(title, said, rows, 'minutes', marks, terse=terse), said)


def breakdown_chart(runs: Sequence[Run], *, terse: bool = False) -> Markup | None:
    """Return where the time went: by rank for a run with a time breakdown, else by run from the log's intervals."""
    detailed = next((run for run in runs if run.ranks), None)
    if detailed is not None:
        return _rank_chart(detailed)
    bars = []
    for run in runs:
        summary, seconds = run.summary, run.time_to_train_seconds
        if summary is None or seconds is None or not summary.train_seconds:
            continue
        train = min(summary.train_seconds, seconds)
        bars.append(Bar(label=run_name(run), note=f'{seconds / 60:.2f}' + ('' if run.converged else ' ✕'), parts=[
            (train / 60, 'training'), ((seconds - train) / 60, 'evaluation and rest'),
            ((run.init_seconds or 0) / 60, 'initialisation')]))
    if not bars:
        return None
    share = sum(bar.parts[0][0] for bar in bars) / sum(length for bar in bars for length, _ in bar.parts[:2])
    title = f'Time breakdown: {100 * share:.0f} % of the time to train is training'
    said = 'Closed training intervals, and the rest up to run_stop; the initialisation is no part of the time to train.'
    return _figure(title, bar_chart(title, said, bars, 'minutes', terse=terse), said,
                   legend(['training', 'evaluation and rest', 'initialisation']))


def _rank_chart(run: Run) -> Markup:
    ranks = sorted(run.ranks, key=lambda rank: rank.rank)
    if len(ranks) > MOST_RANKS:
        by_wait = sorted(ranks, key=lambda rank: rank.phases.get('data_wait', 0.0))
        half = MOST_RANKS // 2
        ranks = by_wait[:half] + by_wait[-half:]
    bars = [Bar(label=f'{rank.rank} {rank.host.partition(".")[0]}'.strip(), note=f'{rank.seconds:.4g}',
                parts=[*((rank.phases.get(phase, 0.0), PHASE_NAMES[phase]) for phase in PHASES), (rank.other, 'other')])
            for rank in ranks]
    wait = run.data_wait_share
    title = 'Time breakdown by rank' + ('' if wait is None else f': {100 * wait:.1f} % of the time is waiting for data')
    said = f'{run_name(run)}, by rank and node.'
    if len(run.ranks) > MOST_RANKS:
        said += f' Of {len(run.ranks)} ranks, the {MOST_RANKS} that waited least and most.'
    return _figure(title, bar_chart(title, said, bars, 'seconds'), said, legend([*PHASE_NAMES.values(), 'other']))


def _from_to(low: float, high: float) -> str:
    return f'{low:.2f}' if f'{low:.2f}' == f'{high:.2f}' else f'{low:.2f} to {high:.2f}'


def runs_legend(runs: Sequence[Run]) -> Markup | None:
    """Return the key to the runs' colours; None for one run, or for more runs than colours."""
    return legend([run_name(run) for run in runs], kind='runs') if 1 < len(runs) <= COLOURS else None


def run_name(run: Run) -> str:
    """Return what a run is called in its group: the log of a published one, the folder of our own."""
    if run.record is not None or run.log is None:
        return run.source.name
    return run.log.name.removesuffix('.txt')


def _figure(title: str, chart: Markup, caption: str, *below: Markup) -> Markup:
    return tag('figure', tag('h4', title), chart, *below, tag('figcaption', caption))
