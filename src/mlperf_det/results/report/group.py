"""One group of runs in a report: its verdict, headline figures, checks, charts and everything that went into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mlperf_det.results.energy import energy_score
from mlperf_det.results.groups import Group
from mlperf_det.results.judging import Judged
from mlperf_det.results.report.charts import (
    accuracy_chart,
    breakdown_chart,
    loss_finding,
    rate_finding,
    run_name,
    runs_legend,
    times_chart,
    track_chart,
)
from mlperf_det.results.report.checks import checks_table, findings_list, rest_of_notes
from mlperf_det.results.report.facts import configuration, provenance
from mlperf_det.results.report.figures import (
    accuracy_text,
    column_texts,
    energy_text,
    epochs_of,
    fixed_text,
    rate_text,
)
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.report.references_section import METRIC_NAMES, references_section, sureness
from mlperf_det.results.report.spread import node_table, rank_table
from mlperf_det.results.run import Run
from mlperf_det.results.verdict import State, Verdict

#: state -> tone of the page, and a sign that needs no colour
TONES: Mapping[State, tuple[str, str]] = MappingProxyType({
    State.PASS: ('good', '✓'), State.PASS_SLOW: ('warn', '✓'), State.UNSTABLE: ('warn', '?'),
    State.FAIL_QUALITY: ('bad', '✕'), State.FAIL_PERF: ('bad', '✕'), State.FAIL_INFRA: ('bad', '!'),
    State.NOT_RUN: ('none', '–'),
})
#: points of a curve, and hyperparameters of a published log that are shown
_CURVE_POINTS, _CURVE_POINTS_OF_MANY = 160, 12
_FACTS, _FACTS_OF_MANY = 40, 8


def group_section(group: Group, verdict: Verdict, number: int, judged: Judged, *, many: bool,
                  published: bool) -> Markup:
    """Return the section of a group.

    Args:
        group, verdict, judged: what it is about.
        number: of the group in the report.
        many: the page has many groups: fold details and spend few bytes.
        published: show the band of published runs.
    """
    runs = group.runs
    charts = [chart for chart in _charts(runs, verdict, many=many, published=published) if chart]
    course = [tag('h3', 'Course of the runs'), runs_legend(runs), tag('div', *charts, class_='charts'),
              None if many else _evaluations_table(runs)] if charts else []
    details = [_runs_table(runs, judged.energies), rank_table(runs), node_table(runs),
               configuration(runs[0], _FACTS_OF_MANY if many else _FACTS), provenance(runs[0])]
    rest = [tag('details', tag('summary', 'Course of the runs, configuration and provenance'), *course, *details,
                open=None if verdict.state is State.PASS else 'open')] if many else [*course, *details]
    return tag(
        'section', headline(verdict, f'g{number}'), _tiles(runs, verdict, judged), rest_of_notes(verdict),
        checks_table(group, verdict, judged, terse=many), findings_list(runs, judged.findings),
        references_section(runs, verdict.judgements, terse=many, published=published), *rest,
        class_=f'group {TONES[verdict.state][0]}' + (' many' if many else ''), aria_labelledby=f'g{number}')


def headline(verdict: Verdict, identifier: str) -> Markup:
    """Return state, title and cause of a verdict."""
    tone, sign = TONES[verdict.state]
    marks = tag('p', join(tag('span', mark, class_='mark') for mark in verdict.marks), class_='marks')
    return tag('div', tag('span', tag('b', sign, aria_hidden='true'), verdict.state.value, class_='badge'),
               tag('h2', verdict.title, id=identifier), tag('p', f'{verdict.cause}.', class_='cause'),
               marks if verdict.marks else None, class_=f'verdict {tone}')


def _charts(runs: Sequence[Run], verdict: Verdict, *, many: bool, published: bool) -> list[Markup | None]:
    points = _CURVE_POINTS_OF_MANY if many else _CURVE_POINTS
    charts = [accuracy_chart(runs, metric, over_epochs=epochs, published=published, terse=many)
              for metric in ('bbox', 'segm') for epochs in ((False,) if many else (False, True))]
    charts += [track_chart(runs, 'Training loss', '', lambda point: point.loss, loss_finding, points, terse=many),
               track_chart(runs, 'Throughput', 'images/s', lambda point: point.images_per_second, rate_finding, points,
                           terse=many)]
    breakdown = breakdown_chart(runs, terse=many)
    # The breakdown of published runs has their times too; on a page of many groups it stands for both.
    times = None if many and breakdown and not verdict.judgements else times_chart(runs, verdict.judgements, terse=many)
    return [*charts, times, breakdown]


def _tiles(runs: Sequence[Run], verdict: Verdict, judged: Judged) -> Markup:
    score = verdict.score
    assert score is not None
    first = runs[0]
    shown: list[tuple[str, str, str]] = [('Converged', f'{score.converged} of {score.runs}', 'runs')]
    minutes = score.minutes if score.minutes is not None else score.mean
    if minutes is not None:
        kind = 'MLPerf score' if score.minutes is not None else 'mean'
        shown.append(('Time to train', f'{minutes:.2f}' if minutes < 1000 else f'{minutes:.0f}', f'min, {kind}'))
    epochs = epochs_of(score, runs)
    if epochs is not None:
        shown.append(('Epochs to target', f'{epochs:.4g}', ''))
    rate = score.throughput_training or score.throughput or first.throughput.steady
    if rate is not None:
        shown.append(('Throughput', rate_text(rate), 'images/s in training'))
    for metric, value in first.final_metrics.items():
        worst = min((run.final_metrics[metric] for run in runs if metric in run.final_metrics and run.converged),
                    default=value)
        shown.append((f'Lowest {metric} AP', f'{worst:.4f}', f'target {first.target.get(metric, 0):g}'))
    joules = energy_score(runs, judged.energies, score.scaling_factor)
    if joules is not None:
        shown.append(('Energy to train', *energy_text(joules)))
    surest = min((each for each in verdict.judgements if each.sure is not None), key=lambda each: each.sure or 0.0,
                 default=None)
    if surest is not None and (sure := sureness(surest)):
        shown.append(('How sure', sure[0], f'{sure[1]} the limit of {METRIC_NAMES[surest.metric].lower()}'))
    if (count := first.geometry.accelerators) and first.geometry.accelerator == 'cpu':
        shown.append(('Hardware', 'CPU', f'{count} rank{"s" if count > 1 else ""}'))
    elif count:
        shown.append(('Hardware', f'{count} ×', first.geometry.accelerator or 'accelerators'))
    return tag('dl', join(tag('div', tag('dt', name), tag('dd', value, tag('small', unit)), class_='tile')
                          for name, value, unit in shown), class_='tiles')


def _runs_table(runs: Sequence[Run], energies: Mapping[str, float]) -> Markup:
    columns: dict[str, list[object]] = {
        'run': [run_name(run) for run in runs], 'status': [run.status.value for run in runs],
        'time, min': [fixed_text(None if run.time_to_train_seconds is None else run.time_to_train_seconds / 60)
                      for run in runs],
        'epochs': list(column_texts([run.epochs_to_target for run in runs])),
        'bbox AP': [accuracy_text(run.final_metrics.get('bbox')) for run in runs],
        'segm AP': [accuracy_text(run.final_metrics.get('segm')) for run in runs],
        'images/s': [rate_text(run.throughput.training or run.throughput.steady) for run in runs],
        'energy': [' '.join(energy_text(energies[str(run.log)])) if str(run.log) in energies else '' for run in runs],
        'seed': ['' if run.seed is None else run.seed for run in runs],
        'in words': ['; '.join(filter(None, ['' if run.converged else run.reason, *(
            f'forgiven: {each}' for each in run.forgiven)])) for run in runs]}
    used = {name: cells for name, cells in columns.items() if any(cell != '' for cell in cells)}
    numeric = [place for place, name in enumerate(used) if name not in ('run', 'status', 'in words')]
    return join([tag('h3', 'Runs'), table(used, zip(*used.values(), strict=True), numeric=numeric,
                                          caption='Each run, by its own log')])


def _evaluations_table(runs: Sequence[Run]) -> Markup | None:
    """Return the evaluations in figures, for those who do not see the curves; None without any."""
    epochs = sorted({evaluation.epoch for run in runs for evaluation in run.evaluations
                     if evaluation.epoch is not None})
    found = [{evaluation.epoch: evaluation.metrics for evaluation in run.evaluations} for run in runs]
    if not epochs:
        return None
    metrics = ' / '.join(next((list(each) for each in found[0].values()), ['bbox']))
    rows = [[f'{epoch:g}', *(' / '.join(f'{value:.4f}' for value in each.get(epoch, {}).values()) for each in found)]
            for epoch in epochs]
    return tag('details', tag('summary', 'Evaluations in figures'), table(
        ['epoch', *map(run_name, runs)], rows, numeric=range(len(runs) + 1),
        caption=f'{metrics} AP by completed epochs'))
