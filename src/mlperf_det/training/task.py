"""The seam between the one training loop and the benchmarks: what the loop needs to know of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.evaluation.rows import DetectionRows, rows_from_detections
from mlperf_det.models.detections import Detections
from mlperf_det.recipes.recipe import Recipe


class Detector(Protocol):
    """A detection network. It is an `nn.Module`; the loop wraps it in DDP and autocast."""

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """Training mode: return named scalar losses whose sum is minimised."""
        ...

    def detect(self, batch: Batch) -> Detections:
        """Evaluation mode: return detections in pixels of the original images."""
        ...


class Task(Protocol):
    """A benchmark bound to a recipe and a dataset on disk.

    Implementations derive from this class explicitly (``class SsdTask(Task)``), which gives them the defaults of
    `first_epoch_num`, `static_graph`, `logs_blocks`, `gives_up` and `detection_rows`.

    MLPerf's clock starts before data is touched, annotations included. The loop calls `build_model`,
    `build_optimizer`, `mllog_hyperparameters`, `initialized_tensors` and the two records before ``run_start``, so these
    know counts and categories from the dataset's manifest alone; `train_batches`, `evaluation_batches` and the reading
    of `annotations` come after it.
    """

    #: number of the first epoch in ``epoch_start`` and ``epoch_stop`` of the MLPerf log; evaluations always carry
    #: the number of completed epochs (published RetinaNet logs count epochs from 0 and evaluations from 1)
    first_epoch_num: int = 1
    #: True: every step uses the same parameters in the same order, which lets DDP overlap more
    static_graph: bool = False
    #: True: an epoch is also logged as a block of one epoch, as in all published logs of Mask R-CNN
    logs_blocks: bool = False

    recipe: Recipe
    #: images of one epoch (all ranks together)
    train_samples: int
    #: images of one evaluation (all ranks together)
    eval_samples: int

    def build_model(self) -> nn.Module:
        """Return the initialised `Detector` on the CPU, backbone weights loaded."""
        ...

    def build_optimizer(self, model: nn.Module, implementation: Mapping[str, bool]) -> Any:
        """Return the optimiser; ``implementation`` holds ``fused`` and ``foreach`` for its constructor."""
        ...

    def learning_rates(self, step: int) -> Sequence[float]:
        """Return the rate of each parameter group for optimiser step ``step`` (from 0), warm-up and decay included."""
        ...

    def steps_per_epoch(self) -> int:
        """Return the optimiser steps of one epoch (the same on all ranks)."""
        ...

    def train_batches(self, *, epoch: int, skip: int, rank: int, world_size: int, seed: int) -> Iterable[Batch]:
        """Yield this rank's batches of epoch ``epoch`` (from 0), leaving out the first ``skip``.

        The content of a batch depends on the arguments alone, never on workers or on what was read before,
        so a resumed run sees the same images with the same augmentation. ``skip`` costs no decoding. Loader processes
        may be started on the first `next`: the loop shields them from SIGTERM and SIGUSR1, which are meant for it.
        """
        ...

    def evaluation_batches(self, *, rank: int, world_size: int) -> Iterable[Batch]:
        """Yield this rank's share of the evaluation images; over all ranks each image occurs exactly once."""
        ...

    def evaluates_after(self, epoch: int) -> bool:
        """Say whether the model is evaluated after ``epoch`` completed epochs."""
        ...

    def before_evaluation(self, model: nn.Module) -> None:
        """Do what the benchmark asks for before an evaluation, on all ranks (SSD: average BN statistics).

        ``model`` is the module that `build_model` returned. With several ranks `torch.distributed` is initialised,
        on one it is not.
        """
        ...

    def gives_up(self, epoch: int, metrics: Mapping[str, float]) -> str | None:
        """Say why a run that scored ``metrics`` after ``epoch`` epochs is hopeless; None: it goes on."""
        return None

    def detection_rows(self, detections: Detections, batch: Batch) -> DetectionRows:
        """Turn the detections of an evaluation batch into rows; benchmarks with masks override it to encode them."""
        return rows_from_detections(detections, batch.image_ids.cpu().numpy(), self.category_ids)

    @property
    def annotations(self) -> Path:
        """COCO annotation file that evaluation is scored against."""
        ...

    @property
    def category_ids(self) -> Sequence[int]:
        """Original category id of each contiguous index."""
        ...

    @property
    def iou_types(self) -> Sequence[str]:
        """Metrics that are scored: ``bbox``, or ``bbox`` and ``segm``."""
        ...

    def mllog_hyperparameters(self) -> Sequence[tuple[str, Any]]:
        """Return the hyperparameter events of the MLPerf log, in order, logged before ``init_stop``.

        The events of `initialized_tensors` follow them, or take the place of an entry ``weights_initialization``.
        What comes after an entry ``run_start`` is logged after that event.
        """
        ...

    def initialized_tensors(self, model: nn.Module) -> Sequence[str]:
        """Return the names for the ``weights_initialization`` events, in the order of the rules."""
        ...

    def dataset_record(self) -> Mapping[str, Any]:
        """Return the ``dataset`` entry of run.json: card, root, fingerprint and counts."""
        ...

    def backbone_record(self) -> Mapping[str, Any] | None:
        """Return file name and SHA-256 of the backbone weights; None when initialised at random."""
        ...
