"""The charts of a report, as functions of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mlperf_det.results.performance import Judgement
from mlperf_det.results.report.downsample import Point, downsample
from mlperf_det.results.report.html import Markup, tag
from mlperf_det.results.report.svg import COLOURS, Axis, Bar, Rule, Series, bar_chart, legend, line_chart
from mlperf_det.results.run import Run, TrackPoint
from mlperf_det.results.run_metrics import PHASES

#: what the phases are called in the report
PHASE_NAMES = dict(zip(
    PHASES, ('waiting for data', 'training steps', 'evaluation', 'waiting for scores', 'checkpoints'), strict=True))
#: evaluations of a curve on a page of many groups
_TERSE_POINTS = 8
#: ranks drawn one by one; of more, the extremes and the middle
MOST_RANKS = 16


def accuracy_chart(runs: Sequence[Run], metric: str, *, over_epochs: bool = False,
                   terse: bool = False) -> Markup | None:
    """Return AP over time (or completed epochs) with the target; None where no run was evaluated for the metric.

    ``terse`` leaves the run's name to the tooltip of its curve and thins curves out, for pages of many groups.
    """
    series = []
    for index, run in enumerate(runs):
        points, tips = [], []
        for evaluation in run.evaluations:
            value, minutes, epoch = evaluation.metrics.get(metric, math.nan), evaluation.seconds / 60, evaluation.epoch
            x = epoch if over_epochs else minutes
            if x is None or not math.isfinite(value + x):
                continue
            points.append((x, value))
            when = f'epoch {epoch:g}, ' if epoch is not None else ''
            tips.append(f'{"" if terse else run_name(run) + ": "}{value:.4f} ({when}{minutes:.2f} min)')
        if terse:
            tip_at = dict(zip(points, tips, strict=True))
            points = downsample(points, _TERSE_POINTS)
            tips = [tip_at[point] for point in points]
        series.append(Series(name=run_name(run), colour=index, points=points, tips=tips))
    if not any(curve.points for curve in series):
        return None
    title = f'{metric} AP over {"epochs" if over_epochs else "time"}'
    least = next((run.target[metric] for run in runs if metric in run.target), None)
    best = max(value for curve in series for _, value in curve.points)
    said = f'Best {metric} AP {best:.4f}' + (f', target {least:g}.' if least is not None else '.')
    rules = [Rule(value=least, label=f'target {least:g}')] if least is not None else []
    across = Axis(title='completed epochs' if over_epochs else 'minutes since run_start', low=0.0)
    return _figure(title, line_chart(title, said, series, across, Axis(title='AP', low=0.0), rules), said)


def track_chart(runs: Sequence[Run], title: str, unit: str, value_of: Callable[[TrackPoint], float | None],
                most_points: int) -> Markup | None:
    """Return a tracked quantity over time, thinned out; None where no run tracked it."""
    series = []
    for index, run in enumerate(runs):
        points: list[Point] = []
        for point in run.track:
            value = value_of(point)
            if value is not None and math.isfinite(value) and point.seconds >= 0:
                points.append((point.seconds / 60, value))
        series.append(Series(name=run_name(run), points=downsample(points, most_points), colour=index))
    values = [value for curve in series for _, value in curve.points]
    if not values:
        return None
    said = f'{title}: from {values[0]:.4g} to {series[0].points[-1][1] if series[0].points else values[-1]:.4g}' \
           + (f' {unit}' if unit else '') + ' in the first run.'
    return _figure(title, line_chart(title, said, series, Axis(title='minutes since run_start', low=0.0),
                                     Axis(title=unit or title.lower(), low=0.0)), said)


def times_chart(runs: Sequence[Run], judgements: Sequence[Judgement]) -> Markup | None:
    """Return time to train per run, with reference and limit; None where no run ended."""
    bars = []
    for index, run in enumerate(runs):
        seconds = run.time_to_train_seconds
        note = f'{seconds / 60:.2f}' if seconds is not None else ''
        bars.append(Bar(label=run_name(run), parts=[((seconds or 0) / 60, 'time to train')],
                        note=note if run.converged else f'{note} {run.status.value}'.strip(), first_colour=index,
                        hatched=not run.converged))
    if not any(run.time_to_train_seconds for run in runs):
        return None
    marks = []
    for judgement in judgements:
        if judgement.metric == 'time_to_train' and judgement.reference is not None:
            marks.append(Rule(value=judgement.reference.value / 60, label='reference', kind='target'))
            if judgement.limit is not None:
                marks.append(Rule(value=judgement.limit / 60, label='limit', kind='limit'))
    converged = [run.time_to_train_seconds / 60 for run in runs if run.converged and run.time_to_train_seconds]
    said = f'{len(converged)} of {len(runs)} runs converged' + (
        f', in {min(converged):.2f} to {max(converged):.2f} minutes.' if converged else '.')
    if marks:
        said += ' Lines: reference (dashed) and limit (solid).'
    return _figure('Time to train', bar_chart('Time to train', said, bars, 'minutes', marks), said)


def breakdown_chart(runs: Sequence[Run]) -> Markup | None:
    """Return where the time went: by rank for a run with a time breakdown, else by run from the log's intervals."""
    detailed = next((run for run in runs if run.ranks), None)
    if detailed is not None:
        return _rank_chart(detailed)
    bars = []
    for run in runs:
        summary = run.summary
        if summary is None or run.time_to_train_seconds is None or not summary.train_seconds:
            continue
        train = min(summary.train_seconds, run.time_to_train_seconds)
        rest = run.time_to_train_seconds - train
        bars.append(Bar(label=run_name(run), note=f'{train / run.time_to_train_seconds:.0%}', parts=[
            (train / 60, 'closed training intervals'), (rest / 60, 'evaluation and rest'),
            ((run.init_seconds or 0) / 60, 'initialisation (not in the time to train)')]))
    if not bars:
        return None
    said = 'Training intervals that evaluation runs beside, the rest up to run_stop, and initialisation before it.'
    return _figure('Time breakdown', bar_chart('Time breakdown', said, bars, 'minutes'), said,
                   legend(['training intervals', 'evaluation and rest', 'initialisation']))


def _rank_chart(run: Run) -> Markup:
    ranks = sorted(run.ranks, key=lambda rank: rank.rank)
    if len(ranks) > MOST_RANKS:
        by_wait = sorted(ranks, key=lambda rank: rank.phases.get('data_wait', 0.0))
        half = MOST_RANKS // 2
        ranks = by_wait[:half] + by_wait[-half:]
    bars = [Bar(label=f'rank {rank.rank} {rank.host}'.strip(), note=f'{rank.seconds:.4g}',
                parts=[*((rank.phases.get(phase, 0.0), PHASE_NAMES[phase]) for phase in PHASES), (rank.other, 'other')])
            for rank in ranks]
    wait = run.data_wait_share
    said = f'{run_name(run)}: {wait:.1%} of the time was spent waiting for data.' if wait is not None else ''
    if len(run.ranks) > MOST_RANKS:
        said += f' Of {len(run.ranks)} ranks, the {MOST_RANKS} that waited least and most.'
    return _figure('Time breakdown', bar_chart('Time breakdown by rank', said, bars, 'seconds'), said,
                   legend([*PHASE_NAMES.values(), 'other']))


def runs_legend(runs: Sequence[Run]) -> Markup | None:
    """Return the key to the runs' colours; None for one run, or for more runs than colours."""
    return legend([run_name(run) for run in runs]) if 1 < len(runs) <= COLOURS else None


def run_name(run: Run) -> str:
    """Return what a run is called in its group: the log of a published one, the folder of our own."""
    if run.record is not None or run.log is None:
        return run.source.name
    return run.log.name.removesuffix('.txt')


def _figure(title: str, chart: Markup, caption: str, *below: Markup) -> Markup:
    return tag('figure', tag('h4', title), chart, *below, tag('figcaption', caption))
