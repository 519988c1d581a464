"""Mask R-CNN on real photos: crowds, the photo without annotations and the greyscale one among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mlperf_det.benchmarks.maskrcnn import MaskRcnnTask, build_task
from mlperf_det.data.cards import Card, SplitCard
from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.data.verify import verify_coco
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import concatenate, make_rows
from mlperf_det.models.maskrcnn import MaskRcnn
from mlperf_det.recipes.maskrcnn import MaskRcnnRecipe, builtin_recipes
from mlperf_det.recipes.recipe import Division, Runtime, Tier

pytestmark = [pytest.mark.shared, pytest.mark.slow]
CARD = 'coco2017-mini'


@pytest.fixture(scope='module')
def photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('photos') / CARD
    root.mkdir()
    for source in (shared_data / CARD).iterdir():
        (root / source.name).symlink_to(source)
    counts = {'train': (65, 64, 545), 'val': (45, 44, 365)}
    splits = {name: SplitCard(images=f'{name}2017', annotations=f'annotations/instances_{name}2017.json',
                              image_count=images, annotated_image_count=annotated, annotation_count=annotations)
              for name, (images, annotated, annotations) in counts.items()}
    card = Card(name=CARD, kind='coco', title='photos', licence={'name': 'see README'}, categories=80, splits=splits)
    assert not verify_coco(card, root, quick=True).problems
    return root


def recipe(**changes: object) -> MaskRcnnRecipe:
    return replace(builtin_recipes()['lanta-4x4x8'], dataset=CARD, division=Division.OPEN, tier=Tier.THROUGHPUT,
                   pretrained_backbone=False, runtime=Runtime(loader_workers=0), **changes)


@pytest.fixture(scope='module')
def small_task(photos: Path) -> MaskRcnnTask:
    """The reduced network with 80 classes on photos of 192 pixels."""
    task = build_task(recipe(architecture='maskrcnn_smoke', min_image_size=192, max_image_size=320,
                             num_image_candidates=800, local_batch_size=4, eval_batch_size=8), photos, None)
    assert task.architecture.num_classes == 80
    return task


def test_every_photo_is_evaluated(small_task: MaskRcnnTask) -> None:
    torch.manual_seed(0)
    model = small_task.build_model().eval()
    parts = [small_task.detection_rows(model.detect(batch), batch)
             for batch in small_task.evaluation_batches(rank=0, world_size=1)]
    rows = concatenate(parts)
    assert len(rows.seen_image_ids) == len(set(rows.seen_image_ids.tolist())) == small_task.eval_samples == 45
    summaries = score(read_ground_truth(small_task.annotations), rows, small_task.iou_types)
    assert set(summaries) == {'bbox', 'segm'}


def test_losses_fall_and_detections_appear_on_a_few_photos(small_task: MaskRcnnTask) -> None:
    torch.manual_seed(0)
    model = small_task.build_model()
    batch = next(iter(small_task.train_batches(epoch=0, skip=1, rank=0, world_size=1, seed=3)))
    assert isinstance(batch, MaskBatch)
    before = average_precision(small_task, model, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(120):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    for name in history[0]:
        peak = max(sum(step[name] for step in history[start:start + 10]) for start in range(0, 40, 10))
        assert sum(step[name] for step in history[-10:]) < 0.8 * peak, name
    after = average_precision(small_task, model, batch)
    for iou_type in ('bbox', 'segm'):
        assert after[iou_type] > before[iou_type] + 0.02, (before, after)


def average_precision(task: MaskRcnnTask, model: MaskRcnn, batch: MaskBatch) -> dict[str, float]:
    """Return box and mask AP on the training photos of a batch, seen as it shows them."""
    found = task.detection_rows(model.eval().detect(batch), batch)
    model.train()
    truth = read_ground_truth(task.annotations.parent / 'instances_train2017.json')
    ids = truth.image_ids.tolist()
    everywhere = make_rows(found.image_ids, found.category_ids, found.boxes, found.scores, rles=found.rles,
                           seen_image_ids=ids)
    return {name: summary.AP for name, summary in score(truth, everywhere, task.iou_types).items()}


def test_a_step_at_full_size(photos: Path) -> None:
    torch.manual_seed(0)
    task = build_task(recipe(local_batch_size=1, num_image_candidates=1000, fixed_shapes=True), photos, None)
    model = task.build_model().to(memory_format=torch.channels_last)
    batch = next(iter(task.train_batches(epoch=0, skip=4, rank=0, world_size=1, seed=1)))
    assert tuple(batch.images.shape[2:]) in {(800, 1344), (1344, 800)}
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(batch)
    sum(losses.values()).backward()
    assert sorted(losses) == ['box_reg', 'classifier', 'mask', 'objectness', 'rpn_box_reg']
    assert all(0 < value.item() < 100 for value in losses.values()), losses
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
