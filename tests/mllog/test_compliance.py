"""The rules of the rounds, applied to logs of our own writing, to published logs, and to hostile ones."""

from __future__ import annotations

import csv
import json
import logging
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlperf_logging.compliance_checker import mlp_compliance

from mlperf_det.errors import UserError
from mlperf_det.mllog import keys
from mlperf_det.mllog.compliance import check_log, rulesets
from mlperf_det.mllog.writer import MLPerfLog

RULES = Path(mlp_compliance.__file__).parent
Event = tuple[str, str, Any, dict[str, Any]]


def ssd_tensors() -> list[str]:
    """The tensor names in the installed rules."""
    return re.findall('"(ssd0_[a-z0-9_]+)"', (RULES / 'training_1.1.0' / 'closed_ssd.yaml').read_text())


def ssd_events(division: str = 'closed') -> list[Event]:
    """What a run of SSD300 logs, in the order of the published v1.1 logs."""
    def point(key: str, value: Any, **metadata: Any) -> Event:
        return ('event', key, value, metadata)
    return [
        point(keys.SUBMISSION_BENCHMARK, 'ssd'), point(keys.SUBMISSION_ORG, 'org'),
        point(keys.SUBMISSION_DIVISION, division), point(keys.SUBMISSION_STATUS, 'onprem'),
        point(keys.SUBMISSION_PLATFORM, '1xhost'), point(keys.CACHE_CLEAR, True), ('start', keys.INIT_START, None, {}),
        point(keys.SEED, 1), point(keys.TRAIN_SAMPLES, 117266), point(keys.MAX_SAMPLES, 1),
        point(keys.OPT_LR_WARMUP_STEPS, 771), point(keys.OPT_LR_WARMUP_FACTOR, 0), point(keys.OPT_BASE_LR, 0.045),
        point(keys.OPT_LR_DECAY_BOUNDARY_EPOCHS, [44, 55]), point(keys.EVAL_SAMPLES, 5000),
        point(keys.OPT_WEIGHT_DECAY, 1.3e-4),
        *(point(keys.WEIGHTS_INITIALIZATION, None, tensor=name) for name in ssd_tensors()),
        ('end', keys.INIT_STOP, None, {}), ('start', keys.RUN_START, None, {}), point(keys.MODEL_BN_SPAN, 114),
        point(keys.GLOBAL_BATCH_SIZE, 456), point(keys.GRADIENT_ACCUMULATION_STEPS, 1),
        ('start', keys.EPOCH_START, None, {'epoch_num': 1}), ('end', keys.EPOCH_STOP, None, {'epoch_num': 1}),
        ('start', keys.EVAL_START, None, {'epoch_num': 1}), ('end', keys.EVAL_STOP, None, {'epoch_num': 1}),
        point(keys.EVAL_ACCURACY, 0.2301, epoch_num=1), ('end', keys.RUN_STOP, None, {'status': 'success'})]


def write(path: Path, written: Sequence[Event]) -> Path:
    with MLPerfLog(path) as log:
        for method, key, value, metadata in written:
            getattr(log, method)(key, value, metadata)
    return path


REQUIRED = sorted({key for _, key, _, _ in ssd_events()} - {keys.SEED})


def test_a_log_of_the_benchmark_passes(tmp_path: Path) -> None:
    assert len(ssd_tensors()) == 119
    result = check_log(write(tmp_path / 'log', ssd_events()), '1.1.0', benchmark='ssd', division='closed')
    assert result.findings == ()
    assert (result.passed, result.benchmark, result.division, result.ruleset) == (True, 'ssd', 'closed', '1.1.0')


@pytest.mark.parametrize('key', REQUIRED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    result = check_log(write(tmp_path / 'log', [e for e in ssd_events() if e[1] != key]), '1.1.0')
    assert not result.passed
    assert any(f"'{key}'" in finding for finding in result.findings), result.findings


@pytest.mark.parametrize(('key', 'value', 'named'), [
    (keys.EVAL_ACCURACY, 0.2299, 'eval_accuracy'), (keys.EVAL_ACCURACY, {'BBOX': 0.5}, 'TypeError'),
    (keys.MAX_SAMPLES, 7, 'max_samples'), (keys.OPT_LR_WARMUP_STEPS, 0, 'opt_learning_rate_warmup_steps'),
    (keys.SUBMISSION_STATUS, 'home', 'submission_status'),
])
def test_a_value_against_the_rules_is_named(tmp_path: Path, key: str, value: Any, named: str) -> None:
    changed = [(m, k, value if k == key else v, meta) for m, k, v, meta in ssd_events()]
    result = check_log(write(tmp_path / 'log', changed), '1.1.0')
    assert not result.passed
    assert any(named in finding for finding in result.findings), result.findings


def test_a_tensor_left_out_breaks_the_closed_division_only(tmp_path: Path) -> None:
    def without_one(division: str) -> list[Event]:
        return [e for e in ssd_events(division) if e[3].get('tensor') != 'ssd0_expand_conv4_bias']
    closed = check_log(write(tmp_path / 'closed', without_one('closed')), '1.1.0')
    assert any('initialized_tensors' in finding for finding in closed.findings)
    assert check_log(write(tmp_path / 'open', without_one('open')), '1.1.0', division='open').passed


def test_an_open_run_needs_no_closed_hyperparameters_and_no_target(tmp_path: Path) -> None:
    closed_only = {keys.OPT_WEIGHT_DECAY, keys.MODEL_BN_SPAN, keys.WEIGHTS_INITIALIZATION}
    changed = [(m, k, 0.11 if k == keys.EVAL_ACCURACY else v, meta) for m, k, v, meta in ssd_events('open')
               if k not in closed_only]
    path = write(tmp_path / 'log', changed)
    assert check_log(path, '1.1.0').passed
    result = check_log(path, '1.1.0', benchmark='maskrcnn', division='closed')
    assert result.findings == ("submission_benchmark is 'ssd', expected 'maskrcnn'",
                               "submission_division is 'open', expected 'closed'")


def test_repeated_keys_of_equal_value_are_warnings(tmp_path: Path) -> None:
    result = check_log(write(tmp_path / 'log', [ssd_events()[0], *ssd_events()]), '1.1.0')
    assert result.passed
    assert any('submission_benchmark' in warning for warning in result.warnings)


def test_a_benchmark_without_rules_is_a_finding_and_leaves_no_trace(tmp_path: Path) -> None:
    path = write(tmp_path / 'log', ssd_events())
    result = check_log(path, '5.1.0')
    assert result.findings == (
        "rule set 5.1.0 has no rules for benchmark 'ssd' (no closed_ssd.yaml); rule sets that have: "
        '0.7.0, 1.0.0, 1.1.0, 2.0.0, 2.1.0, 3.0.0, 3.1.0, 4.0.0, 4.1.0',)
    assert check_log(path, '1.1.0').passed


def test_global_logging_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / 'log', ssd_events()[:4])
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        assert not check_log(path, '1.1.0').passed
        assert root.handlers == []
    finally:
        root.handlers = kept
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('key', [keys.SUBMISSION_BENCHMARK, keys.SUBMISSION_DIVISION])
@pytest.mark.parametrize('ruleset', ['0.6.0', '1.1.0'])
def test_a_log_cannot_have_files_of_its_choice_executed(tmp_path: Path, key: str, ruleset: str) -> None:
    proof = tmp_path / 'executed'
    for name in ('evil.yaml', 'evil_common.yaml'):
        (tmp_path / name).write_text(f'- BEGIN:\n    CODE: "open({str(proof)!r}, chr(119))"\n')
    climb = '../' * len(RULES.parts) + str(tmp_path / 'evil').lstrip('/')
    path = tmp_path / 'log'
    write(path, [(m, k, climb if k == key else v, meta) for m, k, v, meta in ssd_events()])
    if ruleset == '0.6.0':
        path.write_text(''.join(
            f':::MLL 1.0 {event["key"]}: {json.dumps({"value": event["value"], "metadata": event["metadata"]})}\n'
            for event in (json.loads(line[9:]) for line in path.read_text().splitlines())))
    result = check_log(path, ruleset)
    assert not result.passed
    assert any(key in finding for finding in result.findings)
    assert not proof.exists()


@pytest.mark.parametrize('line', [
    b':::MLLOG {"key": "eval_accuracy"}', b':::MLLOG []', b':::MLLOG {"time_ms"', b':::MLLOG ' + b'[' * 10**4,
    b':::MLLOG ' + b'[' * 10**6, b':::MLLOG 1' + b'0' * 10**4,
    b':::MLLOG {"time_ms": 1, "key": "eval_accuracy", "value": 1, "metadata": null}', b'\xff\x00:::MLLOG \xff',
])
def test_hostile_lines_are_findings(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / 'log', ssd_events())
    path.write_bytes(path.read_bytes() + line + b'\n')
    result = check_log(path, '1.1.0')
    assert not result.passed
    assert all(len(finding) < 500 and finding.isprintable() for finding in result.findings)


def test_empty_large_absent_and_unknown(tmp_path: Path) -> None:
    path = tmp_path / 'log'
    path.write_text('no events\n')
    assert 'No log lines detected' in check_log(path, '1.1.0').findings
    assert check_log(path, '1.1.0', max_bytes=5).findings == ('the log has 10 bytes, more than the 5 that are checked',)
    with pytest.raises(UserError, match='cannot be read'):
        check_log(tmp_path / 'absent', '1.1.0')
    with pytest.raises(UserError, match=r"unknown rule set '9.9.9'.*6\.1\.0"):
        check_log(path, '9.9.9')
    assert rulesets()[0] == '0.6.0'


#: published logs and what the checker of their round says of them
PUBLISHED = [
    ('v0.6', '0.6.0', 'v0.6/Google/tpu-v3-512/ssd/result_0.txt', "CHECK for 'cache_clear' failed"),
    ('v0.6', '0.6.0', 'v0.6/Google/tpu-v3-128/maskrcnn/result_0.txt', "no rules for benchmark 'mask'"),
    ('v0.7', '0.7.0', 'v0.7/Google/tpu-v3-1024-TF/maskrcnn/result_0.txt', 'Failed checks for eval_accuracy'),
    ('v0.7', '0.7.0', 'v0.7/DellEMC/DSS8440/maskrcnn/result_1.txt', None),
    ('v0.7', '0.7.0', 'v0.7/Google/tpu-v3-8192-TF/ssd/result_0.txt', None),
    ('v4.1', '4.1.0', None, None),
    ('v5.0', '5.0.0', 'v5.0/tinycorp/tinybox_green/retinanet/result_4.txt', "occurrence of 'run_stop' but found 0"),
    ('v5.1', '5.1.0', 'v5.1/Dell/2xXE9685Lx8B200-SXM-180GB/retinanet/result_0.txt', None),
    ('v5.1', '4.1.0', 'v5.1/Dell/2xXE9685Lx8B200-SXM-180GB/retinanet/result_0.txt', 'no rules for benchmark'),
]


@pytest.fixture
def published_log(shared_data: Path, tmp_path: Path) -> Callable[[str, str | None], Path]:
    """A function of round and member that extracts one published log; without a member, the first of the round."""
    def extract(name: str, member: str | None) -> Path:
        with tarfile.open(shared_data / 'mlperf-logs' / f'{name}.tar.xz') as archive:
            for info in archive:
                if info.name == member or (member is None and re.search(r'result_\w+\.txt$', info.name)):
                    stream = archive.extractfile(info)
                    assert stream is not None
                    path = tmp_path / 'result.txt'
                    path.write_bytes(stream.read())
                    return path
        raise AssertionError(f'{member} is not in {name}.tar.xz')
    return extract


@pytest.mark.shared
@pytest.mark.parametrize(('name', 'ruleset', 'member', 'finding'), PUBLISHED)
def test_published_logs_are_judged_as_by_the_checker(published_log: Callable[[str, str | None], Path], name: str,
                                                     ruleset: str, member: str | None, finding: str | None) -> None:
    result = check_log(published_log(name, member), ruleset)
    if finding is None:
        assert result.findings == ()
    else:
        assert any(finding in line for line in result.findings), result.findings


@pytest.mark.shared
def test_all_published_logs_of_the_last_round_pass(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / 'mlperf-logs' / 'truth.csv').open() as stream:
        expected = sum(row['round'] == 'v5.1' for row in csv.DictReader(stream))
    verdicts = []
    with tarfile.open(shared_data / 'mlperf-logs' / 'v5.1.tar.xz') as archive:
        for info in archive:
            if re.search(r'result_\w+\.txt$', info.name):
                path = tmp_path / 'result.txt'
                stream = archive.extractfile(info)
                assert stream is not None
                path.write_bytes(stream.read())
                verdicts.append(check_log(path, '5.1.0', benchmark='retinanet', division='closed').passed)
    assert verdicts == [True] * expected
