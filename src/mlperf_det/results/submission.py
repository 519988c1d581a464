"""An MLPerf-shaped submission tree, and what mlperf-logging's package and system checkers say of it.

::

    <organisation>/
        systems/<system>.json                       system description
        results/<system>/<benchmark>/result_*.txt   the logs, numbered from 0
        benchmarks/<benchmark>/implementations/mlperf-det/README.md   where the code is
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlperf_det import __version__
from mlperf_det.errors import UserError
from mlperf_det.results.groups import Group
from mlperf_det.results.rules import ruleset_of
from mlperf_det.results.run import Run

#: What a system description must have besides what run.json knows; a site fills in what is empty.
BY_HAND = (
    'host_processor_frequency', 'host_processor_caches', 'host_processor_interconnect', 'host_storage_type',
    'host_storage_capacity', 'host_networking', 'host_networking_topology', 'host_memory_configuration',
    'accelerator_host_interconnect', 'accelerator_frequency', 'accelerator_on-chip_memories',
    'accelerator_memory_configuration', 'accelerator_interconnect', 'accelerator_interconnect_topology', 'cooling',
    'hw_notes', 'sw_notes')
STATUSES = ('Available on-premise', 'Available cloud', 'Research, Development, or Internal (RDI)', 'Preview')


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the checkers said: ``passed`` and their error lines."""

    passed: bool
    errors: tuple[str, ...]


def write_submission(folder: Path, groups: Sequence[Group], organisation: str, system: str, status: str,
                     facts: dict[str, str]) -> Path:
    """Write the tree of one system and return its root, ``folder/<organisation>``.

    Args:
        folder: made if absent; the organisation's folder in it must not exist.
        groups: runs of our own on one system, one group a benchmark.
        organisation, system: names, also of folders.
        status: one of `STATUSES`.
        facts: fields of the system description that no run knows; see `BY_HAND`.

    Raises:
        UserError: there is no run, a name is no file name, a log is missing, two groups are of one benchmark, a fact
            is unknown, the runs follow the rules of several rounds, or the folder exists.
    """
    _check(groups, organisation, system, facts)
    root = folder / organisation
    building = folder / f'.{organisation}.{os.getpid()}.tmp'
    if root.exists():
        raise UserError(f'{root}: exists; name another folder with -o, or move it away')
    try:
        for group in groups:
            benchmark = _benchmark(group.runs[0])
            results = building / 'results' / system / benchmark
            results.mkdir(parents=True)
            for number, run in enumerate(group.runs):
                assert isinstance(run.log, Path)
                shutil.copyfile(run.log, results / f'result_{number}.txt')
            code = building / 'benchmarks' / benchmark / 'implementations' / 'mlperf-det'
            code.mkdir(parents=True)
            (code / 'README.md').write_text(_code_pointer(group.runs[0]), encoding='utf-8')
        (building / 'systems').mkdir()
        description = system_description(groups[0].runs[0], organisation, system, status, facts)
        (building / 'systems' / f'{system}.json').write_text(json.dumps(description, indent=2) + '\n', encoding='utf-8')
        building.rename(root)
    except OSError as error:
        raise UserError(f'{root}: cannot be written ({error.strerror}); name another folder with -o') from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def system_description(run: Run, organisation: str, system: str, status: str, facts: dict[str, str]) -> dict[str, Any]:
    """Return the content of ``systems/<system>.json``: what run.json knows, and ``facts``; empty where nobody knows."""
    record, place = run.record, run.geometry
    assert record is not None
    host = record.hosts[0] if record.hosts else {}
    memory = host.get('memory')
    software = ', '.join(f'{name} {version}' for name, version in record.software.items() if name != 'torch')
    known = {
        'submitter': organisation, 'division': run.division or 'open', 'status': status, 'system_name': system,
        'number_of_nodes': str(place.nodes or ''), 'host_processors_per_node': '',
        'host_processor_model_name': str(host.get('cpu') or ''), 'host_processor_core_count': '',
        'host_processor_vcpu_count': str(host.get('cpus') or ''),
        'host_memory_capacity': f'{memory / 2**30:.0f} GiB' if isinstance(memory, (int, float)) else '',
        'accelerators_per_node': str(place.accelerators_per_node or ''),
        'accelerator_model_name': '' if place.accelerator == 'cpu' else place.accelerator,
        'accelerator_memory_capacity': '', 'framework': f'PyTorch {record.software.get("torch", "")}'.strip(),
        'other_software_stack': software, 'operating_system': ''}
    return {**known, **dict.fromkeys(BY_HAND, ''), **facts}


def check_submission(root: Path, ruleset: str) -> Checked:
    """Run mlperf-logging's package checker (which runs the compliance, seed, RCP and system checkers) over a tree."""
    from mlperf_logging.package_checker import package_checker
    said = _Errors()
    logging.root.addHandler(said)
    try:
        with redirect_stdout(io.StringIO()):
            systems = package_checker.check_systems(str(root), 'training', ruleset)
            results = package_checker.check_training_result_files(
                str(root), 'training', ruleset, quiet=True, werror=False, rcp_bypass=False,
                rcp_bert_train_samples=False, seed_checker_bypass=False)
    except Exception as error:  # noqa: BLE001 - the library raises whatever its rule files run into
        said.lines.append(f'the checker itself failed: {type(error).__name__}: {error}')
        systems = results = False
    finally:
        logging.root.removeHandler(said)
    return Checked(passed=bool(systems and results), errors=tuple(dict.fromkeys(said.lines)))


class _Errors(logging.Handler):
    """Keeps the library's error lines."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(' '.join(record.getMessage().split()))


def _check(groups: Sequence[Group], organisation: str, system: str, facts: dict[str, str]) -> None:
    if not groups:
        raise UserError('there is no run to submit; give run folders')
    for what, name in (('organisation', organisation), ('system', system)):
        if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9 ._+-]*', name):
            raise UserError(f'--{what}: {name!r} cannot be a folder name; use letters, digits, . _ + -')
    known = system_fields()
    for name in facts:
        if name not in known:
            raise UserError(f'--fact {name}: is no field of a system description; known: {", ".join(known)}')
    rounds = sorted({ruleset_of(group.runs[0]) for group in groups})
    if len(rounds) > 1:
        raise UserError(f'the runs follow the rules of several rounds ({", ".join(rounds)}); a submission is to one')
    benchmarks = [_benchmark(group.runs[0]) for group in groups]
    for group, benchmark in zip(groups, benchmarks, strict=True):
        if benchmarks.count(benchmark) > 1:
            raise UserError(f'{group.title}: there are several groups of {benchmark}; give the runs of one system')
        for run in group.runs:
            if run.record is None or not isinstance(run.log, Path) or not run.log.is_file():
                raise UserError(f'{run.source}: is no run folder with a log; a submission takes our own runs')


def system_fields() -> tuple[str, ...]:
    """Return the fields of a system description that ``--fact`` may state."""
    return ('host_processors_per_node', 'host_processor_core_count', 'host_processor_model_name',
            'host_memory_capacity', 'accelerator_memory_capacity', 'accelerator_model_name', 'operating_system',
            'other_software_stack', *BY_HAND)


def _benchmark(run: Run) -> str:
    """Return the folder name of the round: RetinaNet is called ``ssd`` from v2.0 to v4.1."""
    ruleset = ruleset_of(run)
    return 'ssd' if run.benchmark == 'retinanet' and ruleset and float(ruleset[:3]) < 5 else run.benchmark


def _code_pointer(run: Run) -> str:
    record = run.record
    assert record is not None
    return (f'# {run.benchmark}\n\nTrained with mlperf-det {__version__}, recipe `{record.recipe.get("name", "")}`:\n\n'
            f'    {" ".join(record.command)}\n\nRecipe, software, image and dataset fingerprint of each run are in its '
            'run.json, which lies in the evidence archive.\n')
