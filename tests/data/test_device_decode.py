"""Decoding a whole batch outside the loader's processes gives what the default path gives, up to rounding."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlperf_det.data import device_decode
from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.device_decode import (
    BatchDecoder,
    DecodeError,
    EncodedBatch,
    EncodedSource,
    TorchvisionDecoder,
    batch_decoder,
    check_decoder,
    decoded,
)
from mlperf_det.data.loader import ImageSource, train_batches
from mlperf_det.data.retinanet_input import RetinaNetTransform
from mlperf_det.data.scenes.dataset import GeneratorSettings, generate_dataset
from mlperf_det.errors import UserError

SIZE, CPU = 96, torch.device('cpu')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('decode') / 'scenes'
    generate_dataset(GeneratorSettings(train=20, val=1, seed=4), folder, workers=1)
    return folder


def source_of(root: Path, kind: type[ImageSource] = EncodedSource, folder: str = 'train2017') -> ImageSource:
    truth = read_annotations(root / 'annotations' / 'instances_train2017.json')
    return kind(truth, root / folder, drop_empty=False)


def batches(source: ImageSource, *, skip: int = 0, workers: int = 0) -> list:
    return list(train_batches(source, RetinaNetTransform(SIZE), epoch=1, skip=skip, rank=0, world_size=1, seed=3,
                              batch_size=8, workers=workers))


def decoder(kind: str, device: str = 'cpu') -> BatchDecoder:
    if kind == 'dali':
        pytest.importorskip('nvidia.dali', reason='NVIDIA DALI is not installed')
    return batch_decoder(kind, SIZE, torch.device(device), batch_size=8)  # type: ignore[arg-type]


def devices() -> list:
    no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
    return ['cpu', pytest.param('cuda', marks=no_cuda)]


@pytest.mark.parametrize('device', devices())
@pytest.mark.parametrize('kind', ['gpu', 'dali'])
def test_batches_are_those_of_the_default_path(root: Path, kind: str, device: str) -> None:
    expected = batches(source_of(root, ImageSource))
    source = source_of(root)
    found = list(decoded(batches(source), source, decoder(kind, device)))
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert not isinstance(mine, EncodedBatch)
        for name in ('image_ids', 'sizes', 'boxes', 'labels'):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
        assert mine.images.device.type == device
        assert mine.images.dtype == torch.uint8
        levels = (mine.images.cpu().int() - theirs.images.int()).abs().float()
        assert levels.mean() < 1.5, 'other images, or mirrored ones'
        if (kind, device) == ('gpu', 'cpu'):
            assert levels.max() == 0


def test_worker_processes_and_a_resume_give_the_same_files(root: Path) -> None:
    plain = batches(source_of(root))
    assert plain[0].mirrored.any()
    assert not plain[0].mirrored.all()
    for mine, theirs in zip(batches(source_of(root), skip=1, workers=1), plain[1:], strict=True):
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


@pytest.mark.parametrize('kind', ['gpu', 'dali'])
def test_what_is_no_image_is_named(root: Path, kind: str) -> None:
    source = source_of(root)
    batch = batches(source)[0]
    batch.images[2] = 0
    name = source.path_of(int(batch.image_ids[2])).name
    with pytest.raises(UserError, match=f'{name}: is not a readable image'):
        list(decoded([batch], source, decoder(kind)))


def test_what_only_this_decoder_refuses_is_said_so(root: Path) -> None:
    def refuse(files: list[torch.Tensor], mirrored: torch.Tensor) -> torch.Tensor:
        raise DecodeError('out of decoders')

    source = source_of(root)
    with pytest.raises(UserError, match=r'one of .*\.jpg, .* cannot be decoded \(out of decoders\).*decoder=cpu'):
        list(decoded(batches(source)[:1], source, refuse))


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r'\.jpg: cannot be read \(No such file'):
        batches(source_of(root, folder='val2017'))


@pytest.mark.parametrize(('content', 'message'), [
    (b'GIF89a, or so', 'is not a readable image'), (bytes(jpeg('RGB').tolist()), 'is 60 x 40 pixels, .* states')])
def test_a_file_that_is_not_the_annotated_image_is_named_before_it_is_decoded(
        root: Path, tmp_path: Path, content: bytes, message: str) -> None:
    broken = Path(shutil.copytree(root, tmp_path / 'broken'))
    path = min((broken / 'train2017').iterdir())
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'{path.name}: {message}'):
        batches(source_of(broken))


class TestChoice:
    def test_the_gpus_decoder_needs_a_gpu(self) -> None:
        with pytest.raises(UserError, match='decoder gpu needs a GPU, this rank computes on the CPU'):
            check_decoder('gpu', CPU)

    def test_a_gpu_without_a_decoder_is_refused_and_not_worked_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, device: torch.device, **__: object) -> None:
            raise RuntimeError(f'nvjpeg is not in this build for {device}')

        monkeypatch.setattr(device_decode, 'decode_jpeg', refuse)
        with pytest.raises(UserError, match=r'cannot decode .* \(nvjpeg is not in this build for cuda:0\)'):
            check_decoder('gpu', torch.device('cuda', 0))

    def test_without_dali_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, 'nvidia.dali', None)
        with pytest.raises(UserError, match='install the extra `dali`'):
            check_decoder('dali', CPU)
        with pytest.raises(UserError, match='install the extra `dali`'):
            batch_decoder('dali', SIZE, CPU, batch_size=8)

    def test_the_loaders_processes_need_nothing(self) -> None:
        check_decoder('cpu', CPU)
