"""What the tasks of all benchmarks have in common: a verified dataset and the file of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from mlperf_det.data.backbone import VerifiedBackbone, identify_backbone
from mlperf_det.data.layout import MANIFEST, Dataset
from mlperf_det.data.loader import ImageSource
from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.training.task import Task

SourceT = TypeVar('SourceT', bound=ImageSource)


def verified_backbone(recipe: Recipe, file: Path | None, name: str) -> VerifiedBackbone | None:
    """Return the backbone file that a recipe starts from, identified by its checksum; None for random weights.

    Args:
        recipe: says whether weights are wanted.
        file: the file given; None: none was.
        name: of the weights, as in ``mlperf-det data backbone NAME``.

    Raises:
        UserError: a file is wanted and missing, given and not wanted, or is not the published one.
    """
    if recipe.pretrained_backbone and file is None:
        raise UserError(f'recipe {recipe.name}: pretrained_backbone is true, but no weight file was given; '
                        f'fetch it with `mlperf-det data backbone {name}` and name it')
    if not recipe.pretrained_backbone and file is not None:
        raise UserError(f'recipe {recipe.name}: pretrained_backbone is false, so {file} would be ignored; '
                        'leave it out or set pretrained_backbone to true')
    return None if file is None else identify_backbone(name, file)


class DatasetTask(Task):
    """A task on a verified dataset: boxes are scored after every epoch, unless the benchmark says otherwise.

    Numbers of images and categories come from the dataset's manifest. The annotations are data as the images are:
    a benchmark reads them when batches are asked for first, after ``run_start``.

    Args:
        dataset: the dataset.
        backbone: file of the backbone's weights; None: they are drawn at random.

    Raises:
        UserError: a split is missing, or the splits differ in their categories.
    """

    def __init__(self, dataset: Dataset, backbone: VerifiedBackbone | None) -> None:
        self._dataset, self._backbone = dataset, backbone
        train, evaluation = dataset.split('train'), dataset.split('val')
        if (train.category_ids, train.category_names) != (evaluation.category_ids, evaluation.category_names):
            raise UserError(f'{train.source}: its categories differ from those of {evaluation.source}; '
                            'prepare both splits from one source')
        self._category_ids = evaluation.category_ids

    def evaluates_after(self, epoch: int) -> bool:
        """Every epoch."""
        return True

    def before_evaluation(self, model: nn.Module) -> None:
        """Nothing: there are no statistics that differ between ranks."""

    @property
    def annotations(self) -> Path:
        """Annotation file of the validation split."""
        return self._dataset.split('val').annotations

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Original category id of each contiguous index."""
        return self._category_ids

    @property
    def iou_types(self) -> tuple[str, ...]:
        """Boxes only."""
        return ('bbox',)

    def dataset_record(self) -> Mapping[str, Any]:
        """Return card, root, fingerprint and counts of the dataset."""
        return self._dataset.record()

    def counted(self, source: SourceT, expected: int) -> SourceT:
        """Return a source of images after comparing its length with what was logged before it was read.

        Raises:
            UserError: they differ: the manifest is not of this program.
        """
        if len(source) != expected:
            raise UserError(f'{self._dataset.root / MANIFEST}: promises {expected} images, {len(source)} were read; '
                            f'run `mlperf-det data verify {self._dataset.card} --root {self._dataset.root}` again')
        return source

    def backbone_record(self) -> Mapping[str, Any] | None:
        """Return published file name and SHA-256 of the backbone weights; None when drawn at random."""
        if self._backbone is None:
            return None
        return {'file': self._backbone.published_as, 'sha256': self._backbone.sha256}
