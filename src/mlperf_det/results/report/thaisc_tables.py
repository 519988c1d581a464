"""ThaiSC's tables in a report."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.groups import Group
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.thaisc import ThaiscScore, configuration_table, thaisc_score


def thaisc_section(groups: Sequence[Group], nodes: int) -> Markup:
    """Return the result table, projected to a number of nodes, and the configuration table of each group."""
    scored = [(group, score) for group in groups if (score := thaisc_score(group))]
    counted = {group.key for group, _ in scored}
    left_out = [group.title for group in groups if group.key not in counted]
    scores = [score for _, score in scored]
    parts: list[Markup] = [tag('h2', f'ThaiSC result table, proposed nodes: {nodes}', id='thaisc')]
    if scores:
        parts += [_result_table(scores, nodes), _times_table(scores)]
    if left_out:
        parts.append(tag('p', 'Without a score (fewer than three runs, two that did not converge, or an unknown '
                              f'number of nodes): {", ".join(left_out)}.'))
    configurations = [tag('details', tag('summary', f'Configuration of {group.title}'), table(
        ['item', 'value'], configuration_table(group.runs[0]), caption='Configuration table')) for group, _ in scored]
    return tag('section', *parts, join(configurations), class_='group')


def _result_table(scores: Sequence[ThaiscScore], nodes: int) -> Markup:
    rows = [['Object Detection', score.title, score.nodes, f'{score.jobs:.3f}', 'jobs/day', f'{score.per_node:.3f}',
             f'{score.projected(nodes):.3f}', 'jobs/day'] for score in scores]
    return table(
        ['benchmark', 'test case', 'PoC nodes', 'PoC performance', 'unit', 'average per node', 'projected performance',
         'unit'], rows, numeric=(2, 3, 5, 6), titles=(1,), stacked=True,
        caption='86,400 s over the mean time without the fastest and the slowest run; projected linearly in nodes')


def _times_table(scores: Sequence[ThaiscScore]) -> Markup:
    rows = [[score.title, f'{score.seconds:.1f}', score.basis, f'{score.train_seconds:.1f}',
             f'{score.converged} of {score.runs}'] for score in scores]
    return table(
        ['test case', 'scored seconds', 'which are', 'time to train, s', 'converged'], rows, numeric=(1, 3, 4),
        titles=(0,), stacked=True, caption='What the score stands on: mean seconds without the fastest and the slowest '
        'run; of a job by its RESULT line where the logs have it, else the time to train')
