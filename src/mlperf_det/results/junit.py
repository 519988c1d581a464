"""junit.xml: a test case a group with its metrics as properties, for continuous integration."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from mlperf_det.results.groups import Group
from mlperf_det.results.judging import Judged
from mlperf_det.results.verdict import State, Verdict
from mlperf_det.tables import printable

#: states that are a failed check; what was never checked, or could not be, is an error
_FAILURES = (State.UNSTABLE, State.FAIL_QUALITY, State.FAIL_PERF)
_ERRORS = (State.FAIL_INFRA, State.NOT_RUN)


def junit_xml(judged: Judged) -> bytes:
    """Return the verdicts as JUnit XML; the same verdicts give the same bytes."""
    states = [verdict.state for verdict in judged.verdicts]
    root = ElementTree.Element('testsuites')
    suite = ElementTree.SubElement(root, 'testsuite', {
        'name': 'mlperf-det', 'tests': str(len(states)), 'failures': str(sum(state in _FAILURES for state in states)),
        'errors': str(sum(state in _ERRORS for state in states)), 'skipped': '0'})
    groups: list[Group | None] = [*judged.groups, *[None] * (len(states) - len(judged.groups))]
    for group, verdict in zip(groups, judged.verdicts, strict=True):
        _add_case(suite, group, verdict)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding='utf-8', xml_declaration=True)
    return content + b'\n'


def _add_case(suite: ElementTree.Element, group: Group | None, verdict: Verdict) -> None:
    runs = group.runs if group else ()
    seconds = sum(run.time_to_train_seconds or 0.0 for run in runs)
    case = ElementTree.SubElement(suite, 'testcase', {
        'classname': f'mlperf_det.{printable(runs[0].benchmark) if runs else "promised"}',
        'name': _text(verdict.title), 'time': f'{seconds:.3f}'})
    properties = ElementTree.SubElement(case, 'properties')
    for name, value in _metrics(verdict).items():
        ElementTree.SubElement(properties, 'property', {'name': name, 'value': value})
    if verdict.state in (*_FAILURES, *_ERRORS):
        element = ElementTree.SubElement(case, 'failure' if verdict.state in _FAILURES else 'error', {
            'type': verdict.state.value, 'message': _text(verdict.cause)})
        element.text = '\n'.join(map(_text, verdict.notes))


def _metrics(verdict: Verdict) -> dict[str, str]:
    score = verdict.score
    found: dict[str, object] = {'state': verdict.state.value, 'marks': _text(', '.join(verdict.marks))}
    if score is not None:
        found |= {'runs': score.runs, 'converged': score.converged, 'score_minutes': score.minutes,
                  'mean_minutes': score.mean, 'epochs': score.epochs, 'images_per_second': score.throughput,
                  'images_per_second_training': score.throughput_training}
    for judgement in verdict.judgements:
        found |= {f'{judgement.metric}_{judgement.unit}': judgement.mean, f'{judgement.metric}_limit': judgement.limit,
                  f'{judgement.metric}_sure': judgement.sure}
    return {name: f'{value:.6g}' if isinstance(value, float) else str(value) for name, value in found.items()
            if value not in (None, '')}


def _text(text: str) -> str:
    """Return text that XML allows: control characters and lone surrogates as escapes."""
    return printable(text).encode('utf-8', 'backslashreplace').decode()
