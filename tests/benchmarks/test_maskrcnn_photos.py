"""Mask R-CNN on real photos at full size: crowds, a photo without annotations and a greyscale one among them.

What is reduced against the benchmark: the backbone starts from random values, with norms calibrated on noise, instead
of from the published weights; two photos are learnt by heart in a few dozen steps of one image, not mirrored, with
AdamW, which needs no warm-up; so the accuracies are small. The network, the sizes (800/1333), the classes, the losses
and the scorer are the benchmark's, and precision and memory format are what `Runtime` chooses for this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mlperf_det.benchmarks import maskrcnn
from mlperf_det.benchmarks.maskrcnn import MaskRcnnTask, build_task
from mlperf_det.data.cards import Card, SplitCard
from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.data.verify import verify_coco
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import concatenate
from mlperf_det.models import maskrcnn as models_maskrcnn
from mlperf_det.models.maskrcnn import MaskRcnn
from mlperf_det.recipes.maskrcnn import MaskRcnnRecipe, builtin_recipes
from mlperf_det.recipes.recipe import Division, Runtime, Tier
from mlperf_det.training.device import ResolvedRuntime, prepare_model, resolve

pytestmark = [pytest.mark.shared, pytest.mark.long]
CPU = torch.device('cpu')
SAMPLE = 'coco2017-mini'
#: A photo with two objects, and the greyscale one with three: both upright, and no object is tiny.
LEARNT = (73, 86)
#: A photo with a crowd among its 15 objects, and the one without annotations.
CROWD, EMPTY = 204805, 508
STEPS, RATE = 28, 3e-4
LOSSES = ('classifier', 'box_reg', 'mask', 'objectness', 'rpn_box_reg')


def few_photos(source: Path, root: Path, splits: Mapping[str, Sequence[int]]) -> Path:
    """Make a verified dataset of some of the sample's training photos, with their annotations as they are."""
    document = json.loads((source / 'annotations' / 'instances_train2017.json').read_text())
    (root / 'annotations').mkdir(parents=True)
    cards = {}
    for name, photos in splits.items():
        (root / f'{name}2017').symlink_to(source / 'train2017')
        images = [image for image in document['images'] if image['id'] in photos]
        objects = [found for found in document['annotations'] if found['image_id'] in photos]
        annotations = f'annotations/instances_{name}2017.json'
        (root / annotations).write_text(json.dumps({**document, 'images': images, 'annotations': objects}))
        cards[name] = SplitCard(
            images=f'{name}2017', annotations=annotations, image_count=len(images), annotation_count=len(objects),
            annotated_image_count=len({found['image_id'] for found in objects}))
    card = Card(name=SAMPLE, kind='coco', title='photos', licence={'name': 'see README'}, categories=80, splits=cards)
    assert not verify_coco(card, root, quick=True).problems
    return root


def recipe(**changes: object) -> MaskRcnnRecipe:
    return replace(builtin_recipes()['lanta-4x4x8'], dataset=SAMPLE, division=Division.OPEN, tier=Tier.THROUGHPUT,
                   pretrained_backbone=False, local_batch_size=1, eval_batch_size=1, num_image_candidates=1000,
                   runtime=Runtime(loader_workers=0), **changes)


def average_precision(task: MaskRcnnTask, model: MaskRcnn, runtime: ResolvedRuntime) -> dict[str, float]:
    """Return box and mask AP on the evaluation photos."""
    parts = []
    model.eval()
    for batch in task.evaluation_batches(rank=0, world_size=1):
        with torch.inference_mode(), runtime.autocast():
            found = model.detect(batch.to(CPU, runtime.torch_memory_format))
        parts.append(task.detection_rows(found, batch))
    model.train()
    summaries = score(read_ground_truth(task.annotations), concatenate(parts), task.iou_types)
    return {name: summary.AP for name, summary in summaries.items()}


def losses_of(model: MaskRcnn, batch: MaskBatch, runtime: ResolvedRuntime) -> Mapping[str, Tensor]:
    with runtime.autocast():
        return model(batch.to(CPU, runtime.torch_memory_format))


def losses_at_fixed_regions(model: MaskRcnn, batches: Mapping[int, MaskBatch], runtime: ResolvedRuntime,
                            monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return the losses over the photos with shifted ground truth as proposals, the same whenever it is called.

    A network proposes more regions with objects the better it gets, and with them the loss over all regions rises.
    """
    total = dict.fromkeys(LOSSES, 0.0)
    for batch in batches.values():
        torch.manual_seed(5)
        boxes = batch.boxes[:, (batch.labels[0] >= 0)].repeat(1, 24, 1)
        sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
        shifted = boxes + 0.15 * sides * torch.randn_like(boxes)
        with monkeypatch.context() as context, torch.no_grad():
            context.setattr(models_maskrcnn, 'propose', lambda *_, shifted=shifted, **__: (
                shifted, torch.zeros(shifted.shape[:2])))
            for name, value in losses_of(model, batch, runtime).items():
                total[name] += value.item()
    return total


@pytest.mark.timeout(900)
def test_photos_are_learnt_at_full_size(
        shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maskrcnn, 'MIRROR_PROBABILITY', 0.0)
    root = few_photos(shared_data / SAMPLE, tmp_path / 'photos', {'train': LEARNT, 'val': LEARNT})
    torch.manual_seed(0)
    task, runtime = build_task(recipe(), root, None), resolve(Runtime(), CPU)
    model = prepare_model(task.build_model(), runtime, CPU)
    assert isinstance(model, MaskRcnn)
    batches = {int(batch.image_ids): batch
               for batch in task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=1)}
    assert {tuple(batch.images.shape[2:]) for batch in batches.values()} == {(928, 800), (1024, 800)}
    before = average_precision(task, model, runtime), losses_at_fixed_regions(model, batches, runtime, monkeypatch)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    for step in range(STEPS):
        optimizer.param_groups[0]['lr'] = RATE * min(1.0, (step + 1) / 4)
        optimizer.zero_grad()
        sum(losses_of(model, batches[LEARNT[step % len(LEARNT)]], runtime).values()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
    after = average_precision(task, model, runtime), losses_at_fixed_regions(model, batches, runtime, monkeypatch)
    for name in LOSSES:
        assert after[1][name] < 0.8 * before[1][name], (name, before, after)
    for name in ('bbox', 'segm'):
        assert after[0][name] > before[0][name] + 0.005, (before, after)


def test_a_crowd_passes_at_the_fixed_size_and_every_kind_of_photo_is_scored(
        shared_data: Path, tmp_path: Path) -> None:
    photos = {'train': (CROWD, EMPTY), 'val': (CROWD, EMPTY, LEARNT[1])}
    root = few_photos(shared_data / SAMPLE, tmp_path / 'photos', photos)
    torch.manual_seed(0)
    task, runtime = build_task(recipe(fixed_shapes=True), root, None), resolve(Runtime(), CPU)
    model = prepare_model(task.build_model(), runtime, CPU)
    assert isinstance(model, MaskRcnn)
    batch = next(iter(task.train_batches(epoch=0, skip=0, rank=0, world_size=1, seed=1)))
    assert isinstance(batch, MaskBatch)
    assert tuple(batch.images.shape[2:]) == (800, 1344)
    assert (task.train_samples, int(batch.image_ids)) == (1, CROWD), 'a photo without annotations is not trained on'
    assert int((batch.labels >= 0).sum()) == 14, 'the crowd is no object'
    losses = losses_of(model, batch, runtime)
    sum(losses.values()).backward()
    assert sorted(losses) == sorted(LOSSES)
    assert all(0 < value.item() < 1000 for value in losses.values()), losses
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert task.eval_samples == 3
    assert set(average_precision(task, model, runtime)) == {'bbox', 'segm'}
