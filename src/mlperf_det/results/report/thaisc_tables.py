"""ThaiSC's tables in a report."""

from __future__ import annotations

from collections.abc import Sequence

from mlperf_det.results.groups import Group
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.thaisc import configuration_table, thaisc_score


def thaisc_section(groups: Sequence[Group], nodes: int) -> Markup:
    """Return the result table, projected to a number of nodes, and the configuration table of each group."""
    rows, left_out, configurations = [], [], []
    for group in groups:
        score = thaisc_score(group)
        if score is None:
            left_out.append(group.title)
            continue
        rows.append(['Object Detection', group.title, score.nodes, f'{score.jobs:.3f}', 'jobs/day',
                     f'{score.per_node:.3f}', f'{score.projected(nodes):.3f}', 'jobs/day',
                     f'{score.seconds:.1f} s, {score.basis}'])
        configurations.append(tag('details', tag('summary', f'Configuration of {group.title}'), table(
            ['item', 'value'], configuration_table(group.runs[0]), caption='Configuration table')))
    parts = [tag('h2', f'ThaiSC result table, proposed nodes: {nodes}')]
    if rows:
        parts.append(table(
            ['benchmark', 'test case', 'PoC nodes', 'PoC performance', 'unit', 'average per node',
             'projected performance', 'unit', 'scored time'], rows, numeric=(2, 3, 5, 6),
            caption='86,400 s over the mean time without the fastest and the slowest run; projected linearly in nodes'))
    if left_out:
        parts.append(tag('p', 'Without a score (fewer than three runs, two that did not converge, or an unknown '
                              f'number of nodes): {", ".join(left_out)}.'))
    return tag('section', *parts, join(configurations), class_='group')
