"""Batches of images for training and evaluation, decoded and augmented by worker processes.

What a batch holds follows from its plan (`sampler`) alone, so neither the number of workers nor a resume changes it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mlperf_det.data.annotations import Annotations
from mlperf_det.data.batch import Batch
from mlperf_det.data.decode import decode_rgb
from mlperf_det.data.sampler import BatchPlan, evaluation_plans, steps_per_epoch, training_plans
from mlperf_det.data.transforms import Sample, Transform
from mlperf_det.errors import UserError

__all__ = ['ImageSource', 'default_workers', 'evaluation_batches', 'steps_per_epoch', 'train_batches']

#: Targets are padded to a power of two from here on, so that shapes (and with them compiled code) rarely change.
_LEAST_TARGETS = 8
_MOST_DEFAULT_WORKERS = 16
_SECONDS_BETWEEN_LOOKS = 1.0
#: What a scheduler or a terminal sends to the whole job; only the training process may act on it.
_JOB_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class ImageSource:
    """The images of one split with their boxes.

    Its worker processes start with the first epoch and live as long as the source, or until `close`.

    Args:
        annotations: ground truth.
        image_root: folder that the file names are relative to.
        drop_empty: leave out images without boxes (training).

    Raises:
        UserError: no image is left.
    """

    def __init__(self, annotations: Annotations, image_root: Path, drop_empty: bool) -> None:
        self.annotations = annotations
        self.image_root = image_root
        kept = annotations.boxes_per_image > 0 if drop_empty else np.ones(len(annotations), dtype=np.bool_)
        self._images = np.flatnonzero(kept)
        if not len(self._images):
            raise UserError(f'{annotations.path}: annotations: no image has a box; is this the right split?')
        self._pools: dict[tuple[Transform, int], _WorkerPool] = {}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._images)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the processes behind when the source is sent to one of them."""
        return {**self.__dict__, '_pools': {}}

    def load(self, plan: BatchPlan, transform: Transform) -> Batch:
        """Read, transform and assemble one batch in this process.

        Raises:
            UserError: an image cannot be read, or its size is not what the annotations state.
        """
        images = self._images[plan.samples]
        samples = [self._load_sample(int(image), transform, plan.rng(i)) for i, image in enumerate(images)]
        sizes = np.stack([self.annotations.heights[images], self.annotations.widths[images]], axis=1)
        return assemble(samples, torch.from_numpy(self.annotations.image_ids[images]), torch.from_numpy(sizes))

    def batches(self, plans: Iterable[BatchPlan], transform: Transform, workers: int) -> Iterator[Batch]:
        """Yield the planned batches in order, read ahead by ``workers`` processes (0: in this one).

        Raises:
            UserError: as `load`.
        """
        if workers == 0:
            yield from (self.load(plan, transform) for plan in plans)
            return
        # Taken out while in use: a second iteration at the same time gets processes of its own.
        pool = self._pools.pop((transform, workers), None) or _WorkerPool(_Reader(self, transform), workers)
        reusable = True
        try:
            for result in pool.run(plans):
                if isinstance(result, UserError):
                    raise result
                yield result
        except Exception as error:
            reusable = isinstance(error, UserError)
            raise
        finally:
            if reusable:
                self._pools[transform, workers] = pool

    def close(self) -> None:
        """End the worker processes; they start again when needed."""
        self._pools.clear()

    def _load_sample(self, image: int, transform: Transform, rng: np.random.Generator) -> Sample:
        path = self.image_root / self.annotations.file_names[image]
        pixels = decode_rgb(path)
        height, width = int(self.annotations.heights[image]), int(self.annotations.widths[image])
        self.check_size(path, pixels.shape[:2], (height, width))
        rows = self.annotations.of_image(image)
        boxes = ltrb_fractions(self.annotations.boxes[rows], height, width)
        return transform(pixels, boxes, self.annotations.labels[rows], rng)

    def check_size(self, path: Path, found: tuple[int, ...], stated: tuple[int, int]) -> None:
        """Refuse an image whose (height, width) is not the one that the annotations state.

        Raises:
            UserError: names both.
        """
        if found != stated:
            raise UserError(f'{path}: is {found[1]} x {found[0]} pixels, {self.annotations.path} states '
                            f'{stated[1]} x {stated[0]}; image and annotations are not of one dataset')


def train_batches(
    source: ImageSource, transform: Transform, *, epoch: int, skip: int, rank: int, world_size: int, seed: int,
    batch_size: int, workers: int | None,
) -> Iterator[Batch]:
    """Yield this rank's batches of an epoch, shuffled and augmented.

    The content follows from ``seed``, ``epoch`` and the position in the epoch alone.

    Args:
        source: training images.
        transform: augmentation.
        epoch: from 0.
        skip: batches to leave out at the start (a resumed epoch).
        rank: of this process.
        world_size: processes that share the epoch.
        seed: of the run, the same on all ranks.
        batch_size: images in a batch of one rank.
        workers: processes that read ahead; 0: none; None: `default_workers`.

    Raises:
        UserError: an image cannot be read, or its size is not what the annotations state.
    """
    plans = training_plans(len(source), seed=seed, epoch=epoch, skip=skip, rank=rank, world_size=world_size,
                           batch_size=batch_size)
    return source.batches(plans, transform, default_workers() if workers is None else workers)


def evaluation_batches(
    source: ImageSource, transform: Transform, *, rank: int, world_size: int, batch_size: int, workers: int | None,
) -> Iterator[Batch]:
    """Yield this rank's share of the images; over all ranks each occurs exactly once. Arguments as `train_batches`."""
    plans = evaluation_plans(len(source), rank=rank, world_size=world_size, batch_size=batch_size)
    return source.batches(plans, transform, default_workers() if workers is None else workers)


def default_workers() -> int:
    """Return half of the CPUs this process may use, at least 1 and at most 16."""
    return min(_MOST_DEFAULT_WORKERS, max(1, len(os.sched_getaffinity(0)) // 2))


@dataclass(frozen=True)
class _Reader(Dataset[Batch | UserError]):
    """What a worker process does: a plan in, a batch out."""

    source: ImageSource
    transform: Transform

    def __getitem__(self, plan: BatchPlan) -> Batch | UserError:
        try:
            return self.source.load(plan, self.transform)
        except UserError as error:
            # As a value, so that the user sees the one line and not the worker's traceback around it.
            return error


class _WorkerPool:
    """Processes that read batches, kept from one epoch to the next."""

    def __init__(self, reader: _Reader, workers: int) -> None:
        self._plans = _Plans()
        self._loader = DataLoader(
            reader, batch_size=None, sampler=self._plans, num_workers=workers, persistent_workers=True,
            collate_fn=_unchanged, pin_memory=torch.cuda.is_available(), multiprocessing_context=_start_method(),
            worker_init_fn=_end_with_training_process,
            # A generator of its own: the default would advance PyTorch's global one, which a resumed run restores.
            generator=torch.Generator())

    def run(self, plans: Iterable[BatchPlan]) -> Iterator[Batch | UserError]:
        """Yield the result of each plan, in order; what an abandoned run left behind is thrown away."""
        self._plans.current = plans
        with _job_signals_blocked():
            results = iter(self._loader)
        try:
            yield from results
        except (ConnectionError, EOFError) as error:
            raise RuntimeError('a DataLoader worker died while it handed over a batch; was it killed for memory, or is '
                               '/dev/shm too small?') from error


class _Plans:
    """A sampler whose content is set anew for each epoch."""

    current: Iterable[BatchPlan] = ()

    def __iter__(self) -> Iterator[BatchPlan]:
        return iter(self.current)


@contextmanager
def _job_signals_blocked() -> Iterator[None]:
    """Block job signals for processes started inside, which inherit the mask; none is lost for this one."""
    resource_tracker.ensure_running()  # would unblock them when it is started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_training_process(_worker: int) -> None:
    """Watch, in a worker, for the end of the training process, or for a SIGTERM from it and nobody else.

    Without this a worker would outlive a killed training process: it is a child of the server process, which lives as
    long as its children do.
    """
    training = multiprocessing.parent_process()
    assert training is not None

    def watch() -> None:
        while training.is_alive():
            received = signal.sigtimedwait({signal.SIGTERM}, _SECONDS_BETWEEN_LOOKS)
            if received is not None and received.si_pid == training.pid:
                break
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_method() -> multiprocessing.context.BaseContext:
    """Return how workers start: from a server process that has neither threads nor a GPU context.

    A plain fork copies locks that other threads hold and a CUDA state that the child cannot use.
    """
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])  # PyTorch is imported once, not by every worker
    return context


def _unchanged(batch: Any) -> Any:
    return batch


def ltrb_fractions(boxes: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return (M, 4) xywh pixels as ltrb fractions of the image."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    fractions: NDArray[np.float64] = corners / (width, height, width, height)
    return fractions


def assemble(samples: list[Sample], image_ids: torch.Tensor, sizes: torch.Tensor) -> Batch:
    """Return the samples as one batch, targets padded to the same number."""
    most = max(len(labels) for _, _, labels in samples)
    targets = max(_LEAST_TARGETS, 1 << (most - 1).bit_length() if most else 0)
    boxes = torch.zeros(len(samples), targets, 4)
    labels = torch.full((len(samples), targets), -1)
    for row, (_, sample_boxes, sample_labels) in enumerate(samples):
        boxes[row, :len(sample_boxes)] = sample_boxes
        labels[row, :len(sample_labels)] = sample_labels
    images = torch.stack([image for image, _, _ in samples])
    return Batch(images=images, image_ids=image_ids, sizes=sizes, boxes=boxes, labels=labels)
