"""What a closed SSD run logs: the events of a published run in their order, accepted by the checker of the round."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import pytest

from mlperf_det.benchmarks.ssd import SsdTask, mlperf_tensor_names
from mlperf_det.mllog import keys
from mlperf_det.mllog.compliance import check_log
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.recipes.ssd import builtin_recipes
from mlperf_det.training.run_log import RunLog, Submission, open_run

#: the run of this recipe at round v1.1
PUBLISHED = 'v1.1/Azure/nd96amsr_a100_v4_n8_ngc21.09_mxnet/ssd/result_0.txt'


class RealTask(SsdTask):
    """The task of the real dataset, whose images are not needed for a log."""

    def __init__(self, name: str) -> None:
        self.recipe = builtin_recipes()[name]
        self.train_samples, self.eval_samples = 117_266, 5_000

    def backbone_record(self) -> dict[str, str]:
        return {'file': 'resnet34-b627a593.pth', 'sha256': '0' * 64}


@pytest.fixture(scope='module')
def tensors() -> list[str]:
    return mlperf_tensor_names(Ssd(SSD300_RESNET34))


def write_log(path: Path, tensors: list[str], *, name: str = 'fujitsu-1x4x114', accuracy: float = 0.2301) -> Path:
    """Log two epochs and the evaluation of the second, scored during a third, in the order of the loop."""
    task = RealTask(name)
    with MLPerfLog(path) as out:
        open_run(out, task.recipe, Submission(org='lab', platform='8xnode', status='cloud'), cache_cleared=True)
        log = RunLog(out, task)
        log.describe(task.recipe, 17, tensors)
        log.start_run()
        for epoch in (1, 2):
            log.start_epoch(epoch - 1)
            log.stop_epoch(epoch, throughput=4850.0, loss=7.4, lr=0.04)
        log.start_evaluation(2)
        log.start_epoch(2)
        log.stop_evaluation(2, {'bbox': accuracy})
        log.stop_run(success=True, reason='')
    return path


def events(path: Path) -> list[tuple[str, str, str | None]]:
    """Key, value as JSON and tensor name of each event, repetitions next to each other left out."""
    found = []
    for line in path.read_text().splitlines():
        _, mark, event = line.partition(':::MLLOG ')
        if mark:
            content = json.loads(event)
            found.append((content['key'], json.dumps(content['value']), content['metadata'].get('tensor')))
    return [event for event, _ in itertools.groupby(found)]


def test_a_closed_log_passes_and_one_below_the_target_does_not(tmp_path: Path, tensors: list[str]) -> None:
    assert check_log(write_log(tmp_path / '0.txt', tensors), '1.1.0', benchmark='ssd', division='closed').findings == ()
    missed = check_log(write_log(tmp_path / '1.txt', tensors, accuracy=0.2299), '1.1.0')
    assert any('eval_accuracy' in finding for finding in missed.findings)
    assert not check_log(write_log(tmp_path / '2.txt', tensors[1:]), '1.1.0').passed


def test_values_of_the_published_run_at_456(tmp_path: Path, tensors: list[str]) -> None:
    values = {key: json.loads(value) for key, value, _ in events(write_log(tmp_path / 'log', tensors))}
    expected = {'train_samples': 117266, 'max_samples': 1, 'opt_learning_rate_warmup_steps': 771,
                'opt_learning_rate_warmup_factor': 0, 'opt_learning_rate_decay_boundary_epochs': [44, 55],
                'eval_samples': 5000, 'opt_weight_decay': 0.00013, 'model_bn_span': 114, 'global_batch_size': 456,
                'd_batch_size': 114, 'gradient_accumulation_steps': 1}
    assert {key: values[key] for key in expected} == expected
    assert values['opt_base_learning_rate'] == pytest.approx(0.04498725, rel=1e-12)


@pytest.mark.shared
def test_keys_values_and_order_are_those_of_a_published_run(
        shared_data: Path, tmp_path: Path, tensors: list[str]) -> None:
    with tarfile.open(shared_data / 'mlperf-logs' / 'v1.1.tar.xz') as archive:
        stream = archive.extractfile(PUBLISHED)
        assert stream is not None
        (tmp_path / 'published').write_bytes(stream.read())
    ours = events(write_log(tmp_path / 'ours', tensors, name='nvidia-8x8x24'))
    theirs = events(tmp_path / 'published')

    def up_to_the_first_epoch(log: list[tuple[str, str, str | None]]) -> list[tuple[str, str | None, str | None]]:
        own = (keys.SUBMISSION_ORG, keys.SUBMISSION_PLATFORM, keys.SEED)
        before = itertools.takewhile(lambda event: event[0] != keys.EPOCH_START, log)
        # Once each: there all ranks begin `init`, and the seed is said twice. Only ours tells of the backbone.
        return list(dict.fromkeys((key, None if key in own else value, tensor) for key, value, tensor in before
                                  if key != 'backbone_initialization'))

    assert up_to_the_first_epoch(ours) == up_to_the_first_epoch(theirs)
    # An epoch with its evaluation: accuracy before or after the stop, as the reference or as the submissions have it.
    assert [key for key, _, _ in ours[-8:]] == [
        'tracked_stats', 'throughput', 'epoch_stop', 'eval_start', 'epoch_start', 'eval_accuracy', 'eval_stop',
        'run_stop']
    assert {key for key, _, _ in theirs} - {key for key, _, _ in ours} == set()
