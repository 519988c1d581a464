"""The suite on a real Slurm: what runs there as on any site, by srun and torchrun, and two suites at once."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from needs import require

CHECKS = Path(__file__).resolve().parents[2] / 'checks'
BENCHMARKS = sorted(path.stem for path in CHECKS.glob('*.py') if 'DetectionTrainingCheck' in path.read_text())
#: Trained by two suites at once.
TWICE = 'ssd'


def assert_trained_by_srun(cluster, case) -> None:
    assert case.result == 'pass', case.reason
    assert hosts(case.record) == [('n1', [0]), ('n2', [1])]
    assert case.record.runtime['backend'] == 'gloo'
    assert case.record.environment['SLURM_JOB_ID'] == case.job
    assert 'srun' in case.script
    assert cluster.accounting(case.job)['State'] == 'COMPLETED'


def hosts(record) -> list[tuple[str, list[int]]]:
    return [(host['name'], list(host['ranks'])) for host in record.hosts]


@pytest.mark.slow
@pytest.mark.parametrize('benchmark', [benchmark for benchmark in BENCHMARKS if benchmark != TWICE])
def test_smoke_passes_on_two_nodes_by_srun(suite, cluster, benchmark: str) -> None:
    assert_trained_by_srun(cluster, suite.train(benchmark).only_case())


@pytest.mark.slow
def test_smoke_passes_on_two_nodes_by_torchrun(suite) -> None:
    case = suite.train(launch='torchrun').only_case()
    assert case.result == 'pass', case.reason
    assert hosts(case.record) == [('n1', [0]), ('n2', [1])]
    assert re.search(r'srun .*torch\.distributed\.run', case.script)


def test_preflight_visits_every_node(suite) -> None:
    session = suite.start('-n', 'preflight_cpu', '--distribute=all', preflight_cpu__min_cpus='1')
    cases = session.end()
    assert {case.result for case in cases} == {'pass'}, [case.reason for case in cases]
    assert all('--cpus-per-task=8' in case.script for case in cases)
    assert sorted(re.search(r'n[12]', case.name.partition('nid')[2]).group() for case in cases) == ['n1', 'n2']


def test_gpus_that_only_slurm_promises_are_red(suite) -> None:
    case = suite.start('-n', 'preflight_gpu', partition='gpu').only_case()
    assert '--gres=gpu:4' in case.script
    assert case.result == 'fail'
    assert 'GPUs found: []; the configuration of the partition promises 4' in case.reason


def test_a_new_site_is_what_slurm_says_and_proves_itself(cluster, tmp_path: Path) -> None:
    program = Path(sys.executable).parent
    said = cluster.run(program / 'mlperf-det', 'new-site', 'ours', '--directory', tmp_path, timeout=60)
    assert 'main: 2 node(s), 4 GPU(s) each' in said
    folder = tmp_path / 'ours'
    # The GPUs are nameless devices; all else Slurm knows, down to the plugin for containers.
    site = (folder / 'site.py').read_text()
    for line in ("'container_runtime': 'Pyxis'", '--gres=gpu:{num_gpus_per_node}', "'num_cpus': 8", "'nodes': 2"):
        assert line in site
    linted = cluster.run(program / 'mlperf-det', 'lint', f'{folder}/', timeout=60)
    assert '1 system(s), 0 problem(s)' in linted
    assert linted.count('to fill in: ') >= 4
    # What nobody but the site knows; the rest is proved as the command's last lines advise.
    (folder / 'site.py').write_text(site.replace('FILL_IN', str(tmp_path)[1:]))
    arguments = ('-C', folder / 'site.py', '--system=ours', f'--prefix={tmp_path}', '--nocolor', '-c')
    rendered = cluster.run(program / 'reframe', *arguments, CHECKS, '--dry-run', timeout=300)
    assert re.search(r'Ran \d+/\d+ test case\(s\) from \d+ check\(s\) \(0 failure', rendered), rendered[-2000:]
    # Slurm is told of more processors than this machine has.
    visited = cluster.run(program / 'reframe', *arguments, CHECKS / 'preflight.py', '-n', 'preflight_cpu', '-r',
                          '--distribute=all', '-S', 'preflight_cpu.min_cpus=1', timeout=300)
    assert re.search(r'Ran [34]/[34] test case\(s\) .*\(0 failure', visited), visited[-2000:]


@pytest.mark.slow
def test_two_suites_started_together_do_not_disturb_each_other(suite, cluster, tmp_path: Path) -> None:
    # Same checkout, same working folder, and a dataset that is not there yet: both set out to make it.
    cache = tmp_path / 'cache'
    sessions = [suite.train(TWICE, cache=cache) for _ in range(2)]
    cases = [session.only_case() for session in sessions]
    for case in cases:
        assert_trained_by_srun(cluster, case)
    assert {case.folder.relative_to(tmp_path).parts[0] for case in cases} == {'output', 'output-2'}
    assert cases[0].record.dataset['fingerprint'] == cases[1].record.dataset['fingerprint']
    assert [path.name for path in (cache / 'datasets').iterdir()] == [Path(cases[0].record.dataset['root']).name]


def test_a_missing_program_fails_in_continuous_integration_and_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CI', 'true')
    with pytest.raises(pytest.fail.Exception, match='no-such-program is not installed'):
        require('no-such-program')
    monkeypatch.delenv('CI')
    with pytest.raises(pytest.skip.Exception, match='no-such-program is not installed'):
        require('no-such-program')
