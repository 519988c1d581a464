"""What a closed RetinaNet run logs passes the compliance checker of its round, and each departure does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlperf_det.benchmarks.retinanet import RetinaNetTask
from mlperf_det.mllog import keys
from mlperf_det.mllog.compliance import ComplianceResult, check_log, rulesets
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RetinaNet
from mlperf_det.recipes.retinanet import LOG_NAMES, builtin_recipes
from mlperf_det.training.run_log import RunLog, Submission, open_run


class RealTask(RetinaNetTask):
    """The task of the real dataset, whose images are not needed for a log."""

    def __init__(self, ruleset: str) -> None:
        self.recipe = replace(builtin_recipes()['nvidia-b200-1x8x32'], ruleset=ruleset)
        self.train_samples, self.eval_samples = 1_170_301, 24_781

    def backbone_record(self) -> dict[str, str]:
        return {'file': 'resnext50_32x4d-7cdf4587.pth', 'sha256': '0' * 64}


@pytest.fixture(scope='module')
def tensors() -> list[str]:
    return RetinaNetTask.initialized_tensors(RealTask('5.0.0'), RetinaNet(RETINANET_RESNEXT50))


def checked(path: Path, ruleset: str, tensors: list[str], *, accuracy: float = 0.3401) -> ComplianceResult:
    """Log a run of two epochs in the order of the loop, and check it."""
    task = RealTask(ruleset)
    with MLPerfLog(path) as out:
        open_run(out, task.recipe, Submission(org='lab', platform='1xnode'), cache_cleared=True)
        log = RunLog(out, task)
        log.describe(task.recipe, 17, tensors)
        log.start_run()
        for epoch, value in enumerate((0.24, accuracy), start=1):
            log.start_epoch(epoch - 1)
            log.stop_epoch(epoch, throughput=3831.0, loss=0.7, lr=8.5e-5)
            log.start_evaluation(epoch)
            log.stop_evaluation(epoch, {'bbox': value})
        log.stop_run(success=True, reason='')
    return check_log(path, ruleset, benchmark=LOG_NAMES[ruleset], division='closed')


@pytest.mark.parametrize('ruleset', [ruleset for ruleset in LOG_NAMES if ruleset in rulesets()])
def test_a_closed_log_passes_in_every_round_under_its_name(tmp_path: Path, tensors: list[str], ruleset: str) -> None:
    result = checked(tmp_path / 'result_0.txt', ruleset, tensors)
    assert result.findings == ()
    assert result.benchmark == ('retinanet' if ruleset >= '5' else 'ssd')


def test_rounds_4_1_and_5_0_are_among_them() -> None:
    assert {'4.1.0', '5.0.0'} <= set(rulesets())


@pytest.mark.parametrize('ruleset', ['4.1.0', '5.0.0'])
def test_below_the_target_is_red(tmp_path: Path, tensors: list[str], ruleset: str) -> None:
    result = checked(tmp_path / 'result_0.txt', ruleset, tensors, accuracy=0.3399)
    assert any('eval_accuracy' in finding for finding in result.findings)


def test_a_tensor_left_out_is_red_where_the_round_lists_them(tmp_path: Path, tensors: list[str]) -> None:
    assert not checked(tmp_path / 'result_0.txt', '2.0.0', tensors[1:]).passed


@pytest.mark.parametrize(('ruleset', 'old', 'new', 'named'), [
    ('4.1.0', '"value": "ssd"', '"value": "retinanet"', 'no rules for benchmark'),
    ('5.0.0', '"value": "retinanet"', '"value": "ssd"', 'no rules for benchmark'),
    ('5.0.0', '"value": "adam"', '"value": "sgd"', keys.OPT_NAME),
    ('5.0.0', f'"{keys.OPT_WEIGHT_DECAY}", "value": 0', f'"{keys.OPT_WEIGHT_DECAY}", "value": 0.1',
     keys.OPT_WEIGHT_DECAY)])
def test_what_breaks_the_rules_of_the_round_is_named(
        tmp_path: Path, tensors: list[str], ruleset: str, old: str, new: str, named: str) -> None:
    path = tmp_path / 'result_0.txt'
    checked(path, ruleset, tensors)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert any(named in finding for finding in check_log(path, ruleset).findings)
