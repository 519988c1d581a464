"""RetinaNet at full size on real photos of Open Images: what it is trained on, it learns to find."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlperf_det.benchmarks import retinanet as benchmark
from mlperf_det.benchmarks.retinanet import RetinaNetTask, build_task
from mlperf_det.cli import main
from mlperf_det.data.cards import ObjectClass, OpenImagesCard, OpenImagesSplit, write_card
from mlperf_det.data.openimages.boxes import FLAGS
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import concatenate
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RetinaNet
from mlperf_det.recipes.recipe import Division, Runtime, Tier
from mlperf_det.recipes.retinanet import builtin_recipes
from mlperf_det.training.device import ResolvedRuntime, prepare_model, resolve

CARD, CPU = 'few-photos', torch.device('cpu')
CLASSES = ('Apple', 'Bicycle', 'Bird', 'Boat', 'Person')
#: one large apple, one bicycle
PHOTOS = ('2aba8accc49f0318', '2f29100ebd0abb65')
STEPS = 14


def write_photos(sample: Path, root: Path) -> None:
    """Lay the photos and their boxes down as ``data download`` does; evaluation has the photos of the training."""
    with (sample / 'train' / 'labels' / 'detections.csv').open(newline='') as stream:
        rows = list(csv.DictReader(stream))
    # The sample lost its flags; as unknown ones they would make every box a group, which evaluation leaves out.
    rows = [{**row, **dict.fromkeys(FLAGS, 0)} for row in rows]
    for split in ('train', 'validation'):
        for part in ('data', 'labels', 'metadata'):
            (root / split / part).mkdir(parents=True)
        with (root / split / 'labels' / 'detections.csv').open('w', newline='') as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
        shutil.copyfile(sample / 'train' / 'metadata' / 'classes.csv', root / split / 'metadata' / 'classes.csv')
        (root / split / 'metadata' / 'image_ids.csv').write_text('\n'.join(('ImageID', *PHOTOS, '')))
        for photo in PHOTOS:
            shutil.copyfile(sample / 'train' / 'data' / f'{photo}.jpg', root / split / 'data' / f'{photo}.jpg')
    with (root / 'train' / 'metadata' / 'classes.csv').open(newline='') as stream:
        mids = {name: mid for mid, name in csv.reader(stream)}
    splits = {name: OpenImagesSplit(
        images=f'{folder}/data', annotations=f'{folder}/labels/openimages-mlperf.json', image_count=len(PHOTOS),
        annotated_image_count=None, annotation_count=None, boxes=f'{folder}/labels/detections.csv',
        class_list=f'{folder}/metadata/classes.csv', image_list=f'{folder}/metadata/image_ids.csv')
        for name, folder in (('train', 'train'), ('val', 'validation'))}
    write_card(root, OpenImagesCard(
        name=CARD, kind='openimages', title='Photos', licence={}, categories=len(CLASSES), splits=splits,
        classes=tuple(ObjectClass(mid=mids[name], name=name) for name in CLASSES)))


def average_precision(task: RetinaNetTask, model: RetinaNet, runtime: ResolvedRuntime) -> float:
    model.eval()
    rows = []
    for batch in task.evaluation_batches(rank=0, world_size=1):
        with runtime.autocast():
            found = model.detect(batch.to(CPU, runtime.torch_memory_format))
        rows.append(task.detection_rows(found, batch))
    model.train()
    return score(read_ground_truth(task.annotations), concatenate(rows), ('bbox',))['bbox'].AP


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.timeout(900)
def test_loss_falls_and_ap_rises_on_the_photos_it_trains_on(
        shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's network, 800x800, with its optimiser and rate; of five classes, and from a random backbone."""
    write_photos(shared_data / 'openimages-mini', tmp_path)
    for step in ('prepare', 'verify'):
        assert main(['data', step, CARD, '--root', str(tmp_path)]) == 0
    architecture = replace(RETINANET_RESNEXT50, num_classes=len(CLASSES))
    monkeypatch.setattr(benchmark, '_architecture', lambda *_: architecture)
    recipe = replace(
        builtin_recipes()['reference-1x8x32'], dataset=CARD, division=Division.OPEN, tier=Tier.THROUGHPUT,
        pretrained_backbone=False, accelerators_per_node=1, local_batch_size=len(PHOTOS), eval_batch_size=len(PHOTOS),
        warmup_epochs=0, runtime=Runtime(loader_workers=0))
    task = build_task(recipe, tmp_path, None)
    assert (task.train_samples, task.eval_samples, task.architecture.image_size) == (2, 2, 800)

    torch.manual_seed(0)
    runtime = resolve(recipe.runtime, CPU)
    model = prepare_model(task.build_model(), runtime, CPU)
    assert isinstance(model, RetinaNet)
    optimizer = task.build_optimizer(model, runtime.optimizer_arguments)
    before, losses = average_precision(task, model, runtime), []
    for step in range(STEPS):
        optimizer.param_groups[0]['lr'], = task.learning_rates(step)
        batch, = task.train_batches(epoch=step, skip=0, rank=0, world_size=1, seed=1)
        with runtime.autocast():
            loss = torch.stack(list(model(batch.to(CPU, runtime.torch_memory_format)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after = average_precision(task, model, runtime)
    course = f'AP {before:.3f} -> {after:.3f}, loss {losses[0]:.2f} -> {losses[-1]:.2f}'
    print(course)
    assert before < 0.01, course
    assert np.mean(losses[-3:]) < 0.7 * losses[0], course
    assert after > before + 0.1, course
