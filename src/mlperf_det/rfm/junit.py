"""JUnit files for dashboards, with the metrics that ReFrame's own leave out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from mlperf_det.reframe_sessions import Case
from mlperf_det.run_folder import write_atomically
from mlperf_det.tables import printable

#: Case that stands for the session as a whole.
SESSION = 'session'


def write_junit(path: Path, cases: Sequence[Case], *, verdict: str, cause: str, red: bool) -> None:
    """Write the test cases of a ReFrame report as a JUnit file.

    A case's properties are its nodes and, for each metric, value, unit and reference, as
    ``metric.time_to_train = 512.4 s`` and ``reference.time_to_train = 500.0 s``. The suite's are the verdict on the
    session and its cause. A session that is red though none of its cases is, as one that ran nothing, is a case of
    its own: who reads the file alone must not take it for good.

    Args:
        path: the file.
        cases: of the report.
        verdict: on the session, in one word.
        cause: of the verdict.
        red: whether the session is to be taken for failed.
    """
    if red and not any(case.is_bad for case in cases):
        cases = [*cases, Case(name=SESSION, system='mlperf-det', partition=SESSION, result='fail', fail_phase=verdict,
                              fail_reason=cause)]
    suite = ET.Element('testsuite', {
        'name': 'mlperf-det', 'tests': str(len(cases)), 'errors': '0',
        'failures': str(sum(case.is_bad for case in cases)),
        'skipped': str(sum(case.result == 'skip' for case in cases)),
        'time': f'{sum(_seconds(case) for case in cases):.3f}'})
    properties = ET.SubElement(suite, 'properties')
    for name, value in (('verdict', verdict), ('cause', cause)):
        ET.SubElement(properties, 'property', {'name': name, 'value': _line(value)})
    for case in cases:
        suite.append(_case(case))
    root = ET.Element('testsuites')
    root.append(suite)
    ET.indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ET.tostring(root, encoding='utf-8', xml_declaration=True) + b'\n')


def _case(case: Case) -> ET.Element:
    place = f'{case.system}.{case.partition}'
    element = ET.Element('testcase', {'name': case.title, 'classname': place,
                                      'time': f'{_seconds(case):.3f}'})
    properties = ET.SubElement(element, 'properties')
    for name, value in _properties(case):
        ET.SubElement(properties, 'property', {'name': name, 'value': _line(value)})
    reason = _line(case.fail_reason or '')
    if case.result == 'skip':
        # ReFrame prints why, but does not report it.
        ET.SubElement(element, 'skipped', {'message': reason or "skipped; ReFrame's output says why"})
    elif case.is_bad:
        ET.SubElement(element, 'failure', {'type': case.fail_phase or 'unknown', 'message': reason})
    return element


def _properties(case: Case) -> list[tuple[str, str]]:
    found = [('nodes', ' '.join(case.job_nodelist))] if case.job_nodelist else []
    for key, (value, reference, _, _, unit, *_rest) in (case.perfvalues or {}).items():
        name = str(key).rpartition(':')[2]
        found += [(f'{kind}.{name}', f'{number:g} {unit}')
                  for kind, number in (('metric', value), ('reference', reference)) if number is not None]
    return found


def _line(text: str) -> str:
    return printable(' '.join(text.split()))


def _seconds(case: Case) -> float:
    return case.time_total or 0.0
