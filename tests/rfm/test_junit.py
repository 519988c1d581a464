"""JUnit files: counts, causes and metrics, from a report of a real ReFrame session."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.reframe_sessions import Case
from mlperf_det.rfm.junit import write_junit

CHECK = '''
import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import performance_function, run_after, sanity_function

class base(rfm.RunOnlyRegressionTest):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'echo'
    sourcesdir = None
    reference = {'*': {'speed': (100.0, -0.5, None, 'images/s')}}

    @sanity_function
    def is_good(self):
        return sn.assert_true(1)

    @performance_function('images/s')
    def speed(self):
        return self.measured

@rfm.simple_test
class fast(base):
    measured = 90.0

@rfm.simple_test
class slow(base):
    measured = 12.5

@rfm.simple_test
class left_out(base):
    measured = 1.0

    @run_after("setup")
    def leave_out(self):
        self.skip('no "fabric" <here>')
'''


@pytest.fixture(scope='module')
def junit(tmp_path_factory: pytest.TempPathFactory) -> ET.Element:
    folder = tmp_path_factory.mktemp('junit')
    (folder / 'check.py').write_text(CHECK)
    status = main(['accept', '-c', str(folder / 'check.py'), '-o', str(folder / 'out'), '--no-report',
                   '--junit', str(folder / 'new' / 'junit.xml')])
    assert status == 1
    suite, = ET.parse(folder / 'new' / 'junit.xml').getroot()  # noqa: S314 (our own file)
    return suite


def test_cases_are_counted(junit: ET.Element) -> None:
    assert {name: junit.get(name) for name in ('tests', 'failures', 'skipped', 'errors')} == {
        'tests': '3', 'failures': '1', 'skipped': '1', 'errors': '0'}


def test_metrics_and_references_are_there(junit: ET.Element) -> None:
    fast, = (case for case in junit.iter('testcase') if case.get('name') == 'fast')
    properties = {entry.get('name'): entry.get('value') for entry in fast.iter('property')}
    assert properties['metric.speed'] == '90 images/s'
    assert properties['reference.speed'] == '100 images/s'
    assert properties['nodes']
    assert fast.get('classname') == 'local.default'
    assert not list(fast.iter('failure'))


def test_causes_are_there(junit: ET.Element) -> None:
    slow, = (case for case in junit.iter('testcase') if case.get('name') == 'slow')
    failure, = slow.iter('failure')
    assert failure.get('type') == 'performance'
    assert '12.5' in str(failure.get('message'))
    left_out, = (case for case in junit.iter('testcase') if case.get('name') == 'left_out')
    skipped, = left_out.iter('skipped')
    assert skipped.get('message')


def written(folder: Path, cases: list[Case], *, verdict: str = 'PASSED', cause: str = '',
            red: bool = False) -> ET.Element:
    write_junit(folder / 'junit.xml', cases, verdict=verdict, cause=cause, red=red)
    suite, = ET.parse(folder / 'junit.xml').getroot()  # noqa: S314 (our own file)
    return suite


def test_text_that_is_no_xml_comes_back_as_it_was(tmp_path: Path) -> None:
    reason = 'no "fabric" <here> & there'
    failure, = written(tmp_path, [Case(name='a', result='fail', fail_reason=reason)]).iter('failure')
    assert failure.get('message') == reason


def test_characters_that_xml_cannot_hold_are_escaped(tmp_path: Path) -> None:
    reason = 'a \x1b[31mred\x1b[0m word, \x00, \ud800 and \U0001f525'
    failure, = written(tmp_path, [Case(name='a', result='fail', fail_reason=reason)]).iter('failure')
    assert failure.get('message') == r'a \x1b[31mred\x1b[0m word, \x00, \ud800 and ' '\U0001f525'


@pytest.mark.parametrize('cases', [[], [Case(name='a', result='pass')]])
def test_a_session_that_is_red_without_a_red_case_is_a_case_itself(tmp_path: Path, cases: list[Case]) -> None:
    suite = written(tmp_path, cases, verdict='NOTHING_RAN', cause='no case matches', red=True)
    assert (suite.get('tests'), suite.get('failures')) == (str(len(cases) + 1), '1')
    failure, = suite.iter('failure')
    assert (failure.get('type'), failure.get('message')) == ('NOTHING_RAN', 'no case matches')


def test_a_session_is_no_case_where_its_cases_say_it(tmp_path: Path) -> None:
    assert written(tmp_path, [Case(name='a', result='fail')], verdict='FAILED', red=True).get('tests') == '1'
    suite = written(tmp_path, [Case(name='a', result='pass')], verdict='DEGRADED', cause='slow')
    assert (suite.get('tests'), suite.get('failures')) == ('1', '0')
    properties = {entry.get('name'): entry.get('value') for entry in suite.findall('properties/property')}
    assert properties == {'verdict': 'DEGRADED', 'cause': 'slow'}
