"""The loader on real files: same batches whatever the workers, ranks and resumes; errors name the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.batch import Batch
from mlperf_det.data.loader import ImageSource, default_workers, evaluation_batches, train_batches
from mlperf_det.data.scenes.dataset import GeneratorSettings, generate_dataset
from mlperf_det.data.transforms import SquashTransform, SsdTrainTransform
from mlperf_det.errors import UserError

TRAIN = SsdTrainTransform(64, 1)
EVALUATE = SquashTransform(64, antialias=True)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('loader') / 'scenes'
    generate_dataset(GeneratorSettings(train=60, val=23, seed=5), root, workers=1)
    return root


@pytest.fixture
def open_source(dataset: Path) -> Iterator[Callable[[str], ImageSource]]:
    opened = []

    def open_split(split: str) -> ImageSource:
        annotations = read_annotations(dataset / 'annotations' / f'instances_{split}2017.json')
        opened.append(ImageSource(annotations, dataset / f'{split}2017', drop_empty=split == 'train'))
        return opened[-1]

    yield open_split
    for source in opened:
        source.close()


def training(source: ImageSource, *, epoch: int = 0, skip: int = 0, rank: int = 0, world_size: int = 1,
             batch_size: int = 8, workers: int = 0) -> Iterator[Batch]:
    return train_batches(source, TRAIN, epoch=epoch, skip=skip, rank=rank, world_size=world_size, seed=11,
                         batch_size=batch_size, workers=workers)


def child_processes() -> dict[int, str]:
    """Return this process's descendants in the order they started: pid -> command line."""
    parents, started = {}, {}
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            numbers = path.read_text().rpartition(')')[2].split()
        except OSError:  # has ended since
            continue
        pid = int(path.parent.name)
        parents[pid], started[pid] = int(numbers[1]), int(numbers[19])
    family = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    family.remove(os.getpid())
    return {pid: Path(f'/proc/{pid}/cmdline').read_text() for pid in sorted(family, key=lambda pid: started[pid])}


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for field in fields(Batch):
            assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_a_batch_is_what_its_docstring_says(open_source: Callable) -> None:
    source = open_source('train')
    for batch in training(source):
        count, targets = len(batch), batch.labels.shape[1]
        assert batch.images.shape == (count, 3, 64, 64)
        assert batch.images.dtype == torch.uint8
        assert targets >= 8
        assert targets & (targets - 1) == 0
        assert batch.boxes.shape == (count, targets, 4)
        assert batch.boxes.dtype == torch.float32
        padding = batch.labels < 0
        assert (batch.labels[padding] == -1).all()
        assert (batch.boxes[padding] == 0).all()
        assert (~padding).any(dim=1).all(), 'training images have boxes'
        assert ((batch.boxes >= 0) & (batch.boxes <= 64)).all()
        rows = [int(np.flatnonzero(source.annotations.image_ids == image)[0]) for image in batch.image_ids]
        stated = np.stack([source.annotations.heights[rows], source.annotations.widths[rows]], axis=1)
        np.testing.assert_array_equal(batch.sizes.numpy(), stated)


def test_workers_do_not_change_the_batches_and_live_on(open_source: Callable) -> None:
    alone, helped = open_source('train'), open_source('train')
    state = torch.get_rng_state()
    assert_same(list(training(helped, workers=2)), list(training(alone)))
    processes = child_processes()
    assert_same(list(training(helped, epoch=1, workers=2)), list(training(alone, epoch=1)))
    # An epoch that was left half-way does not leak into the next one.
    abandoned = training(helped, epoch=2, workers=2)
    next(abandoned)
    abandoned.close()
    assert_same(list(training(helped, epoch=3, skip=2, workers=2)), list(training(alone, epoch=3))[2:])
    assert child_processes() == processes, 'workers were started anew'
    assert torch.equal(torch.get_rng_state(), state), 'the global random state was touched'


def test_two_iterations_at_a_time_do_not_mix(open_source: Callable) -> None:
    source = open_source('train')
    first, second = training(source, workers=1), training(source, epoch=1, workers=1)
    mixed = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert_same(mixed[::2], list(training(source)))
    assert_same(mixed[1::2], list(training(source, epoch=1)))


def test_workers_survive_the_signals_of_a_scheduler(open_source: Callable) -> None:
    source = open_source('train')
    batches = training(source, batch_size=2, workers=1)
    got = [next(batches)]
    processes = [pid for pid, command in child_processes().items() if 'resource_tracker' not in command]
    assert len(processes) >= 2, 'the server and a worker'
    for pid in processes:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            subprocess.run(['kill', '-s', number.name.removeprefix('SIG'), str(pid)], check=True)
    time.sleep(0.2)
    got += batches
    assert_same(got, list(training(source, batch_size=2)))


def test_a_killed_worker_is_an_error_and_not_a_hang(open_source: Callable) -> None:
    source = open_source('train')
    batches = training(source, batch_size=1, workers=1)
    next(batches)
    *_, youngest = child_processes()
    os.kill(youngest, signal.SIGKILL)
    with pytest.raises(RuntimeError, match='DataLoader worker'):
        list(batches)


TRAINING_PROGRAM = """
import os, signal, sys
from pathlib import Path
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.loader import ImageSource, evaluation_batches
from mlperf_det.data.transforms import SquashTransform

if __name__ == '__main__':
    root = Path(sys.argv[1])
    source = ImageSource(read_annotations(root / 'annotations' / 'instances_val2017.json'), root / 'val2017', True)
    batches = evaluation_batches(source, SquashTransform(64, True), rank=0, world_size=1, batch_size=1, workers=1)
    next(batches)
    sys.stdout.write('started')
    sys.stdout.flush()
    if sys.argv[2] == 'killed':
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('end', 'status'), [('finished', 0), ('killed', -signal.SIGKILL)])
def test_workers_end_with_the_training_process(dataset: Path, tmp_path: Path, end: str, status: int) -> None:
    program = tmp_path / 'training.py'
    program.write_text(TRAINING_PROGRAM)
    # Workers and their server inherit the pipe: reading it to its end waits until the last of them is gone.
    with subprocess.Popen([sys.executable, program, dataset, end], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as training:
        output, _ = training.communicate(timeout=240)
    assert output == b'started'
    assert training.returncode == status


def test_skip_resumes_exactly(open_source: Callable) -> None:
    source = open_source('train')
    full = list(training(source))
    assert_same(list(training(source, skip=3)), full[3:])
    assert list(training(source, skip=len(full))) == []


def test_two_ranks_equal_one_rank_with_the_doubled_batch(open_source: Callable) -> None:
    source = open_source('train')
    one = list(training(source, batch_size=8))
    two = [list(training(source, rank=rank, world_size=2, batch_size=4)) for rank in range(2)]
    # The last, partial batch may leave out one image when it is shared out evenly.
    full = len(source) // 8
    assert full >= 5
    for whole, left, right in zip(one[:full], *(batches[:full] for batches in two), strict=True):
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))
        assert torch.equal(whole.image_ids, torch.cat([left.image_ids, right.image_ids]))
        assert torch.equal(whole.labels.max(dim=1).values, torch.cat([left.labels, right.labels]).max(dim=1).values)


def test_epochs_differ_in_order_and_augmentation(open_source: Callable) -> None:
    source = open_source('train')
    first, second = (torch.cat([batch.image_ids for batch in training(source, epoch=epoch)]) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_evaluation_sees_each_image_once_empty_ones_included(open_source: Callable, world_size: int) -> None:
    source = open_source('val')
    batches = [batch for rank in range(world_size) for batch in
               evaluation_batches(source, EVALUATE, rank=rank, world_size=world_size, batch_size=5, workers=0)]
    seen = torch.cat([batch.image_ids for batch in batches])
    assert sorted(seen.tolist()) == sorted(source.annotations.image_ids.tolist())
    assert len(seen) == 23
    assert any((batch.labels < 0).all(dim=1).any() for batch in batches), 'the set holds an image without boxes'


def test_images_without_boxes_are_left_out_of_training_only(dataset: Path) -> None:
    annotations = read_annotations(dataset / 'annotations' / 'instances_val2017.json')
    empty = int((annotations.boxes_per_image == 0).sum())
    assert empty > 0
    assert len(ImageSource(annotations, dataset, drop_empty=True)) == 23 - empty
    assert len(ImageSource(annotations, dataset, drop_empty=False)) == 23
    nothing = replace(annotations, offsets=np.zeros_like(annotations.offsets))
    with pytest.raises(UserError, match='no image has a box'):
        ImageSource(nothing, dataset, drop_empty=True)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_truncated_image_stops_training_with_its_name(dataset: Path, tmp_path: Path, workers: int) -> None:
    annotations = read_annotations(dataset / 'annotations' / 'instances_val2017.json')
    for path in (dataset / 'val2017').iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / annotations.file_names[9]
    victim.write_bytes(victim.read_bytes()[:-40])
    source = ImageSource(annotations, tmp_path, drop_empty=False)
    with pytest.raises(UserError, match='truncated') as caught:
        list(evaluation_batches(source, EVALUATE, rank=0, world_size=1, batch_size=4, workers=workers))
    assert str(victim) in str(caught.value)
    assert '\n' not in str(caught.value)
    source.close()


def test_an_image_of_another_size_than_stated_is_an_error(dataset: Path, tmp_path: Path) -> None:
    annotations = read_annotations(dataset / 'annotations' / 'instances_val2017.json')
    for name in annotations.file_names:
        Image.new('RGB', (20, 10)).save(tmp_path / name)
    source = ImageSource(annotations, tmp_path, drop_empty=False)
    with pytest.raises(UserError, match=r'is 20 x 10 pixels, .*instances_val2017\.json states'):
        next(evaluation_batches(source, EVALUATE, rank=0, world_size=1, batch_size=4, workers=0))


def test_the_default_number_of_workers_leaves_cpus_for_training() -> None:
    assert 1 <= default_workers() <= max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.shared
def test_real_photos_pass_grayscale_and_empty_ones_included(shared_data: Path) -> None:
    root = shared_data / 'coco2017-mini'
    annotations = read_annotations(root / 'annotations' / 'instances_train2017.json')
    source = ImageSource(annotations, root / 'train2017', drop_empty=True)
    assert len(source) == 64
    seen = torch.cat([batch.image_ids for batch in training(source)])
    assert 86 in seen
    assert 508 not in seen
    everything = ImageSource(annotations, root / 'train2017', drop_empty=False)
    batches = list(evaluation_batches(everything, EVALUATE, rank=0, world_size=1, batch_size=65, workers=0))
    assert len(batches) == 1
    (batch,) = batches
    row = batch.image_ids.tolist().index(508)
    assert (batch.labels[row] == -1).all()
    gray = batch.images[batch.image_ids.tolist().index(86)]
    assert torch.equal(gray[0], gray[1])
    assert int((batch.labels >= 0).sum()) == len(annotations.boxes)
