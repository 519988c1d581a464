from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlperf_logging
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet34

from mlperf_det.benchmarks.ssd import SsdTask, build_task, mlperf_tensor_names
from mlperf_det.data.backbone import AcceptedFile, BackboneCard, identify_backbone
from mlperf_det.data.cards import Card, SplitCard
from mlperf_det.data.layout import open_dataset
from mlperf_det.data.verify import verify_coco
from mlperf_det.errors import UserError
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.recipes.load import override
from mlperf_det.recipes.recipe import Recipe, Runtime
from mlperf_det.recipes.ssd import SsdRecipe, builtin_recipes, smoke_recipe

CARD = 'little-coco'


def write_split(root: Path, name: str, images: int, categories: list[int], empty: tuple[int, ...]) -> SplitCard:
    """Write photos of noise with one bright box each; those in ``empty`` get no annotation."""
    rng = np.random.default_rng(len(name))
    folder = root / f'{name}2017'
    folder.mkdir(parents=True)
    document: dict[str, Any] = {
        'images': [], 'annotations': [], 'categories': [{'id': c, 'name': f'class {c}'} for c in categories]}
    for image_id in range(1, images + 1):
        width, height = (int(side) for side in rng.integers(90, 160, 2))
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:50, 10 + image_id:50 + image_id] = 230
        Image.fromarray(pixels).save(folder / f'{image_id:012d}.jpg')
        document['images'].append(
            {'id': image_id, 'file_name': f'{image_id:012d}.jpg', 'height': height, 'width': width})
        if image_id not in empty:
            document['annotations'].append({
                'id': image_id, 'image_id': image_id, 'category_id': categories[image_id % len(categories)],
                'bbox': [10.0 + image_id, 20.0, 40.0, 30.0], 'area': 1200.0, 'iscrowd': 0})
    path = root / 'annotations' / f'instances_{name}2017.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    boxes = images - len(empty)
    return SplitCard(images=folder.name, annotations=str(path.relative_to(root)), image_count=images,
                     annotated_image_count=boxes, annotation_count=boxes)


def write_dataset(root: Path, categories: list[int], *, val_categories: list[int] | None = None) -> Path:
    splits = {'train': write_split(root, 'train', 10, categories, empty=(2, 7)),
              'val': write_split(root, 'val', 5, val_categories or categories, empty=(1,))}
    card = Card(name=CARD, kind='coco', title='noise', licence={'name': 'none'}, categories=len(categories),
                splits=splits)
    assert not verify_coco(card, root).problems
    return root


@pytest.fixture(scope='module')
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('little'), [3, 17, 44])


@pytest.fixture(scope='module')
def of_80_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('of80'), list(range(1, 81)))


def smoke(**changes: Any) -> SsdRecipe:
    return replace(smoke_recipe(), dataset=CARD, local_batch_size=3, eval_batch_size=2,
                   runtime=Runtime(loader_workers=0), **changes)


@pytest.fixture
def task(little: Path) -> SsdTask:
    return build_task(smoke(), little, None)


def full_size_task(recipe: SsdRecipe) -> SsdTask:
    """The schedule of a task on the real training set, whose images are not needed for it."""
    task = SsdTask.__new__(SsdTask)
    task.recipe, task.train_samples, task.eval_samples = recipe, 117_266, 5_000
    return task


def test_counts_leave_empty_images_out_of_training_alone(task: SsdTask) -> None:
    assert (task.train_samples, task.eval_samples) == (8, 5)
    assert task.steps_per_epoch() == 3
    assert task.category_ids == (3, 17, 44)
    assert task.architecture.num_classes == 3
    assert task.iou_types == ('bbox',)
    assert task.annotations.name == 'instances_val2017.json'


def test_training_batches_fit_the_model(task: SsdTask) -> None:
    model = task.build_model()
    batches = list(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5))
    assert sum(len(batch) for batch in batches) == 8
    again = list(task.train_batches(epoch=0, skip=1, rank=0, world_size=1, seed=5))
    assert torch.equal(again[0].images, batches[1].images)
    losses = model(batches[0])
    assert set(losses) == {'localization', 'classification'}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_evaluation_covers_each_image_once(task: SsdTask) -> None:
    model = task.build_model().eval()
    seen: list[int] = []
    for rank in (0, 1):
        for batch in task.evaluation_batches(rank=rank, world_size=2):
            found = model.detect(batch)
            rows = task.detection_rows(found, batch)
            assert len(rows) == found.valid.sum()
            seen += batch.image_ids.tolist()
    assert sorted(seen) == [1, 2, 3, 4, 5]


def test_one_optimizer_group_decays_every_tensor(task: SsdTask) -> None:
    model = task.build_model()
    optimizer = task.build_optimizer(model, {'fused': False, 'foreach': True})
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert len(group['params']) == len(list(model.parameters()))
    assert (group['momentum'], group['nesterov'], group['dampening']) == (0.9, False, 0)
    assert group['weight_decay'] == task.recipe.weight_decay > 0
    assert group['foreach'] is True
    assert len(task.learning_rates(0)) == 1


@pytest.mark.parametrize(('step', 'expected'), [
    (0, 0.0),
    (1, 0.04498725 / 771),
    (770, 0.04498725 * 770 / 771),
    (771, 0.04498725),
    (44 * 258 - 1, 0.04498725),
    (44 * 258, 0.004498725),
    (55 * 258 - 1, 0.004498725),
    (55 * 258, 0.0004498725),
])
def test_learning_rates_of_the_published_run_at_456(step: int, expected: float) -> None:
    task = full_size_task(builtin_recipes()['fujitsu-1x4x114'])
    assert task.steps_per_epoch() == 258
    assert task.learning_rates(step)[0] == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_a_warmup_factor_starts_above_zero_and_warmup_ignores_decay() -> None:
    recipe = replace(builtin_recipes()['fujitsu-1x4x114'], warmup_factor=1, warmup_epochs=2, decay_epochs=(1, 2))
    task = full_size_task(recipe)
    assert task.learning_rates(0)[0] == pytest.approx(0.04498725 / 2)
    assert task.learning_rates(300)[0] == pytest.approx(0.04498725 * (1 - (514 - 300) / (2 * 514)))
    assert task.learning_rates(2 * 258)[0] == pytest.approx(0.0004498725)


def test_without_warmup_the_first_step_has_the_peak_rate() -> None:
    task = full_size_task(builtin_recipes()['reference-1x1x32'])
    assert task.learning_rates(0) == (2.5e-3,)
    assert task.learning_rates(40 * 3665)[0] == pytest.approx(2.5e-4)
    assert dict(task.mllog_hyperparameters())['opt_learning_rate_warmup_steps'] == 1


def test_evaluation_follows_the_recipe() -> None:
    published = full_size_task(builtin_recipes()['fujitsu-1x4x114'])
    assert [epoch for epoch in range(1, 21) if published.evaluates_after(epoch)] == [5, 10, 15, 20]


@pytest.mark.parametrize(('name', 'batch', 'rate', 'warmup', 'span'), [
    ('nvidia-8x8x24', 1536, 0.192, 1145, 48), ('nvidia-128x8x3', 3072, 0.384, 1336, 24),
    ('dell-8x4x48', 1536, 0.168, 1145, 48)])
def test_large_published_runs(name: str, batch: int, rate: float, warmup: int, span: int) -> None:
    events = dict(full_size_task(builtin_recipes()[name]).mllog_hyperparameters())
    assert (events['global_batch_size'], events['opt_learning_rate_warmup_steps']) == (batch, warmup)
    assert events['opt_base_learning_rate'] == pytest.approx(rate)
    assert events['model_bn_span'] == span


def test_initialised_tensors_are_those_of_the_rules() -> None:
    rules = Path(mlperf_logging.__file__).parent / 'compliance_checker' / 'training_1.1.0' / 'closed_ssd.yaml'
    expected = [line.strip(' ",') for line in rules.read_text().splitlines() if '"ssd0_' in line]
    assert len(expected) == 119
    assert mlperf_tensor_names(Ssd(SSD300_RESNET34)) == expected


def test_another_network_would_log_other_tensors() -> None:
    deeper = Ssd(replace(SSD300_RESNET34, blocks=(3, 4, 7)))
    assert len(mlperf_tensor_names(deeper)) == 119 + 6


def test_the_smoke_network_logs_its_own_names(task: SsdTask) -> None:
    model = task.build_model()
    assert task.initialized_tensors(model) == [name for name, _ in model.named_parameters()]


def test_ssd300_with_a_backbone_file(of_80_classes: Path, tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    torch.save(resnet34().state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = AcceptedFile(file='resnet34-published.pth', url='file:', sha256_prefix=digest[:8])
    card = BackboneCard(benchmark='ssd', format='torch', accepted=(published,))
    recipe = smoke(architecture='ssd300_resnet34', pretrained_backbone=True)
    task = SsdTask(recipe, open_dataset(CARD, of_80_classes), identify_backbone('resnet34', path, card))
    model = task.build_model()
    assert torch.equal(model.backbone.conv1.weight, torch.load(path, weights_only=True)['conv1.weight'])
    assert task.backbone_record() == {'file': 'resnet34-published.pth', 'sha256': digest}
    assert len(task.initialized_tensors(model)) == 119
    batch = next(iter(task.evaluation_batches(rank=0, world_size=1)))
    assert batch.images.shape[1:] == (3, 300, 300)
    with pytest.raises(UserError, match=r'weights\.pth'):
        build_task(replace(recipe, dataset=CARD), of_80_classes, path)


def test_records_of_a_random_start(task: SsdTask, little: Path) -> None:
    assert task.backbone_record() is None
    record = task.dataset_record()
    assert record['card'] == CARD
    assert record['root'] == str(little)


def test_a_backbone_must_be_given_if_and_only_if_the_recipe_wants_it(little: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no weight file was given'):
        build_task(smoke(pretrained_backbone=True), little, None)
    with pytest.raises(UserError, match='would be ignored'):
        build_task(smoke(), little, tmp_path / 'resnet34-b627a593.pth')
    with pytest.raises(UserError, match=r'resnet34-b627a593\.pth'):
        build_task(smoke(pretrained_backbone=True), little, tmp_path / 'resnet34-b627a593.pth')


def test_ssd300_refuses_another_number_of_classes(little: Path) -> None:
    with pytest.raises(UserError, match=r'instances_val2017\.json: has 3 categories, ssd300_resnet34 has 80'):
        build_task(smoke(architecture='ssd300_resnet34'), little, None)


def test_what_changed_since_it_was_verified_is_found_out_when_it_is_read(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, [3, 17, 44])
    manifest = root / 'dataset.json'
    manifest.write_text(manifest.read_text().replace('"annotated_images": 8', '"annotated_images": 9'))
    task = build_task(smoke(), root, None)
    assert task.train_samples == 9
    with pytest.raises(UserError, match=r'dataset\.json: promises 9 images, 8 were read; run `mlperf-det data verify'):
        task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)
    scored = root / 'annotations' / 'instances_val2017.json'
    scored.write_text(scored.read_text().replace('1200.0', '1300.0'))
    with pytest.raises(UserError, match=r'instances_val2017\.json: changed since the dataset was verified'):
        task.evaluation_batches(rank=0, world_size=1)


def test_ranks_that_normalise_together_must_divide_all() -> None:
    recipe = builtin_recipes()['fujitsu-1x4x114']
    assert override(recipe, ['batch_norm_group=2']).batch_norm_group == 2
    with pytest.raises(UserError, match='batch_norm_group: 3 does not divide the 4 ranks'):
        override(recipe, ['batch_norm_group=3'])


def test_splits_of_different_categories_are_refused(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, [1, 2, 3], val_categories=[1, 3, 2])
    with pytest.raises(UserError, match=r'instances_train2017\.json: its categories differ'):
        build_task(smoke(), root, None)


def test_a_recipe_of_another_benchmark_is_refused(little: Path) -> None:
    recipe: Recipe = SimpleNamespace(name='other')  # type: ignore[assignment]
    with pytest.raises(UserError, match='needs an SsdRecipe'):
        build_task(recipe, little, None)


def test_averaging_on_one_process_changes_nothing(task: SsdTask) -> None:
    model = task.build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task.before_evaluation(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
