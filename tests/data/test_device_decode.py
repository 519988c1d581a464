"""Decoding a whole batch outside the loader's processes gives what the default path gives, up to rounding."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.device_decode import BatchDecoder, EncodedBatch, EncodedSource, TorchvisionDecoder, decoded
from mlperf_det.data.loader import ImageSource, train_batches
from mlperf_det.data.retinanet_input import RetinaNetTrainTransform
from mlperf_det.data.scenes.dataset import GeneratorSettings, generate_dataset
from mlperf_det.errors import UserError

SIZE, CPU = 96, torch.device('cpu')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('decode') / 'scenes'
    generate_dataset(GeneratorSettings(train=20, val=1, seed=4), folder, workers=1)
    return folder


def batches(kind: type[ImageSource], root: Path, *, skip: int = 0, workers: int = 0) -> list:
    truth = read_annotations(root / 'annotations' / 'instances_train2017.json')
    source = kind(truth, root / 'train2017', drop_empty=False)
    return list(train_batches(source, RetinaNetTrainTransform(SIZE), epoch=1, skip=skip, rank=0, world_size=1, seed=3,
                              batch_size=8, workers=workers))


def decoders() -> list:
    def dali(device: torch.device) -> BatchDecoder:
        pytest.importorskip('nvidia.dali', reason='NVIDIA DALI is not installed')
        from mlperf_det.data.dali import DaliDecoder

        return DaliDecoder(SIZE, device, batch_size=8)

    return [pytest.param(lambda device: TorchvisionDecoder(SIZE, device), id='torchvision'),
            pytest.param(dali, id='dali')]


def devices() -> list:
    no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
    return ['cpu', pytest.param('cuda', marks=no_cuda)]


@pytest.mark.parametrize('device', devices())
@pytest.mark.parametrize('make', decoders())
def test_batches_are_those_of_the_default_path(root: Path, make, device: str) -> None:
    expected = batches(ImageSource, root)
    found = list(decoded(batches(EncodedSource, root), make(torch.device(device))))
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert not isinstance(mine, EncodedBatch)
        for name in ('image_ids', 'sizes', 'boxes', 'labels'):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        assert mine.images.device.type == device
        assert mine.images.dtype == torch.uint8
        levels = (mine.images.cpu().int() - theirs.images.int()).abs().float()
        assert levels.mean() < 1.5, 'other images, or mirrored ones'
        if device == 'cpu' and isinstance(make(CPU), TorchvisionDecoder):
            assert levels.max() == 0


def test_worker_processes_and_a_resume_give_the_same_files(root: Path) -> None:
    plain = batches(EncodedSource, root)
    assert plain[0].mirrored.any()
    assert not plain[0].mirrored.all()
    for mine, theirs in zip(batches(EncodedSource, root, skip=1, workers=1), plain[1:], strict=True):
        for name in ('images', 'lengths', 'mirrored', 'boxes', 'labels'):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name


def jpeg(mode: str) -> torch.Tensor:
    stream = io.BytesIO()
    values = np.linspace(0, 255, 60 * 40).reshape(40, 60).astype(np.uint8)
    Image.fromarray(values).convert(mode).save(stream, 'JPEG')
    return torch.tensor(list(stream.getvalue()), dtype=torch.uint8)


def test_unusual_files_take_the_default_decoder() -> None:
    images = TorchvisionDecoder(SIZE, CPU)([jpeg('L'), jpeg('CMYK'), jpeg('RGB')], torch.zeros(3, dtype=torch.bool))
    assert images.shape == (3, 3, SIZE, SIZE)
    assert (images[0].int() - images[2].int()).abs().max() <= 3
    assert (images[1].int() - images[2].int()).abs().float().mean() <= 3


def test_what_is_no_image_is_named(root: Path) -> None:
    batch = batches(EncodedSource, root)[0]
    batch.images[2] = 0
    with pytest.raises(UserError, match=rf'one of the images \[.*{int(batch.image_ids[2])}.*not a readable image'):
        list(decoded([batch], TorchvisionDecoder(SIZE, CPU)))


def test_a_missing_file_is_named(root: Path) -> None:
    truth = read_annotations(root / 'annotations' / 'instances_train2017.json')
    source = EncodedSource(truth, root / 'val2017', drop_empty=False)
    with pytest.raises(UserError, match=r'\.jpg: cannot be read \(No such file'):
        list(train_batches(source, RetinaNetTrainTransform(SIZE), epoch=0, skip=0, rank=0, world_size=1, seed=3,
                           batch_size=8, workers=0))


def test_without_dali_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from mlperf_det.data.dali import DaliDecoder

    monkeypatch.setitem(sys.modules, 'nvidia.dali', None)
    with pytest.raises(UserError, match='install the extra `dali`'):
        DaliDecoder(SIZE, CPU, batch_size=8)
