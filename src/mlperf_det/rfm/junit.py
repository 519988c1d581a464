"""JUnit files for dashboards, with the metrics that ReFrame's own leave out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlperf_det.run_folder import write_atomically


def write_junit(path: Path, cases: Sequence[Mapping[str, Any]]) -> None:
    """Write the test cases of a ReFrame report as a JUnit file.

    A case's properties are its nodes and, for each metric, value, unit and reference, as
    ``metric.time_to_train = 512.4 s`` and ``reference.time_to_train = 500.0 s``.
    """
    suite = ET.Element('testsuite', {
        'name': 'mlperf-det', 'tests': str(len(cases)), 'errors': '0',
        'failures': str(sum(_is_failure(case) for case in cases)),
        'skipped': str(sum(case.get('result') == 'skip' for case in cases)),
        'time': f'{sum(_seconds(case) for case in cases):.3f}'})
    for case in cases:
        suite.append(_case(case))
    root = ET.Element('testsuites')
    root.append(suite)
    ET.indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ET.tostring(root, encoding='utf-8', xml_declaration=True) + b'\n')


def _case(case: Mapping[str, Any]) -> ET.Element:
    place = f'{case.get("system")}.{case.get("partition")}'
    element = ET.Element('testcase', {'name': str(case.get('display_name') or case.get('name')), 'classname': place,
                                      'time': f'{_seconds(case):.3f}'})
    properties = ET.SubElement(element, 'properties')
    for name, value in _properties(case):
        ET.SubElement(properties, 'property', {'name': name, 'value': value})
    reason = ' '.join(str(case.get('fail_reason') or '').split())
    if case.get('result') == 'skip':
        # ReFrame prints why, but does not report it.
        ET.SubElement(element, 'skipped', {'message': reason or "skipped; ReFrame's output says why"})
    elif _is_failure(case):
        ET.SubElement(element, 'failure', {'type': str(case.get('fail_phase') or 'unknown'), 'message': reason})
    return element


def _properties(case: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [('nodes', ' '.join(case['job_nodelist']))] if case.get('job_nodelist') else []
    for key, (value, reference, _, _, unit, *_rest) in (case.get('perfvalues') or {}).items():
        name = str(key).rpartition(':')[2]
        found += [(f'{kind}.{name}', f'{number:g} {unit}')
                  for kind, number in (('metric', value), ('reference', reference)) if number is not None]
    return found


def _is_failure(case: Mapping[str, Any]) -> bool:
    return case.get('result') not in ('pass', 'xfail', 'skip')


def _seconds(case: Mapping[str, Any]) -> float:
    return float(case.get('time_total') or 0)
