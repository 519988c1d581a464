"""How evenly ranks and nodes spend their time, and which of them stand out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mlperf_det.results.report.charts import PHASE_NAMES, run_name
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.run import RankTime, Run
from mlperf_det.results.run_metrics import PHASES
from mlperf_det.tables import counted

#: a rank is a suspect when it lies this many median deviations, this share of the median, and this share of its whole
#: time above the median of all ranks
_SUSPECT_DEVIATIONS, _SUSPECT_SHARE, _SUSPECT_TIME = 5.0, 0.05, 0.01
#: nodes in a table; of more, those that wait most
_MOST_NODES = 64
#: ranks named in a cell
_MOST_NAMED = 4


def rank_table(runs: Sequence[Run]) -> Markup | None:
    """Return the spread of each phase over the ranks with suspects named; None with fewer than two ranks."""
    run = next((run for run in runs if len(run.ranks) > 1), None)
    if run is None:
        return None
    rows = []
    for phase in PHASES:
        spent = [rank.phases.get(phase, 0.0) for rank in run.ranks]
        if not any(spent):
            continue
        rows.append([PHASE_NAMES[phase], f'{min(spent):.2f}', f'{statistics.median(spent):.2f}', f'{max(spent):.2f}',
                     _named(suspects(run.ranks, phase))])
    return join([tag('h3', 'Spread over the ranks'), table(
        ['seconds', 'least', 'median', 'most', 'suspects'], rows, numeric=(1, 2, 3),
        caption=f'{run_name(run)}, {len(run.ranks)} ranks; a suspect lies {_SUSPECT_DEVIATIONS:g} median absolute '
                f'deviations, {100 * _SUSPECT_SHARE:g} % and {100 * _SUSPECT_TIME:g} % of its time above the median')])


def _named(ranks: Sequence[RankTime]) -> str:
    names = ', '.join(map(_rank_name, ranks[:_MOST_NAMED]))
    return f'{names} and {len(ranks) - _MOST_NAMED} more' if len(ranks) > _MOST_NAMED else names or 'none'


def node_table(runs: Sequence[Run]) -> Markup | None:
    """Return the mean time of the ranks of each node with suspects named; None for runs on one node."""
    run = next((run for run in runs if len({rank.host for rank in run.ranks}) > 1), None)
    if run is None:
        return None
    nodes = node_times(run)
    doubted = {phase: [node.host for node in suspects(nodes, phase)] for phase in PHASES}
    rows = [[node.host, *(f'{node.phases[phase]:.2f}' for phase in PHASES),
             ', '.join(PHASE_NAMES[phase] for phase in PHASES if node.host in doubted[phase]) or 'none']
            for node in sorted(nodes, key=lambda node: -node.phases['data_wait'])[:_MOST_NODES]]
    rest = f'; the {_MOST_NODES} of {len(nodes)} nodes that waited most' if len(nodes) > _MOST_NODES else ''
    return join([tag('h3', 'Spread over the nodes'), table(
        ['node', *PHASE_NAMES.values(), 'suspect for'], rows, numeric=range(1, len(PHASES) + 1),
        caption=f'{run_name(run)}: mean seconds of the ranks of each node{rest}')])


def suspect_sentences(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each node (of runs on one node: rank) that stands out, by how many runs it does so in."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in runs:
        several = len({rank.host for rank in run.ranks}) > 1
        parties = node_times(run) if several else list(run.ranks)
        for phase in PHASES:
            middle = statistics.median(party.phases.get(phase, 0.0) for party in parties) if parties else 0.0
            for party in suspects(parties, phase):
                name = party.host if several else _rank_name(party)
                found.setdefault((name, phase), []).append((party.phases[phase], middle))
    of_all = f'of {counted(len(runs), "run")}'
    return [f'{name}: {PHASE_NAMES[phase]} takes {statistics.fmean(spent for spent, _ in times):.4g} s where the '
            f'median is {statistics.fmean(middle for _, middle in times):.4g} s, in {len(times)} {of_all}'
            for (name, phase), times in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))]


def node_times(run: Run) -> list[RankTime]:
    """Return the mean over the ranks of each node, by name."""
    hosts: dict[str, list[RankTime]] = {}
    for rank in run.ranks:
        hosts.setdefault(rank.host, []).append(rank)
    return [RankTime(
        rank=ranks[0].rank, host=host, seconds=statistics.fmean(rank.seconds for rank in ranks),
        phases={phase: statistics.fmean(rank.phases.get(phase, 0.0) for rank in ranks) for phase in PHASES})
        for host, ranks in sorted(hosts.items())]


def suspects(ranks: Sequence[RankTime], phase: str) -> list[RankTime]:
    """Return the ranks (or nodes) that spend conspicuously more time in a phase than the others.

    Of a phase that most ranks do not have at all there are none: it is the duty of one of them.
    """
    values = [rank.phases.get(phase, 0.0) for rank in ranks]
    middle = statistics.median(values) if values else 0.0
    if not middle:
        return []
    deviation = statistics.median(abs(value - middle) for value in values)
    bound = middle + max(_SUSPECT_DEVIATIONS * deviation, _SUSPECT_SHARE * middle)
    return [rank for rank, value in zip(ranks, values, strict=True)
            if value > bound and value - middle > _SUSPECT_TIME * rank.seconds]


def _rank_name(rank: RankTime) -> str:
    return f'rank {rank.rank} {rank.host}'.strip()
