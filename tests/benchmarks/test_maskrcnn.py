from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from mlperf_det.benchmarks import maskrcnn
from mlperf_det.benchmarks.maskrcnn import MaskRcnnTask, build_task
from mlperf_det.data.backbone import VerifiedBackbone
from mlperf_det.data.cards import load_card
from mlperf_det.data.maskrcnn_input import ResizeTransform
from mlperf_det.data.sampler import BatchPlan
from mlperf_det.data.scenes.dataset import CARD_NAME, GeneratorSettings, generate_dataset
from mlperf_det.data.verify import verify_coco
from mlperf_det.errors import UserError
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import make_rows
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MaskRcnn
from mlperf_det.models.msra_backbone import name_map
from mlperf_det.recipes.maskrcnn import MaskRcnnRecipe, builtin_recipes, smoke_recipe
from mlperf_det.recipes.recipe import Recipe, Runtime


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('generated') / 'scenes'
    generate_dataset(GeneratorSettings(train=14, val=6, seed=3), root, workers=1)
    assert not verify_coco(load_card(CARD_NAME, root), root).problems
    return root


def smoke(**changes: Any) -> MaskRcnnRecipe:
    return replace(smoke_recipe(), local_batch_size=3, eval_batch_size=2, runtime=Runtime(loader_workers=0), **changes)


@pytest.fixture(scope='module')
def task(scenes: Path) -> MaskRcnnTask:
    return build_task(smoke(), scenes, None)


def published_task(recipe: MaskRcnnRecipe) -> MaskRcnnTask:
    """The schedule of a task on the real training set, whose images are not needed for it."""
    task = MaskRcnnTask.__new__(MaskRcnnTask)
    task.recipe, task.train_samples, task.eval_samples = recipe, 117_266, 5_000
    return task


def test_training_and_evaluation_run_on_the_batches(task: MaskRcnnTask) -> None:
    model = task.build_model()
    assert model.architecture.num_classes == len(task.category_ids) == 5
    batches = list(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5))
    assert len(batches) == task.steps_per_epoch()
    for batch in batches[:2]:
        losses = model(batch)
        assert len(losses) == 5
        assert all(value.isfinite() for value in losses.values())
    seen: list[int] = []
    for rank in (0, 1):
        for batch in task.evaluation_batches(rank=rank, world_size=2):
            found = model.eval().detect(batch)
            rows = task.detection_rows(found, batch)
            assert len(rows) == found.valid.sum() == len(rows.rles)
            assert all(rle['size'] == batch.sizes[batch.image_ids.tolist().index(image)].tolist()
                       for rle, image in zip(rows.rles, rows.image_ids.tolist(), strict=True))
            seen += batch.image_ids.tolist()
    assert len(seen) == len(set(seen)) == task.eval_samples == 6
    assert task.iou_types == ('bbox', 'segm')
    assert task.annotations.name == 'instances_val2017.json'


def test_what_the_recipe_says_reaches_the_model_and_the_batches(
        scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[Any, ...]] = {}
    for name in ('train_batches', 'evaluation_batches'):
        monkeypatch.setattr(maskrcnn, name, lambda source, transform, *, name=name, batch_size, **_: asked.update(
            {name: (transform, batch_size, source.load(BatchPlan(samples=np.arange(1)), transform).images.shape[2:])}))
    task = build_task(smoke(num_image_candidates=321, min_image_size=96, max_image_size=150, fixed_shapes=True),
                      scenes, None)
    task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)
    task.evaluation_batches(rank=0, world_size=1)
    # Half of the training images are mirrored, none that is evaluated.
    assert asked['train_batches'][:2] == (ResizeTransform(96, 150, 0.5), 3)
    assert asked['evaluation_batches'][:2] == (ResizeTransform(96, 150, 0.0), 2)
    assert all(sorted(shape) == [96, 160] for _, _, shape in asked.values())
    assert task.build_model().image_candidates == 321


def test_a_resumed_epoch_sees_the_same_batches(task: MaskRcnnTask) -> None:
    arguments = {'epoch': 1, 'rank': 0, 'world_size': 1, 'seed': 9}
    whole = list(task.train_batches(skip=0, **arguments))
    rest = list(task.train_batches(skip=2, **arguments))
    assert [batch.image_ids.tolist() for batch in whole[2:]] == [batch.image_ids.tolist() for batch in rest]
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[2:], rest, strict=True))


def test_groups_of_weights_and_biases(task: MaskRcnnTask) -> None:
    model = MaskRcnn(MASKRCNN_R50_FPN, 1000)
    optimizer = task.build_optimizer(model, {'fused': False, 'foreach': True})
    assert type(optimizer) is torch.optim.SGD
    weights, biases = optimizer.param_groups
    assert (len(weights['params']), len(biases['params'])) == (63, 21)
    assert sum(p.numel() for p in weights['params']) == 44_119_040
    assert sum(p.numel() for p in biases['params']) == 6_133
    for group, decay, factor in ((weights, 1e-4, 1), (biases, 0, 2)):
        assert (group['momentum'], group['dampening'], group['nesterov'], group['weight_decay']) == (
            0.9, 0, False, decay)
        assert group['lr'] == factor * task.recipe.base_learning_rate


@pytest.mark.parametrize(('step', 'weights', 'biases'), [
    (0, 0.0, 0.16), (1, 0.000256, 0.160256), (624, 0.159744, 0.319744), (625, 0.16, 0.32), (8_999, 0.16, 0.32),
    (9_000, 0.016, 0.032), (11_999, 0.016, 0.032), (12_000, 0.0016, 0.0032), (39_999, 0.0016, 0.0032),
])
def test_learning_rates(step: int, weights: float, biases: float) -> None:
    """Ladder step 4: the warm-up of the biases starts at half of their rate, not at 0."""
    rates = published_task(builtin_recipes()['nvidia-4x8x4']).learning_rates(step)
    assert rates == (pytest.approx(weights, abs=1e-9), pytest.approx(biases, abs=1e-9))


def test_a_warmup_that_does_not_start_at_zero() -> None:
    task = published_task(builtin_recipes()['nvidia-32x8x1'])
    assert task.learning_rates(0) == (pytest.approx(0.0006), pytest.approx(0.2406))


@pytest.mark.parametrize(('name', 'steps'), [
    ('nvidia-1x8x6', 2444), ('nvidia-1x8x8', 1833), ('nvidia-2x8x6', 1222), ('nvidia-4x8x4', 917),
    ('nvidia-32x8x1', 459), ('lanta-4x4x8', 917), ('lanta-4x4x6', 1222)])
def test_iterations_of_an_epoch_are_those_of_the_published_logs(name: str, steps: int) -> None:
    assert published_task(builtin_recipes()[name]).steps_per_epoch() == steps


def test_early_abort_is_a_setting_and_off_by_default() -> None:
    recipe = builtin_recipes()['lanta-4x4x8']
    assert published_task(recipe).gives_up(5, {'bbox': 0.0, 'segm': 0.0}) is None
    willing = published_task(replace(recipe, early_abort=True))
    assert willing.gives_up(5, {'bbox': 0.14, 'segm': 0.0}) is None
    assert 'box AP 0.1300 after epoch 5 is under 0.1315' in str(willing.gives_up(5, {'bbox': 0.13, 'segm': 0.13}))


def test_backbone_is_loaded_from_the_pickle_and_recorded_with_its_colour_order(tmp_path: Path) -> None:
    body = MaskRcnn(MASKRCNN_R50_FPN, 1000).backbone.body
    shapes = body.state_dict()
    arrays = {theirs: np.random.default_rng(len(theirs)).random(tuple(shapes[ours].shape), dtype=np.float32)
              for ours, theirs in name_map(body).items()}
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(pickle.dumps({'blobs': arrays}, protocol=2))
    task = published_task(builtin_recipes()['lanta-4x4x8'])
    task.architecture = MASKRCNN_R50_FPN
    task._backbone = VerifiedBackbone(name='r50-msra', path=path, published_as='R-50.pkl', sha256='0' * 64,
                                      format='detectron-pickle')
    loaded = task.build_model().backbone.body.state_dict()
    assert all(np.array_equal(loaded[ours].numpy(), arrays[theirs]) for ours, theirs in name_map(body).items())
    assert task.backbone_record() == {'file': 'R-50.pkl', 'sha256': '0' * 64, 'channel_order': 'BGR'}


def test_ground_truth_as_detections_scores_one_and_nothing_scores_zero(task: MaskRcnnTask) -> None:
    """Ladder step 8: the annotation file and category ids of the task fit the scorer, for boxes and masks."""
    truth = read_ground_truth(task.annotations)
    document = json.loads(task.annotations.read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in document['images']}
    objects = [found for found in document['annotations'] if not found['iscrowd']]
    rles = []
    for found in objects:
        encoded = mask_utils.frPyObjects(found['segmentation'], *sizes[found['image_id']])
        rles.append(mask_utils.merge(encoded) if isinstance(encoded, list) else encoded)
    ids = [image['id'] for image in document['images']]
    perfect = make_rows([f['image_id'] for f in objects], [f['category_id'] for f in objects],
                        [f['bbox'] for f in objects], [1.0] * len(objects), rles=rles, seen_image_ids=ids)
    nothing = make_rows([], [], [], [], rles=[], seen_image_ids=ids)
    for rows, expected in ((perfect, 1.0), (nothing, 0.0)):
        for summary in score(truth, rows, task.iou_types).values():
            assert abs(summary.AP - expected) < 1e-6


class TestRefusals:
    def test_recipe_of_another_benchmark(self, scenes: Path) -> None:
        recipe: Recipe = SimpleNamespace(name='other')  # type: ignore[assignment]
        with pytest.raises(UserError, match='needs a MaskRcnnRecipe'):
            build_task(recipe, scenes, None)

    def test_backbone_and_recipe_must_agree(self, scenes: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match='no weight file was given'):
            build_task(smoke(pretrained_backbone=True), scenes, None)
        with pytest.raises(UserError, match='would be ignored'):
            build_task(smoke(), scenes, tmp_path / 'R-50.pkl')

    def test_the_real_network_needs_its_80_classes(self, scenes: Path) -> None:
        with pytest.raises(UserError, match=r'instances_val2017\.json: has 5 categories, maskrcnn_r50_fpn has 80'):
            build_task(smoke(architecture='maskrcnn_r50_fpn'), scenes, None)

    def test_backbone_that_is_not_the_published_file(self, scenes: Path, tmp_path: Path) -> None:
        path = tmp_path / 'R-50.pkl'
        path.write_bytes(b'not the weights')
        with pytest.raises(UserError, match=r'none of R-50.pkl'):
            build_task(smoke(pretrained_backbone=True), scenes, path)
