"""SSD300 at full size on real photos: what it is trained on, it learns to find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.batch import Batch
from mlperf_det.data.loader import ImageSource, evaluation_batches
from mlperf_det.data.transforms import SquashTransform
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import concatenate, rows_from_detections
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34
from mlperf_det.recipes.recipe import Runtime
from mlperf_det.training.device import prepare_model, resolve

PHOTOS = 2
#: The last steps are small, so that the running statistics of the batch norms, which detection uses, catch up.
STEPS, SMALL_STEPS = 75, 15


def few_large_objects(source: Path, target: Path) -> Path:
    """Write the annotations of the first photos that show one to three objects, none small and no crowd."""
    content = json.loads(source.read_text())
    of_photo: dict[int, list[dict]] = {}
    for annotation in content['annotations']:
        of_photo.setdefault(annotation['image_id'], []).append(annotation)
    chosen = [image for image in content['images'] if image['id'] in of_photo and len(of_photo[image['id']]) <= 3
              and all(a['area'] > 96**2 and not a['iscrowd'] for a in of_photo[image['id']])][:PHOTOS]
    assert len(chosen) == PHOTOS
    content['images'] = chosen
    content['annotations'] = [a for image in chosen for a in of_photo[image['id']]]
    target.write_text(json.dumps(content))
    return target


@pytest.mark.shared
@pytest.mark.long
def test_loss_falls_and_ap_rises_on_the_photos_it_trains_on(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / 'coco2017-mini'
    path = few_large_objects(root / 'annotations' / 'instances_train2017.json', tmp_path / 'few.json')
    annotations, truth = read_annotations(path), read_ground_truth(path)
    source = ImageSource(annotations, root / 'train2017', drop_empty=True)
    batch: Batch = next(iter(evaluation_batches(source, SquashTransform(300, antialias=True), rank=0, world_size=1,
                                                batch_size=PHOTOS, workers=0)))
    torch.manual_seed(0)
    # What so few steps reach in bfloat16, whose gradients are off by a quarter at first, is a matter of luck.
    runtime = resolve(Runtime(precision='fp32'), torch.device('cpu'), world_size=1, ranks_on_host=1)
    model = prepare_model(Ssd(SSD300_RESNET34), runtime, torch.device('cpu'))
    batch = batch.to(torch.device('cpu'), runtime.torch_memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def average_precision() -> float:
        model.eval()
        with runtime.autocast():
            rows = rows_from_detections(model.detect(batch), np.asarray(batch.image_ids), annotations.category_ids)
        return score(truth, concatenate([rows]), ('bbox',))['bbox'].AP

    before, losses = average_precision(), []
    for step in range(STEPS):
        model.train()
        small = step >= STEPS - SMALL_STEPS
        optimizer.param_groups[0]['lr'] = 0.001 if small else 0.01 * min(1.0, (step + 1) / 10)
        with runtime.autocast():
            loss = torch.stack(list(model(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after = average_precision()
    assert before < 0.01
    assert losses[-1] < 0.25 * losses[0]
    assert after > before + 0.5, f'AP {before:.3f} -> {after:.3f}, loss {losses[0]:.2f} -> {losses[-1]:.2f}'
