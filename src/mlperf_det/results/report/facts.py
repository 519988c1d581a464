"""What a report says of configuration and provenance: everything that somebody needs to repeat a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mlperf_det.results.report.html import Markup, facts, join, table, tag
from mlperf_det.results.run import Run
from mlperf_det.run_folder import RunRecord
from mlperf_det.tables import counted

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
    pairs: list[tuple[str, object]] = [
        ('run', run.source), ('log', run.log if run.log and run.log != run.source else ''), ('seed', run.seed),
        ('MLPerf round', run.round), ('submitter', run.submitter), ('system', run.system), ('division', run.division)]
    more: list[Markup] = []
    if run.record is not None:
        more = _of_record(run.record)
    shown = [(name, value) for name, value in pairs if value not in (None, '', 'unknown')]
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
        parts.append(tag('details', tag('summary', f'Environment ({counted(len(record.environment), "variable")})'),
                         facts(record.environment.items())))
    return parts


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
