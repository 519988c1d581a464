"""Whole sessions of the real ReFrame, with small checks: what ReFrame lets pass by itself is red here."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.recipes.load import builtin_recipes, override
from mlperf_det.reframe_sessions import Case
from mlperf_det.rfm import accept
from mlperf_det.rfm.accept import Verdict, judge, judge_runs, needing_references, run_folders
from mlperf_det.rfm.folder_lock import take
from mlperf_det.rfm.session import Session, read_cases

# What writes run folders for the tests of the checks.
_spec = importlib.util.spec_from_file_location('run_folders', Path(__file__).parents[1] / 'checks' / 'conftest.py')
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
write_run = _module.write_run

HEAD = '''
import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import fixture, performance_function, run_after, run_before, sanity_function
from mlperf_det.rfm.no_silent_pass import NoSilentPass


class Base(rfm.RunOnlyRegressionTest, NoSilentPass):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    executable = 'echo'
    executable_opts = ['speed 7']
    reference_not_needed = 'a test'

    @sanity_function
    def nothing_to_ask(self):
        return True
'''
GOOD = '''
@rfm.simple_test
class good(Base):
    @performance_function('m/s')
    def speed(self):
        return sn.extractsingle(r'speed (\\d+)', self.stdout, 1, float)
'''
BROKEN_FIXTURE = '''
class broken(Base):
    executable = 'false'

@rfm.simple_test
class dependent(Base):
    resource = fixture(broken, scope='session')
'''
FAULTS = {
    'job exits non-zero': ("class c(Base):\n    executable = 'exit 3; echo'", 'quality target (exit code 3)'),
    'later command hides the failure': (
        "class c(Base):\n    executable = 'false'\n    postrun_cmds = ['true']", 'exit code 1'),
    'process killed half-way': ("class c(Base):\n    executable = \"sh -c 'kill -9 $$'\"", 'killed by SIGKILL'),
    'script killed half-way': (
        "class c(Base):\n    executable = 'kill -9 $$;'", 'the job script was killed by SIGKILL'),
    'script ends early': ("class c(Base):\n    executable = 'exit 0;'", 'the job script was cut short'),
    'missing metric': (
        "class c(Base):\n    @performance_function('m/s')\n    def speed(self):\n"
        "        return sn.extractsingle(r'velocity (\\d+)', self.stdout, 1, float)", 'metric speed is missing'),
    'metric not measured': ("class c(Base):\n    metrics_required = ['joules']", 'metric joules is missing'),
    'missing reference': (
        "class c(Base):\n    reference_not_needed = ''\n    @performance_function('m/s')\n    def speed(self):\n"
        "        return 7.0", 'metric speed has no reference for local:default'),
    'not a number': (
        "class c(Base):\n    @performance_function('m/s')\n    def speed(self):\n        return float('inf')",
        'metric speed is inf m/s'),
    'wrong node count': ('class c(Base):\n    num_nodes = 2', '1 node(s), 2 were asked for'),
}


def session(tmp_path: Path, capfd: pytest.CaptureFixture[str], checks: str, *arguments: str) -> tuple[int, str]:
    """Run a session over check code; return the exit status and the line that names the cause."""
    (tmp_path / 'checks.py').write_text(HEAD + checks)
    status = main(['accept', '-c', str(tmp_path / 'checks.py'), '-o', str(tmp_path / 'out'), '--no-report', *arguments])
    lines = capfd.readouterr().out.splitlines()
    return status, next(line for line in reversed(lines) if line.startswith(('PASSED', 'NOT PASSED', 'DEGRADED')))


def test_good_checks_pass(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert session(tmp_path, capfd, GOOD) == (Verdict.PASSED, 'PASSED: 1 cases ran and passed')
    report = json.loads((tmp_path / 'out' / 'reframe-report.json').read_text())
    assert report['runs'][0]['testcases'][0]['perfvalues']['local:default:speed'][0] == 7.0
    assert report['runs'][0]['testcases'][0]['reference_not_needed'] == 'a test'


def test_every_fault_is_red_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = ''
    for number, (body, _) in enumerate(FAULTS.values()):
        code += '\n@rfm.simple_test\n' + body.replace('class c(', f'class fault_{number}(') + '\n'
    status, line = session(tmp_path, capfd, code)
    assert status == Verdict.FAILED
    assert line.startswith('NOT PASSED: fault_')
    report = json.loads((tmp_path / 'out' / 'reframe-report.json').read_text())
    cases = {case['name']: case for case in report['runs'][0]['testcases']}
    for number, (fault, (_, cause)) in enumerate(FAULTS.items()):
        case = cases[f'fault_{number}']
        assert case['result'] == 'fail', fault
        assert cause in case['fail_reason'], fault


def test_a_dry_run_fires_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = ''.join('\n@rfm.simple_test\n' + body.replace('class c(', f'class fault_{number}(') + '\n'
                   for number, (body, _) in enumerate(FAULTS.values()))
    status, line = session(tmp_path, capfd, code, '--', '--dry-run')
    assert (status, line) == (Verdict.PASSED, f'PASSED: {len(FAULTS)} cases were rendered, none was run (dry run)')


@pytest.mark.parametrize(('code', 'arguments', 'status', 'cause'), [
    pytest.param(GOOD, ['--', '-n', 'absent'], Verdict.NOTHING_RAN, 'nothing ran: no case matches', id='zero-cases'),
    pytest.param(GOOD.replace("    @perf", "    valid_systems = ['nowhere']\n    @perf"), [], Verdict.NOTHING_RAN,
                 'nothing ran', id='no-partition-fits'),
    pytest.param(GOOD + '\nimport absent_module\n', [], Verdict.UNUSABLE, 'before any case ran', id='import-error'),
    pytest.param(GOOD + "\n    @run_after('setup')\n    def leave(self):\n        self.skip('no licence')\n", [],
                 Verdict.SKIPPED, '1 of 1 cases were skipped', id='skipped'),
    pytest.param(BROKEN_FIXTURE, [], Verdict.FAILED, 'fixture broken', id='failing-fixture'),
    pytest.param(GOOD, ['--', '--no-such-option'], Verdict.UNUSABLE, 'status 2', id='bad-option'),
    pytest.param(GOOD.replace('class good(Base):', "class good(Base):\n    executable = 'sleep 60; echo'"),
                 ['--timeout', '0.08'], Verdict.OUT_OF_TIME, 'ran out of time', id='out-of-time'),
])
def test_the_session_as_a_whole_is_judged(tmp_path: Path, capfd: pytest.CaptureFixture[str], code: str,
                                          arguments: list[str], status: Verdict, cause: str) -> None:
    junit = tmp_path / 'junit.xml'
    found, line = session(tmp_path, capfd, code, '--junit', str(junit), *arguments)
    assert (found, cause in line) == (status, True), line
    # Who reads the file alone must not take the session for good.
    assert ('<failure' in junit.read_text()) is (status is not Verdict.SKIPPED)
    assert f'name="verdict" value="{status.name}"' in junit.read_text()


def test_an_unknown_result_is_not_a_pass() -> None:
    assert judge(Session(status=0, cases=[Case(name='x', result='<unknown>')]))[0] is Verdict.FAILED
    assert judge(Session(status=1, cases=[Case(name='x', result='pass')]))[0] is Verdict.FAILED
    assert judge(Session(status=0, cases=[Case(name='x', result='pass', fixture=True)]))[0] is Verdict.NOTHING_RAN


def test_an_expected_failure_is_no_pass() -> None:
    verdict, line = judge(Session(status=0, cases=[Case(name='x', result='xfail'), Case(name='y', result='pass')]))
    assert (verdict, line) == (Verdict.DEGRADED, '1 of 2 cases fail as expected: x')


@pytest.mark.parametrize(('arguments', 'status', 'line'), [
    (['--max-retries=1'], Verdict.DEGRADED, 'DEGRADED: passed only when it was run again: flaky'),
    (['--reruns=1'], Verdict.FAILED, 'NOT PASSED: flaky')])
def test_a_case_that_passes_at_the_second_try_only_is_no_pass(
        tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], status: Verdict, line: str) -> None:
    code = GOOD + f"""
@rfm.simple_test
class flaky(Base):
    executable = 'test -e {tmp_path}/mark || ! touch {tmp_path}/mark'
"""
    found, said = session(tmp_path, capfd, code, '--junit', str(tmp_path / 'junit.xml'), '--', *arguments)
    assert (found, said.startswith(line)) == (status, True), said
    # The case that needed no second try is not forgotten.
    assert {case.name for case in read_cases(tmp_path / 'out' / 'reframe-report.json')[0]} == {'good', 'flaky'}
    assert 'name="good"' in (tmp_path / 'junit.xml').read_text()


@pytest.mark.parametrize('sent', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_session_that_is_told_to_end_leaves_no_job_behind(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / 'checks.py').write_text(HEAD + f"""
@rfm.simple_test
class endless(Base):
    executable = 'echo $$ > {tmp_path}/job; exec sleep 300; true'
""")
    process = subprocess.Popen(
        # Whoever runs the tests may ignore it, as nohup does.
        ['env', '--default-signal=HUP', sys.executable, '-m', 'mlperf_det', 'accept', '-c',
         tmp_path / 'checks.py', '-o', tmp_path / 'out'], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ((tmp_path / 'job').exists() and (tmp_path / 'job').read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    job = Path('/proc') / (tmp_path / 'job').read_text().strip()
    assert (job / 'cmdline').read_bytes().startswith((b'sleep', b'bash'))
    process.send_signal(sent)
    assert process.communicate(timeout=60)[1].splitlines()[-1] == 'mlperf-det: interrupted'
    assert process.returncode == 130
    assert not job.exists()


def test_what_junit_says_of_an_earlier_session_does_not_outlive_it(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    junit = tmp_path / 'junit.xml'
    junit.write_text('all is well')

    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr(accept, 'run_reframe', interrupted)
    assert main(['accept', '-o', str(tmp_path / 'out'), '--junit', str(junit)]) == 130
    assert not junit.exists()


@pytest.mark.parametrize(('arguments', 'cause'), [
    (['--junit', '/proc/none/junit.xml'], '--junit /proc/none/junit.xml: cannot be written'),
    *((['--timeout', text], f'{text} is no number of minutes') for text in ('0', '-1', 'nan', 'inf', 'soon'))])
def test_what_cannot_be_done_is_refused_before_the_session(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                                           arguments: list[str], cause: str) -> None:
    try:
        status = main(['accept', '-o', str(tmp_path / 'out'), *arguments])
    except SystemExit as end:
        status = int(str(end.code))
    assert (status, cause in capfd.readouterr().err) == (2, True)
    assert not (tmp_path / 'out').exists()


REFERENCES = """
ssd:
  H100-SXM5-80GB:
    1:
      fp32:
        images_per_second:
          {{value: {value}, unit: images/s, direction: higher, n: 5, spread: 2.0, date: 2026-01-01,
            source: {{kind: measured}}}}
"""


@pytest.mark.parametrize(('value', 'verdict', 'line'), [
    (88.0, Verdict.PASSED, ''), (89.5, Verdict.DEGRADED, 'PASS-SLOW'), (120.0, Verdict.FAILED, 'FAIL-PERF')])
def test_the_verdict_on_the_runs_counts_as_well(tmp_path: Path, value: float, verdict: Verdict, line: str) -> None:
    recipe = override(builtin_recipes('ssd')['fujitsu-1x4x114'], [
        'tier=throughput', 'division=open', 'max_steps=100', 'experiments=1'])
    write_run(tmp_path / 'output' / 'run_0', recipe)
    case = Case(name='ssd', result='pass', outputdir=str(tmp_path / 'output'), reference_not_needed='')
    references = tmp_path / 'references.yaml'
    references.write_text(REFERENCES.format(value=value))
    found, cause = judge_runs([case], references)
    assert (found, cause.startswith(line)) == (verdict, True), cause
    case.reference_not_needed = 'calibration'
    assert judge_runs([case], references) == (Verdict.PASSED, '')


def test_two_sessions_with_one_output_folder_do_not_share_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, lock = take(tmp_path / 'out')
    # This process holds the lock, so another one must come.
    (tmp_path / 'checks.py').write_text(HEAD + GOOD)
    done = subprocess.run([sys.executable, '-m', 'mlperf_det', 'accept', '-c', tmp_path / 'checks.py', '-o',
                           tmp_path / 'out'], capture_output=True, text=True, check=False, timeout=60)
    lock.close()
    assert done.returncode == 0, done.stdout
    assert f'this one uses {tmp_path}/out-2' in done.stdout
    assert not (tmp_path / 'out' / 'reframe-report.json').exists()
    assert (tmp_path / 'out-2' / 'reframe-report.json').exists()


@pytest.mark.parametrize(('mode', 'cases'), [
    ('nightly', ['nightly', 'vetting']), ('vetting', ['vetting']), ('acceptance', ['acceptance', 'vetting'])])
def test_a_mode_selects_what_belongs_to_its_occasion(tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str,
                                                     cases: list[str]) -> None:
    tags = {'nightly': 'throughput', 'acceptance': 'convergence', 'vetting': 'preflight'}
    code = ''.join(f"\n@rfm.simple_test\nclass {name}(Base):\n    tags = {{'{tag}'}}\n" for name, tag in tags.items())
    assert session(tmp_path, capfd, code, '--mode', mode)[0] == Verdict.PASSED
    report = read_cases(tmp_path / 'out' / 'reframe-report.json')[0]
    assert sorted({case.name for case in report}) == cases


def test_run_folders_come_from_output_or_stage(tmp_path: Path) -> None:
    for place in ('output/good/run_0', 'stage/bad/run_0', 'stage/bad/run_1', 'stage/good/other'):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / 'run.json').touch()
    cases = [Case(result='pass', outputdir=str(tmp_path / 'output/good'), stagedir=str(tmp_path / 'stage/good')),
             Case(result='fail', outputdir=None, stagedir=str(tmp_path / 'stage/bad')), Case(stagedir=None)]
    assert run_folders(cases) == [tmp_path / 'output/good/run_0', tmp_path / 'stage/bad/run_0',
                                  tmp_path / 'stage/bad/run_1']


def test_a_session_that_calibrates_is_not_held_against_references(tmp_path: Path) -> None:
    write_run(tmp_path / 'output' / 'run_0', builtin_recipes('ssd')['smoke'])
    trained = Case(name='ssd', result='pass', outputdir=str(tmp_path / 'output'), reference_not_needed='calibration')
    # Neither fixtures nor preflight say why they need no reference: they leave no run.
    beside = [Case(name='image', result='pass', fixture=True), Case(name='preflight', result='pass')]
    assert run_folders(needing_references([*beside, trained])) == []
    trained.reference_not_needed = ''
    assert run_folders(needing_references([*beside, trained])) == [tmp_path / 'output' / 'run_0']
