"""A small but real detection task, and a program that trains it: ``python toy.py --output DIR --data DIR ...``.

32x32 images each hold one bright square of one of two colours on noise; a small network predicts its class and centre.
It learns that in a few epochs on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.models.detections import Detections
from mlperf_det.recipes.recipe import Division, Recipe, Runtime, Tier
from mlperf_det.training.attempt import RunOptions
from mlperf_det.training.run import run_training
from mlperf_det.training.task import Task
from mlperf_det.training.watch import Rhythm

SIZE, SIDE = 32, 12
CATEGORY_IDS = (3, 7)
TRAIN, VALIDATION = 64, 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyRecipe(Recipe):
    """`fault` breaks the task on purpose: see `ToyTask.train_batches`."""

    benchmark: str = 'ssd'
    name: str = 'toy'
    tier: Tier = Tier.SMOKE
    division: Division = Division.OPEN
    ruleset: str = '1.1.0'
    local_batch_size: int = 8
    eval_batch_size: int = 4
    epochs: int = 4
    walltime_minutes: int = 5
    dataset: str = 'toy'
    pretrained_backbone: bool = False
    quality_target: Mapping[str, float] = dataclasses.field(default_factory=lambda: {'bbox': 0.99})
    runtime: Runtime = dataclasses.field(
        default_factory=lambda: Runtime(precision='fp32', poll_interval=2, log_interval=1))
    learning_rate: float = 0.05
    evaluation_interval: int = 1
    fault: str = ''
    fault_rank: int = 0
    fault_step: int = 0
    step_seconds: float = 0.0


def scene(index: int) -> tuple[Tensor, tuple[float, float, float, float], int]:
    """Return image (3, 32, 32) uint8, box and label of scene ``index``; the same every time."""
    random = np.random.default_rng(index)
    image = random.integers(0, 90, size=(3, SIZE, SIZE), dtype=np.uint8)
    left, top = random.integers(0, SIZE - SIDE, size=2)
    label = int(random.integers(2))
    image[label * 2, top:top + SIDE, left:left + SIDE] = 230
    return torch.from_numpy(image), (float(left), float(top), float(left + SIDE), float(top + SIDE)), label


def write_annotations(path: Path) -> None:
    """Write the COCO annotations of the validation scenes; image ids start at 1000."""
    ids = range(1000, 1000 + VALIDATION)
    boxes = {index: scene(index) for index in ids}
    path.write_text(json.dumps({
        'images': [{'id': index, 'width': SIZE, 'height': SIZE, 'file_name': f'{index}.png'} for index in ids],
        'categories': [{'id': category, 'name': str(category)} for category in CATEGORY_IDS],
        'annotations': [{'id': index, 'image_id': index, 'category_id': CATEGORY_IDS[label], 'iscrowd': 0,
                         'bbox': [box[0], box[1], SIDE, SIDE], 'area': SIDE * SIDE}
                        for index, (_, box, label) in boxes.items()]}))


class ToyDetector(nn.Module):
    """Finds the square as the centre of mass of a learned heat map, and its class from the features there."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(),
                                      nn.Conv2d(8, 8, 5, padding=2), nn.ReLU())
        self.heat = nn.Conv2d(8, 1, 1)
        self.classify = nn.Linear(8, 2)
        # Of no use to the network: ranks must save and restore their own.
        self.norm = nn.BatchNorm2d(3, affine=False)
        # Constants of a network are no part of its state.
        self.register_buffer('pixel_centres', torch.arange(SIZE) + 0.5, persistent=False)

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.float() / 255
        self.norm(images)
        features = self.features(images)
        heat = self.heat(features).flatten(1).float().softmax(1)
        position = self.pixel_centres
        rows, columns = heat.view(-1, SIZE, SIZE).sum(2) @ position, heat.view(-1, SIZE, SIZE).sum(1) @ position
        logits = self.classify((features.flatten(2).float() * heat[:, None]).sum(2)).float()
        return logits, torch.stack((columns, rows), 1) - SIDE / 2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits, corner = self._predict(batch)
        return {'class': F.cross_entropy(logits, batch.labels[:, 0]),
                'box': F.smooth_l1_loss(corner, batch.boxes[:, 0, :2], beta=1.0) / 4}

    def detect(self, batch: Batch) -> Detections:
        logits, corner = self._predict(batch)
        scores, labels = logits.softmax(1).max(1)
        return Detections(boxes=torch.cat((corner, corner + SIDE), 1)[:, None], scores=scores[:, None],
                          labels=labels[:, None], valid=torch.ones_like(labels, dtype=torch.bool)[:, None])


class ToyTask(Task):
    static_graph = True

    def __init__(self, recipe: ToyRecipe, data: Path) -> None:
        self.recipe = recipe
        self.train_samples, self.eval_samples = TRAIN, VALIDATION
        self._annotations = data / 'annotations.json'

    def build_model(self) -> nn.Module:
        return ToyDetector()

    def build_optimizer(self, model: nn.Module, implementation: Mapping[str, bool]) -> Any:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **implementation)

    def learning_rates(self, step: int) -> Sequence[float]:
        return [self.recipe.learning_rate * min(1.0, (step + 1) / 4)]

    def steps_per_epoch(self) -> int:
        return TRAIN // self.recipe.global_batch_size

    def train_batches(self, *, epoch: int, skip: int, rank: int, world_size: int, seed: int) -> Iterator[Batch]:
        order = np.random.default_rng((seed, epoch)).permutation(TRAIN)
        size = self.recipe.local_batch_size
        for index in range(skip, self.steps_per_epoch()):
            step = epoch * self.steps_per_epoch() + index
            if step == self.recipe.fault_step and rank == self.recipe.fault_rank:
                self._break()
            time.sleep(self.recipe.step_seconds)
            first = (index * world_size + rank) * size
            batch = make_batch([int(number) for number in order[first:first + size]])
            if self.recipe.fault == 'nan' and step == self.recipe.fault_step:
                batch.boxes[0, 0, 0] = float('nan')
            yield batch

    def _break(self) -> None:
        if self.recipe.fault == 'raise':
            raise ValueError('the toy broke on purpose')
        if self.recipe.fault.startswith('SIG'):
            os.kill(os.getpid(), signal.Signals[self.recipe.fault])
        if self.recipe.fault == 'hang':
            time.sleep(1000)

    def evaluation_batches(self, *, rank: int, world_size: int) -> Iterator[Batch]:
        mine = list(range(1000 + rank, 1000 + VALIDATION, world_size))
        if self.recipe.fault == 'lose-image' and rank == self.recipe.fault_rank:
            mine.pop()
        for first in range(0, len(mine), self.recipe.eval_batch_size):
            yield make_batch(mine[first:first + self.recipe.eval_batch_size])

    def evaluates_after(self, epoch: int) -> bool:
        return epoch % self.recipe.evaluation_interval == 0

    def before_evaluation(self, model: nn.Module) -> None:
        pass

    @property
    def annotations(self) -> Path:
        return self._annotations

    category_ids = CATEGORY_IDS
    iou_types = ('bbox',)

    def mllog_hyperparameters(self) -> Sequence[tuple[str, Any]]:
        return [('global_batch_size', self.recipe.global_batch_size), ('train_samples', TRAIN),
                ('eval_samples', VALIDATION)]

    def initialized_tensors(self, model: nn.Module) -> Sequence[str]:
        return [name for name, _ in model.named_parameters()]

    def dataset_record(self) -> Mapping[str, Any]:
        return {'card': 'toy', 'fingerprint': 'f' * 8}

    def backbone_record(self) -> Mapping[str, Any] | None:
        return None


def make_batch(indices: Sequence[int]) -> Batch:
    scenes = [scene(index) for index in indices]
    return Batch(images=torch.stack([image for image, _, _ in scenes]), image_ids=torch.tensor(indices),
                 sizes=torch.full((len(indices), 2), SIZE),
                 boxes=torch.tensor([box for _, box, _ in scenes])[:, None],
                 labels=torch.tensor([label for _, _, label in scenes])[:, None])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--resume', action='store_true')
    parser.add_argument('--recipe', type=json.loads, default={})
    parser.add_argument('--silence', type=float, default=20.0)
    parser.add_argument('--rank-timeout', type=float, default=60.0)
    args = parser.parse_args()
    if 'runtime' in args.recipe:
        args.recipe['runtime'] = Runtime(**args.recipe['runtime'])
    recipe = dataclasses.replace(ToyRecipe(), **args.recipe)
    return run_training(lambda recipe: ToyTask(recipe, args.data), recipe, RunOptions(
        output=args.output, seed=1, resume=args.resume, device='cpu', rank_timeout=args.rank_timeout,
        meeting_timeout=60, command=tuple(sys.argv), rhythm=Rhythm(beat=0.2, silence=args.silence, grace=3.0)))


if __name__ == '__main__':
    from mlperf_det.errors import UserError
    try:
        sys.exit(main())
    except UserError as error:
        sys.stderr.write(f'mlperf-det: error: {error}\n')
        sys.exit(2)
