"""What a report says of configuration and provenance: everything that somebody needs to repeat a run."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mlperf_det.results.report.charts import PHASE_NAMES, run_name
from mlperf_det.results.report.html import Markup, facts, join, table, tag
from mlperf_det.results.run import RankTime, Run
from mlperf_det.results.run_metrics import PHASES
from mlperf_det.run_folder import RunRecord

#: a rank is a suspect when it lies this many median deviations, and this share, above the median of all ranks
_SUSPECT_DEVIATIONS, _SUSPECT_SHARE = 5.0, 0.05
#: nodes in a table; of more, those that wait most
_MOST_NODES = 64
#: logged keys (or their beginnings) that are no setting of the run
_NO_SETTINGS = ('submission_', 'throughput', 'status', 'weights_initialization', 'cache_clear', 'run_', 'eval_target')


def configuration(run: Run, most: int) -> Markup:
    """Return the recipe of our own run, or the first ``most`` hyperparameters that a published log states."""
    pairs: Sequence[tuple[str, object]]
    if run.record is not None:
        pairs = _flat(run.record.recipe)
        pairs += _flat(run.record.runtime, 'resolved: ')
    else:
        logged = run.summary.hyperparameters if run.summary else {}
        pairs = [(name, _short(value)) for name, value in logged.items()
                 if not name.startswith(_NO_SETTINGS) and value is not None][:most]
    return join([tag('h3', 'Configuration'), facts(pairs)]) if pairs else join([])


def provenance(run: Run) -> Markup:
    """Return source, command, software, hosts, data and image of a run."""
    pairs: list[tuple[str, object]] = [('run', run.source), ('log', run.log or ''), ('seed', run.seed), (
        'MLPerf round', run.round), ('submitter', run.submitter), ('system', run.system), ('division', run.division)]
    more: list[Markup] = []
    if run.record is not None:
        more = _of_record(run.record)
    shown = [(name, value) for name, value in pairs if value not in (None, '')]
    return join([tag('h3', 'Provenance'), facts(shown), *more])


def _of_record(record: RunRecord) -> list[Markup]:
    parts = []
    if record.command:
        parts += [tag('h4', 'Command'), tag('pre', shlex.join(record.command))]
    lists = [('Dataset', _flat(record.dataset)),
             ('Backbone weights', _flat(record.backbone) if record.backbone else [('initialisation', 'random')]),
             ('Container image', _flat(record.image) if record.image else [('image', 'none: ran outside a container')]),
             ('Software', list(record.software.items()))]
    for name, pairs in lists:
        parts += [tag('h3', name), facts(pairs)]
    rows = [[host.get('name'), _short(host.get('ranks')), _devices(host.get('devices')), host.get('cpu'),
             host.get('cpus'), _gibibytes(host.get('memory'))] for host in record.hosts]
    parts += [tag('h3', 'Hosts'), table(['host', 'ranks', 'devices', 'CPU', 'CPUs', 'memory, GiB'], rows,
                                        caption='Where the ranks ran', numeric=(4, 5))]
    if record.environment:
        parts.append(tag('details', tag('summary', f'Environment ({len(record.environment)} variables)'),
                         facts(record.environment.items())))
    return parts


def rank_table(runs: Sequence[Run]) -> Markup | None:
    """Return the spread of each phase over the ranks with suspects named; None with fewer than two ranks."""
    run = next((run for run in runs if len(run.ranks) > 1), None)
    if run is None:
        return None
    rows = []
    for phase in PHASES:
        spent = {_rank_name(rank): rank.phases.get(phase, 0.0) for rank in run.ranks}
        if not any(spent.values()):
            continue
        rows.append([PHASE_NAMES[phase], f'{min(spent.values()):.2f}', f'{statistics.median(spent.values()):.2f}',
                     f'{max(spent.values()):.2f}', ', '.join(suspects(run.ranks, phase)) or 'none'])
    return join([tag('h3', 'Spread over the ranks'), table(
        ['seconds', 'least', 'median', 'most', 'suspects'], rows, numeric=(1, 2, 3),
        caption=f'{run_name(run)}, {len(run.ranks)} ranks; a suspect lies {_SUSPECT_DEVIATIONS:g} median absolute '
                f'deviations and {_SUSPECT_SHARE:.0%} above the median')])


def node_table(runs: Sequence[Run]) -> Markup | None:
    """Return the mean time of the ranks of each node with suspects named; None for runs on one node."""
    run = next((run for run in runs if len({rank.host for rank in run.ranks}) > 1), None)
    if run is None:
        return None
    nodes = [_node_time(host, [rank for rank in run.ranks if rank.host == host])
             for host in sorted({rank.host for rank in run.ranks})]
    doubted = {phase: set(suspects(nodes, phase)) for phase in PHASES}
    rows = [[node.host, *(f'{node.phases[phase]:.2f}' for phase in PHASES),
             ', '.join(PHASE_NAMES[phase] for phase in PHASES if _rank_name(node) in doubted[phase]) or 'none']
            for node in sorted(nodes, key=lambda node: -node.phases['data_wait'])[:_MOST_NODES]]
    rest = f'; the {_MOST_NODES} of {len(nodes)} nodes that waited most' if len(nodes) > _MOST_NODES else ''
    return join([tag('h3', 'Spread over the nodes'), table(
        ['node', *PHASE_NAMES.values(), 'suspect for'], rows, numeric=range(1, len(PHASES) + 1),
        caption=f'{run_name(run)}: mean seconds of the ranks of each node{rest}')])


def _node_time(host: str, ranks: Sequence[RankTime]) -> RankTime:
    return RankTime(rank=ranks[0].rank, host=host, seconds=statistics.fmean(rank.seconds for rank in ranks), phases={
        phase: statistics.fmean(rank.phases.get(phase, 0.0) for rank in ranks) for phase in PHASES})


def _rank_name(rank: RankTime) -> str:
    return f'rank {rank.rank} {rank.host}'.strip()


def suspects(ranks: Sequence[RankTime], phase: str) -> list[str]:
    """Return the ranks that spend conspicuously more time in a phase than the others."""
    values = [rank.phases.get(phase, 0.0) for rank in ranks]
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    bound = middle + max(_SUSPECT_DEVIATIONS * deviation, _SUSPECT_SHARE * middle)
    return [_rank_name(rank) for rank, value in zip(ranks, values, strict=True) if value > bound]


def _flat(values: Mapping[str, Any], prefix: str = '') -> list[tuple[str, object]]:
    """Return nested mappings as one list of names and short values."""
    pairs: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f'{prefix}{name}.')
        else:
            pairs.append((f'{prefix}{name}', _short(value)))
    return pairs


def _short(value: object, most: int = 200) -> str:
    text = '–' if value is None else ', '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= most else f'{text[:most - 1]}…'


def _devices(devices: object) -> str:
    if not isinstance(devices, (list, tuple)) or not devices:
        return 'CPU'
    return ', '.join(f'{devices.count(name)} × {name}' for name in dict.fromkeys(devices))


def _gibibytes(value: object) -> str:
    return f'{value / 2**30:.1f}' if isinstance(value, (int, float)) else ''
