"""What a closed Mask R-CNN run logs: the events of published runs in their order, accepted by the round's checker."""

from __future__ import annotations

import itertools
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlperf_det.benchmarks.maskrcnn import MaskRcnnTask, mlperf_layer_names
from mlperf_det.mllog import keys
from mlperf_det.mllog.compliance import check_log, rulesets
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MaskRcnn
from mlperf_det.recipes.maskrcnn import RULESETS, MaskRcnnRecipe, builtin_recipes
from mlperf_det.training.run_log import RunLog, Submission, open_run

#: A published run of a recipe -> its log in the collection: the oldest form of the log, and a later one.
PUBLISHED = {'nvidia-4x8x4': ('0.7.0', 'v0.7/NVIDIA/dgxa100_n4_ngc20.06_pytorch'),
             'azure-34x8x1': ('1.1.0', 'v1.1/Azure/nd96amsr_a100_v4_n34_ngc21.09_pytorch')}


class RealTask(MaskRcnnTask):
    """The task of the real dataset, whose images are not needed for a log."""

    def __init__(self, recipe: MaskRcnnRecipe) -> None:
        self.recipe, self.train_samples, self.eval_samples = recipe, 117_266, 5_000

    def backbone_record(self) -> dict[str, str]:
        return {'file': 'R-50.pkl', 'sha256': '0' * 64, 'channel_order': 'BGR'}


@pytest.fixture(scope='module')
def model() -> MaskRcnn:
    return MaskRcnn(MASKRCNN_R50_FPN, 1000)


def write_log(path: Path, model: MaskRcnn, recipe: MaskRcnnRecipe, *, box: float = 0.378, mask: float = 0.34) -> Path:
    """Log two epochs and their evaluations, the last of which meets the targets, in the order of the loop."""
    task = RealTask(recipe)
    with MLPerfLog(path, rank=0) as mllog:
        open_run(mllog, recipe, Submission(org='site', platform='machine'), cache_cleared=True)
        log = RunLog(mllog, task)
        log.describe(recipe, 7, task.initialized_tensors(model))
        log.start_run()
        for epoch, accuracy in enumerate(({'bbox': 0.2, 'segm': 0.2}, {'bbox': box, 'segm': mask})):
            log.start_epoch(epoch)
            log.stop_epoch(epoch + 1, throughput=100.0, loss=1.0, lr=0.1)
            log.start_evaluation(epoch + 1)
            log.stop_evaluation(epoch + 1, accuracy)
        log.stop_run(success=True, reason='target met')
    return path


def events(path: Path) -> list[tuple[str, Any, dict[str, Any]]]:
    """Key, value and metadata of each event, without where in the source it was written."""
    contents = (json.loads(line.partition(':::MLLOG ')[2]) for line in path.read_text().splitlines()
                if ':::MLLOG ' in line)
    return [(content['key'], content['value'],
             {name: value for name, value in content['metadata'].items() if name not in ('file', 'lineno')})
            for content in contents]


@pytest.mark.parametrize('ruleset', RULESETS)
def test_log_passes_the_checker_of_its_round(ruleset: str, model: MaskRcnn, tmp_path: Path) -> None:
    recipe = replace(builtin_recipes()['lanta-4x4x8'], ruleset=ruleset)
    path = write_log(tmp_path / 'result_0.txt', model, recipe)
    assert check_log(path, ruleset, benchmark='maskrcnn', division='closed').findings == ()
    found = events(path)
    assert ('eval_accuracy', {'BBOX': 0.378, 'SEGM': 0.34}, {'epoch_num': 2}) in found
    tensors = [metadata['tensor'] for key, _, metadata in found if key == 'weights_initialization']
    assert len(set(tensors)) == len(tensors) == (21 if ruleset >= '1.1.0' else 0)
    # Box and mask targets must be met by one evaluation.
    for box, mask in ((0.3769, 0.35), (0.39, 0.3389)):
        missed = write_log(tmp_path / f'{box}.txt', model, recipe, box=box, mask=mask)
        assert any('eval_accuracy' in finding for finding in check_log(missed, ruleset).findings)


def test_rounds_without_the_benchmark_are_not_on_the_list(model: MaskRcnn, tmp_path: Path) -> None:
    path = write_log(tmp_path / 'log', model, builtin_recipes()['lanta-4x4x8'])
    for ruleset in rulesets():
        unknown = any('has no rules for benchmark' in finding for finding in check_log(path, ruleset).findings)
        # v0.6 had the benchmark with other rules.
        assert (ruleset in RULESETS) == (not unknown and ruleset != '0.6.0'), ruleset


def test_names_of_the_layers_are_those_of_the_rules(model: MaskRcnn) -> None:
    names = mlperf_layer_names(model)
    assert len(names) == len(set(names)) == 21
    assert {'FPN_inner_block1', 'FPN_layer_block4', 'RPNHead_bbox', 'ROI_MASK_PREDICTOR_fcn_logits'} <= set(names)


@pytest.mark.shared
@pytest.mark.parametrize('name', PUBLISHED)
def test_keys_values_and_order_are_those_of_a_published_run(
        shared_data: Path, name: str, model: MaskRcnn, tmp_path: Path) -> None:
    ruleset, folder = PUBLISHED[name]
    with tarfile.open(shared_data / 'mlperf-logs' / f'{folder.partition("/")[0]}.tar.xz') as archive:
        stream = archive.extractfile(f'{folder}/maskrcnn/result_0.txt')
        assert stream is not None
        (tmp_path / 'published').write_bytes(stream.read())
    ours = events(write_log(tmp_path / 'ours', model, replace(builtin_recipes()[name], ruleset=ruleset)))
    theirs = events(tmp_path / 'published')

    def until_the_first_epoch(log: list[tuple[str, Any, dict[str, Any]]]) -> list[tuple[str, Any, dict[str, Any]]]:
        own = (keys.SUBMISSION_ORG, keys.SUBMISSION_PLATFORM, keys.SUBMISSION_STATUS, keys.SEED)
        before = itertools.takewhile(lambda event: event[0] != keys.EPOCH_START, log)
        # Only ours tells of the backbone. The samples are compared below.
        kept = [(key, None if key in own else value, metadata) for key, value, metadata in before
                if key not in ('backbone_initialization', keys.TRAIN_SAMPLES, keys.EVAL_SAMPLES)]
        return [event for event, _ in itertools.groupby(kept)]  # there all nodes and ranks say the same

    assert until_the_first_epoch(ours) == until_the_first_epoch(theirs)
    said = {key: value for key, value, _ in ours}
    # Theirs say 40,000 iterations and one test set; the keys mean images.
    assert (said['train_samples'], said['eval_samples']) == (117_266, 5_000)
    assert [key for key, _, _ in ours].index('train_samples') == [key for key, _, _ in ours].index('run_start') + 1
    assert {key for key, _, _ in theirs} - {key for key, _, _ in ours} == set()
