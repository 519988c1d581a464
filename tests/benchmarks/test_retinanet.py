from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlperf_logging
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torchvision.models import resnet50, resnext50_32x4d

from mlperf_det.benchmarks import retinanet as benchmark
from mlperf_det.benchmarks.retinanet import RetinaNetTask, build_task, mlperf_tensor_names
from mlperf_det.data.backbone import VerifiedBackbone, identify_backbone
from mlperf_det.data.batch import Batch
from mlperf_det.data.cards import Card, SplitCard
from mlperf_det.data.layout import file_hash, open_dataset
from mlperf_det.data.verify import verify_coco
from mlperf_det.errors import UserError
from mlperf_det.models.resnet_fpn import load_body
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RetinaNet
from mlperf_det.recipes.recipe import Division, Runtime, Tier
from mlperf_det.recipes.retinanet import RetinaNetRecipe, builtin_recipes, smoke_recipe
from mlperf_det.recipes.ssd import smoke_recipe as ssd_smoke_recipe

CARD = 'little-openimages'


def write_split(root: Path, split: str, images: int, names: list[str], *, crowd: int, first_id: int) -> SplitCard:
    """Write noise with bright boxes: image 1 has none, image 2 has three; annotation ``crowd`` is a group-of box."""
    rng = np.random.default_rng(len(split))
    (root / split / 'data').mkdir(parents=True)
    categories = [{'id': first_id + index, 'name': name} for index, name in enumerate(names)]
    document: dict[str, Any] = {'images': [], 'annotations': [], 'categories': categories}
    for image in range(1, images + 1):
        width, height = (int(side) for side in rng.integers(100, 160, 2))
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[20:60, 20:70] = 230
        name = f'{image:016x}.jpg'
        Image.fromarray(pixels).save(root / split / 'data' / name)
        document['images'].append({'id': image, 'file_name': name, 'height': height, 'width': width})
        for _ in range(0 if image == 1 else 3 if image == 2 else 1):
            number = len(document['annotations']) + 1
            document['annotations'].append({
                'id': number, 'image_id': image, 'category_id': first_id + number % len(names),
                'bbox': [20.0, 20.0, 50.0, 40.0], 'area': 2000.0, 'iscrowd': int(number == crowd)})
    path = root / split / 'labels' / 'openimages-mlperf.json'
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    return SplitCard(images=f'{split}/data', annotations=str(path.relative_to(root)), image_count=images,
                     annotated_image_count=images - 1, annotation_count=len(document['annotations']))


def write_dataset(root: Path, *, classes: int = 3, first_id: int = 0, val_names: list[str] | None = None) -> Path:
    names = [f'class {index}' for index in range(classes)]
    splits = {'train': write_split(root, 'train', 7, names, crowd=2, first_id=first_id),
              'val': write_split(root, 'validation', 5, val_names or names, crowd=1, first_id=first_id)}
    card = Card(name=CARD, kind='coco', title='noise', licence={'name': 'none'}, categories=classes, splits=splits)
    assert not verify_coco(card, root).problems
    return root


@pytest.fixture(scope='module')
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp('little'))


def smoke(**changes: Any) -> RetinaNetRecipe:
    changes = {'runtime': Runtime(loader_workers=0), **changes}
    return replace(smoke_recipe(), dataset=CARD, local_batch_size=3, eval_batch_size=2, **changes)


def full_size(**changes: Any) -> RetinaNetRecipe:
    return replace(builtin_recipes()['reference-1x8x32'], dataset=CARD, division=Division.OPEN,
                   tier=Tier.THROUGHPUT, pretrained_backbone=False, **changes)


@pytest.fixture
def task(little: Path) -> RetinaNetTask:
    return build_task(smoke(), little, None)


def schedule_of(recipe: RetinaNetRecipe) -> RetinaNetTask:
    """The schedule of a task on the real training set, whose images are not needed for it."""
    task = RetinaNetTask.__new__(RetinaNetTask)
    task.recipe, task.train_samples, task.eval_samples = recipe, 1_170_301, 24_781
    return task


def test_images_without_boxes_and_crowds_are_trained_on(task: RetinaNetTask) -> None:
    assert (task.train_samples, task.eval_samples) == (7, 5)
    assert task.steps_per_epoch() == 3
    batches = list(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5))
    assert sorted(int(i) for batch in batches for i in batch.image_ids) == list(range(1, 8))
    assert sum(int((batch.labels >= 0).sum()) for batch in batches) == 8  # the crowd among them


def test_training_and_evaluation_run_on_the_batches(task: RetinaNetTask) -> None:
    model = task.build_model()
    assert model.architecture.num_classes == 3
    batch = next(iter(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)))
    assert batch.images.shape == (3, 3, 96, 96)
    losses = model(batch)
    assert all(value.isfinite() for value in losses.values())
    seen: list[int] = []
    for rank in (0, 1):
        for batch in task.evaluation_batches(rank=rank, world_size=2):
            found = model.eval().detect(batch)
            assert len(task.detection_rows(found, batch)) == found.valid.sum()
            seen += batch.image_ids.tolist()
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert task.category_ids == (0, 1, 2)
    assert task.iou_types == ('bbox',)
    assert task.annotations.parent.parent.name == 'validation'


@pytest.mark.parametrize('setting', [{'compile': 'model'}, {'cuda_graph': True}])
def test_compiled_and_recorded_steps_get_batches_of_one_shape(little: Path, setting: dict[str, Any]) -> None:
    task = build_task(smoke(max_boxes=11, runtime=Runtime(loader_workers=0, **setting)), little, None)
    shapes = {tuple(batch.boxes.shape[1:]) for batch in
              task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)}
    assert shapes == {(11, 4)}


@pytest.mark.parametrize('decoder', ['gpu', 'dali'])
def test_the_decoder_of_the_recipe_reads_the_same_batches(little: Path, decoder: str) -> None:
    """On a machine without a GPU both decode on the CPU; `training.device.resolve` refuses 'gpu' in a run there."""
    if decoder == 'dali':
        pytest.importorskip('nvidia.dali', reason='NVIDIA DALI is not installed')
    plain, other = (build_task(smoke(runtime=Runtime(loader_workers=0, decoder=kind)), little, None)  # type: ignore[arg-type]
                    for kind in ('cpu', decoder))
    seen = 0
    for epoch in (0, 1):
        pairs = zip(plain.train_batches(epoch=epoch, skip=1, rank=0, world_size=1, seed=5),
                    other.train_batches(epoch=epoch, skip=1, rank=0, world_size=1, seed=5), strict=True)
        seen += sum(same_batch(mine, theirs, exact=decoder == 'gpu' and not torch.cuda.is_available())
                    for mine, theirs in pairs)
    pairs = zip(plain.evaluation_batches(rank=0, world_size=1), other.evaluation_batches(rank=0, world_size=1),
                strict=True)
    seen += sum(same_batch(mine, theirs, exact=decoder == 'gpu' and not torch.cuda.is_available())
                for mine, theirs in pairs)
    assert seen == 2 * 4 + 5


def same_batch(mine: Batch, theirs: Batch, *, exact: bool) -> int:
    """Compare two batches; return their images."""
    for name in ('image_ids', 'sizes', 'boxes', 'labels'):
        assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    levels = (mine.images.int() - theirs.images.cpu().int()).abs().float()
    assert levels.max() == 0 if exact else levels.mean() < 1.5
    return len(mine)


def test_more_boxes_than_the_cap_are_refused_before_the_first_batch(little: Path) -> None:
    task = build_task(smoke(max_boxes=2), little, None)
    with pytest.raises(UserError, match=r'0000000000000002.jpg has 3 boxes, more than max_boxes \(2\)'):
        task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)


def test_training_reads_the_columns_and_scoring_the_file(tmp_path: Path) -> None:
    """A thousand ranks that each hash 2.4 GB would take minutes from any file system."""
    root = write_dataset(tmp_path)
    build_task(smoke(), root, None).train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5)
    for split in ('train', 'validation'):
        path = root / split / 'labels' / 'openimages-mlperf.json'
        path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 2'))
    task = build_task(smoke(), root, None)
    assert next(iter(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=5))).labels.max() >= 0
    with pytest.raises(UserError, match=r'validation/labels/openimages-mlperf\.json: changed since the dataset was v'):
        task.evaluation_batches(rank=0, world_size=1)


def test_adam_over_what_is_trained(task: RetinaNetTask) -> None:
    optimizer = task.build_optimizer(RetinaNet(RETINANET_RESNEXT50), {'fused': False, 'foreach': True})
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert len(group['params']) == 78
    assert all(parameter.requires_grad for parameter in group['params'])
    assert (group['lr'], group['betas'], group['eps'], group['weight_decay'], group['amsgrad'], group['foreach']) == (
        task.recipe.base_learning_rate, (0.9, 0.999), 1e-8, 0, False, True)


def test_learning_rates_count_iterations_of_the_real_epoch() -> None:
    task = schedule_of(builtin_recipes()['reference-1x8x32'])
    assert task.steps_per_epoch() == 4572
    assert task.learning_rates(0) == (pytest.approx(1e-7),)
    assert task.learning_rates(2286) == (pytest.approx(1e-4 * (0.001 * 0.5 + 0.5)),)
    assert task.learning_rates(4571)[0] < 1e-4
    assert task.learning_rates(4572) == task.learning_rates(36_576) == (1e-4,)


def test_every_epoch_is_evaluated_and_epochs_are_numbered_from_zero() -> None:
    task = schedule_of(builtin_recipes()['reference-1x8x32'])
    assert all(task.evaluates_after(epoch) for epoch in range(1, 9))
    assert task.first_epoch_num == 0


def test_hyperparameters_are_those_of_the_published_logs() -> None:
    events = schedule_of(builtin_recipes()['nvidia-b200-1x8x32']).mllog_hyperparameters()
    assert events == [
        ('local_batch_size', 32), ('global_batch_size', 256), ('epoch_count', 8), ('first_epoch_num', 0),
        ('weights_initialization', None), ('opt_name', 'adam'), ('opt_base_learning_rate', 8.5e-5),
        ('opt_weight_decay', 0), ('opt_learning_rate_warmup_epochs', 0), ('opt_learning_rate_warmup_factor', 0.001),
        ('gradient_accumulation_steps', 1), ('train_samples', 1_170_301), ('eval_samples', 24_781)]


def rules_tensor_names() -> list[str]:
    """The names that the rules of round v2.0 demand; their YAML holds them in a Python expression."""
    path = Path(mlperf_logging.__file__).parent / 'compliance_checker' / 'training_2.0.0' / 'closed_ssd.yaml'
    (check,) = [entry['END']['CHECK'] for entry in yaml.safe_load(path.read_text()) if 'END' in entry]
    return [part for part in check.split('"') if part.startswith('module.')]


def test_tensor_names_are_those_of_the_rules_in_the_order_of_the_logs() -> None:
    names = mlperf_tensor_names(RetinaNet(RETINANET_RESNEXT50))
    assert len(names) == 89
    assert sorted(names) == sorted(rules_tensor_names())
    short = [name.removeprefix('module.') for name in names]
    assert short[:5] == ['backbone.fpn.extra_blocks.p6.weight', 'backbone.fpn.extra_blocks.p6.bias',
                         'backbone.fpn.extra_blocks.p7.weight', 'backbone.fpn.extra_blocks.p7.bias',
                         'backbone.body.conv1.weight']
    assert short[57:70] == [
        *(f'backbone.fpn.{part}.{index}.{kind}' for part in ('inner_blocks', 'layer_blocks') for index in range(3)
          for kind in ('weight', 'bias')), 'head.classification_head.conv.0.weight']
    assert short[69:] == [
        *(f'head.classification_head.{part}.{kind}' for part in ('conv.0', 'conv.2', 'conv.4', 'conv.6', 'cls_logits')
          for kind in ('weight', 'bias')),
        *(f'head.regression_head.{part}.{kind}' for part in ('bbox_reg', 'conv.0', 'conv.2', 'conv.4', 'conv.6')
          for kind in ('weight', 'bias'))]


@pytest.mark.shared
def test_tensor_names_are_in_the_order_of_a_published_log(shared_data: Path) -> None:
    import tarfile
    logged = []
    with tarfile.open(shared_data / 'mlperf-logs' / 'v5.0.tar.xz') as archive:
        for line in archive.extractfile('v5.0/NVIDIA/nyx_n1_ngc25.04_pytorch/retinanet/result_0.txt'):  # type: ignore[union-attr]
            if b'weights_initialization' in line:
                logged.append(json.loads(line.partition(b':::MLLOG')[2])['metadata']['tensor'])
    assert mlperf_tensor_names(RetinaNet(RETINANET_RESNEXT50)) == logged


@pytest.fixture(scope='module')
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[VerifiedBackbone, dict[str, Tensor]]:
    """A stand-in for the published file: torchvision's network with random weights and statistics."""
    network = resnext50_32x4d(weights=None)
    state = {name: torch.rand_like(value) + 0.1 if value.is_floating_point() else value
             for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp('weights') / 'resnext50_32x4d-12345678.pth'
    torch.save(state, path)
    return VerifiedBackbone(name='resnext50', path=path, published_as='resnext50_32x4d-7cdf4587.pth',
                            sha256=file_hash(path, 'sha256'), format='torch'), state


class TestBackbone:
    def test_every_tensor_is_loaded_and_norms_are_folded(
            self, little: Path, published: tuple[VerifiedBackbone, dict[str, Tensor]],
            monkeypatch: pytest.MonkeyPatch) -> None:
        backbone, state = published
        monkeypatch.setattr(benchmark, '_architecture', lambda *arguments: RETINANET_RESNEXT50)
        task = RetinaNetTask(replace(full_size(), pretrained_backbone=True), open_dataset(CARD, little), backbone)
        model = task.build_model()
        loaded = model.backbone.body.state_dict()
        assert len(loaded) == 53 + 212
        for name, value in loaded.items():
            assert torch.equal(value, state[name]), name
        norm = model.backbone.body.get_submodule('layer3.2.bn2')
        expected = state['layer3.2.bn2.weight'] / (state['layer3.2.bn2.running_var'] + 1e-5).sqrt()
        torch.testing.assert_close(norm.scale, expected)
        assert task.backbone_record() == {'file': 'resnext50_32x4d-7cdf4587.pth', 'sha256': backbone.sha256}

    def test_another_architecture_is_refused(self) -> None:
        body = RetinaNet(RETINANET_RESNEXT50).backbone.body
        before = body.conv1.weight.clone()
        state = resnet50(weights=None).state_dict()
        with pytest.raises(UserError, match=r'weights.pth: layer1.0.conv1.weight is \(64, 64, 1, 1\), the backbone'):
            load_body(body, state, source='weights.pth')
        del state['layer4.2.bn3.running_var']
        with pytest.raises(UserError, match=r'has no tensor layer4.2.bn3.running_var'):
            load_body(body, state, source='weights.pth')
        assert torch.equal(body.conv1.weight, before)

    def test_other_files_are_refused_and_v2_by_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / 'resnext50_32x4d-7cdf4587.pth'
        path.write_bytes(b'not the weights')
        with pytest.raises(UserError, match=r'none of resnext50_32x4d-7cdf4587.pth'):
            identify_backbone('resnext50', path)
        monkeypatch.setattr('mlperf_det.data.backbone.file_hash', lambda path, algorithm: '1a0047aa' + 56 * '0')
        with pytest.raises(UserError, match='IMAGENET1K_V2'):
            identify_backbone('resnext50', path)


class TestRefusals:
    def test_recipe_of_another_benchmark(self, little: Path) -> None:
        with pytest.raises(UserError, match='needs a RetinaNetRecipe'):
            build_task(ssd_smoke_recipe(), little, None)

    def test_backbone_and_recipe_must_agree(self, little: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match='no weight file was given'):
            build_task(smoke(pretrained_backbone=True), little, None)
        with pytest.raises(UserError, match='would be ignored'):
            build_task(smoke(), little, tmp_path / 'weights.pth')

    def test_the_real_network_needs_its_264_classes(self, little: Path) -> None:
        with pytest.raises(UserError, match='has 3 categories, retinanet_resnext50 has 264'):
            build_task(full_size(), little, None)

    def test_one_based_categories(self, tmp_path: Path) -> None:
        root = write_dataset(tmp_path, classes=264, first_id=1)
        with pytest.raises(UserError, match=r'run from 1 to 264, not from 0 to 263 .* data prepare openimages-mlperf'):
            build_task(full_size(), root, None)

    def test_splits_with_other_classes(self, tmp_path: Path) -> None:
        root = write_dataset(tmp_path, val_names=['class 1', 'class 0', 'class 2'])
        with pytest.raises(UserError, match='its categories differ'):
            build_task(smoke(), root, None)
