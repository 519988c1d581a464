"""Preflight: the facts of this machine are real, and each requirement can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reframe.core.exceptions import SanityError

from mlperf_det.rfm import node_facts
from mlperf_det.rfm.preflight_check import PreflightCheck

GOOD = {
    'host': 'node7', 'errors': {}, 'disk_free_gib': 50.0, 'shared_memory_free_gib': 8.0, 'memory_gib': 64.0, 'cpus': 16,
    'open_files_limit': -1, 'locked_memory_limit_gib': -1.0, 'clock_rate_error': 1e-5, 'clock_lead_seconds': 0.01,
    'clock_after_release': True, 'versions': {'torch': '2.6'}, 'broken_modules': {}, 'compiler': None,
    'gpu_models': ['NVIDIA H100 80GB HBM3'] * 4,
}


def judged(bench: Any, name: str, **facts: Any) -> None:
    partition = 'gpu' if name == 'preflight_gpu' else 'cpu'
    check, = (check for check in bench.load('preflight.py', partition) if check.name == name)
    (Path(check.stagedir) / 'node_facts.json').write_text(json.dumps({**GOOD, **facts}))
    bench.end_job(check)
    bench.judge(check)


@pytest.mark.parametrize('name', ['preflight_cpu', 'preflight_gpu'])
def test_a_fit_node_passes(bench: Any, name: str) -> None:
    judged(bench, name)


@pytest.mark.parametrize(('facts', 'cause'), [
    ({'disk_free_gib': 0.5}, r'disk_free_gib is 0\.5, at least 2 is needed'),
    ({'memory_gib': 1.0}, 'memory_gib is 1'), ({'cpus': 0}, 'bound to too few processors'),
    ({'locked_memory_limit_gib': 0.0078}, r'locked_memory_limit_gib is 0\.0078, .*raise `ulimit -l`'),
    ({'shared_memory_free_gib': 0.06}, r'/dev/shm'), ({'open_files_limit': 256}, 'ulimit -n'),
    ({'clock_rate_error': -0.5}, 'the clock runs wrong'), ({'clock_lead_seconds': -40.0}, 'ahead of the file system'),
    ({'clock_after_release': False}, 'the clock is years behind'),
    ({'broken_modules': {'hotcoco': 'no module'}}, 'cannot be imported: hotcoco: no module'),
    ({'versions': {'torch': None}}, 'packages are missing'),
    ({'cpus': None, 'errors': {'cpus': 'OSError: gone'}}, 'cpus could not be determined: OSError: gone'),
])
def test_every_requirement_can_fail(bench: Any, facts: dict[str, Any], cause: str) -> None:
    with pytest.raises(SanityError, match=rf'{cause}.*\(node node7\)'):
        judged(bench, 'preflight_cpu', **facts)


def test_a_node_with_fewer_processors_than_promised_is_red(bench: Any, site: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    text = (site / 'site.py').read_text()
    (site / 'site.py').write_text(text.replace("{'name': 'cpu',", "{'name': 'cpu', 'processor': {'num_cpus': 32},"))
    monkeypatch.setattr(PreflightCheck, 'is_local', lambda _: False)
    with pytest.raises(SanityError, match='cpus is 16, at least 32 is needed'):
        judged(bench, 'preflight_cpu')
    judged(bench, 'preflight_cpu', cpus=32)


def test_a_compiler_is_asked_for_where_it_is_needed(bench: Any) -> None:
    check, = (check for check in bench.load('preflight.py', **{'preflight_cpu.needs_compiler': 'yes'})
              if check.name == 'preflight_cpu')
    (Path(check.stagedir) / 'node_facts.json').write_text(json.dumps(GOOD))
    bench.end_job(check)
    with pytest.raises(SanityError, match='no C\\+\\+ compiler'):
        bench.judge(check)


def test_locked_memory_counts_where_an_adapter_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_facts, 'RDMA_ADAPTERS', tmp_path)
    monkeypatch.setattr(node_facts.resource, 'getrlimit', lambda _: (65536, 65536))
    assert node_facts.locked_memory_limit_gib() == -1
    (tmp_path / 'mlx5_0').mkdir()
    assert node_facts.locked_memory_limit_gib() == 65536 / 2**30


@pytest.mark.parametrize(('facts', 'cause'), [
    ({'gpu_models': ['NVIDIA H100 80GB HBM3'] * 3}, 'promises 4'),
    ({'gpu_models': ['NVIDIA A100-SXM4-80GB'] * 4}, 'promises NVIDIA H100'),
    ({'gpu_models': None, 'errors': {'gpu_models': 'RuntimeError: GPU 2 adds wrongly'}}, 'GPU 2 adds wrongly'),
])
def test_other_gpus_than_promised_are_red(bench: Any, facts: dict[str, Any], cause: str) -> None:
    with pytest.raises(SanityError, match=cause):
        judged(bench, 'preflight_gpu', **facts)


def test_a_node_that_says_nothing_is_red(bench: Any) -> None:
    check, = bench.load('preflight.py')
    bench.end_job(check)
    with pytest.raises(SanityError, match='the node did not describe itself'):
        bench.judge(check)


def test_the_facts_of_this_machine_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = node_facts.collect(gpus=False)
    assert facts['errors'] == {}
    assert facts['cpus'] >= 1
    assert facts['memory_gib'] > 0
    assert abs(facts['clock_lead_seconds']) < 2
    assert facts['broken_modules'] == {}


def test_a_fact_that_cannot_be_had_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> float:
        raise OSError('gone')

    monkeypatch.setattr(node_facts, 'FACTS', {'disk_free_gib': gone, 'cpus': lambda: 3})
    facts = node_facts.collect(gpus=False)
    assert (facts['disk_free_gib'], facts['cpus'], facts['errors']) == (None, 3, {'disk_free_gib': 'OSError: gone'})
