"""Decoding JPEG files outside the loader's processes: by a GPU's decoder, or by NVIDIA DALI (`dali`).

The loader's processes then only read files. Order of the images, mirroring and boxes are those of the default path, and
so is what a resume continues with; pixels differ from it by the decoder's rounding, a few grey levels.

    source = EncodedSource(annotations, image_root, drop_empty=False)
    batches = train_batches(source, RetinaNetTransform(800), ...)
    for batch in decoded(batches, source, batch_decoder('gpu', 800, device, batch_size=32)): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.v2 import functional as F

from mlperf_det.data.batch import Batch
from mlperf_det.data.decode import decode_rgb
from mlperf_det.data.jpeg_header import HeaderError, read_size
from mlperf_det.data.loader import ImageSource, assemble, ltrb_fractions
from mlperf_det.data.retinanet_input import RetinaNetTransform
from mlperf_det.data.sampler import BatchPlan
from mlperf_det.data.transforms import Transform
from mlperf_det.errors import UserError


class DecodeError(Exception):
    """A decoder refuses a file of a batch."""


@dataclass(frozen=True, kw_only=True)
class EncodedBatch(Batch):
    """A batch whose images are still files.

    Attributes:
        images: (N, L) uint8, the files, padded with zeros to the longest.
        lengths: (N,) int64, bytes of each file.
        mirrored: (N,) bool, whether the image is to be mirrored; its boxes are already.
    """

    lengths: Tensor
    mirrored: Tensor

    def files(self) -> list[Tensor]:
        """Return each file, (bytes,) uint8."""
        return [content[:length] for content, length in zip(self.images, self.lengths.tolist(), strict=True)]


class BatchDecoder(Protocol):
    """What turns the files of a batch into its images."""

    def __call__(self, files: Sequence[Tensor], mirrored: Tensor) -> Tensor:
        """Return the images.

        Args:
            files: N JPEG files, each (bytes,) uint8 on the CPU.
            mirrored: (N,) bool on the CPU.

        Returns:
            (N, 3, S, S) uint8, RGB, squashed bilinearly without antialiasing, on the decoder's device.

        Raises:
            DecodeError: a file is not an image.
        """
        ...


class EncodedSource(ImageSource):
    """An `ImageSource` whose batches are `EncodedBatch`; its transform must be a `RetinaNetTransform`."""

    def load(self, plan: BatchPlan, transform: Transform) -> EncodedBatch:
        """Read the files and targets of one batch in this process.

        Raises:
            UserError: a file cannot be read, or its size is not what the annotations state.
        """
        assert isinstance(transform, RetinaNetTransform)
        truth, images = self.annotations, self._images[plan.samples]
        files, samples, mirrored = [], [], []
        for index, image in enumerate(images.tolist()):
            height, width = int(truth.heights[image]), int(truth.widths[image])
            rows = truth.of_image(image)
            boxes = ltrb_fractions(truth.boxes[rows], height, width)
            flip, targets, labels = transform.targets(boxes, truth.labels[rows], plan.rng(index))
            path = self.image_root / truth.file_names[image]
            files.append(torch.from_numpy(_read(path)))
            self.check_size(path, _size(path), (height, width))
            samples.append((torch.empty(0, dtype=torch.uint8), targets, labels))
            mirrored.append(flip)
        sizes = np.stack([truth.heights[images], truth.widths[images]], axis=1)
        batch = assemble(samples, torch.from_numpy(truth.image_ids[images]), torch.from_numpy(sizes))
        return EncodedBatch(
            images=pad_sequence(files, batch_first=True), image_ids=batch.image_ids, sizes=batch.sizes,
            boxes=batch.boxes, labels=batch.labels, lengths=torch.tensor([len(content) for content in files]),
            mirrored=torch.tensor(mirrored))

    def path_of(self, image_id: int) -> Path:
        """Return the file of an image."""
        place = int(np.flatnonzero(self.annotations.image_ids == image_id)[0])
        return self.image_root / self.annotations.file_names[place]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); is the image folder the right one?') from error


def _size(path: Path) -> tuple[int, int]:
    try:
        return read_size(path)
    except HeaderError as error:
        raise UserError(f'{path}: is not a readable image ({error}); fetch the file again') from error


def decoded(batches: Iterable[Batch], source: EncodedSource, decoder: BatchDecoder) -> Iterator[Batch]:
    """Yield the batches of a source with their images decoded; targets stay where they are.

    Raises:
        UserError: a file is not an image.
    """
    for batch in batches:
        assert isinstance(batch, EncodedBatch)
        try:
            images = decoder(batch.files(), batch.mirrored)
        except DecodeError as error:
            raise _refusal(batch, source, error) from error
        yield Batch(images=images, image_ids=batch.image_ids, sizes=batch.sizes, boxes=batch.boxes, labels=batch.labels)


def _refusal(batch: EncodedBatch, source: EncodedSource, refused: DecodeError) -> UserError:
    """Return what to tell the user: the file that the default decoder refuses, too, or all that may be meant."""
    paths = [source.path_of(image_id) for image_id in batch.image_ids.tolist()]
    for path, content in zip(paths, batch.files(), strict=True):
        try:
            decode_rgb(content.numpy().tobytes(), name=str(path))
        except UserError as error:
            return error
    return UserError(f'one of {", ".join(map(str, paths))} cannot be decoded ({refused}); the default decoder can: '
                     'set runtime.decoder=cpu')


def check_decoder(kind: Literal['cpu', 'gpu', 'dali'], device: torch.device) -> None:
    """Refuse a decoder that does not work on this machine.

    Raises:
        UserError: the GPU, torchvision's decoder for it, or the extra is missing.
    """
    if kind == 'gpu':
        if device.type == 'cpu':
            raise UserError('runtime.decoder gpu needs a GPU, this rank computes on the CPU; set runtime.decoder=cpu')
        try:
            decode_jpeg(encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8)), mode=ImageReadMode.RGB, device=device)
        except RuntimeError as error:
            raise UserError('runtime.decoder gpu: torchvision cannot decode JPEG files on this GPU '
                            f'({str(error).splitlines()[0]}); set runtime.decoder=cpu') from error
    if kind == 'dali':
        from mlperf_det.data.dali import check_installed
        check_installed()


def batch_decoder(kind: Literal['gpu', 'dali'], image_size: int, device: torch.device, *, batch_size: int
                  ) -> BatchDecoder:
    """Return the decoder that a recipe's ``runtime.decoder`` names; `check_decoder` has passed it.

    Args:
        kind: the setting.
        image_size: side of the images, pixels.
        device: where to decode and where the images stay.
        batch_size: most images in a batch.
    """
    if kind == 'gpu':
        return TorchvisionDecoder(image_size, device)
    from mlperf_det.data.dali import DaliDecoder
    return DaliDecoder(image_size, device, batch_size)


@dataclass(frozen=True)
class TorchvisionDecoder:
    """A `BatchDecoder` of torchvision: nvJPEG on a CUDA device (rocJPEG where torchvision has it), libjpeg on the CPU.

    What it refuses (CMYK, broken headers) goes through the default decoder.

    Attributes:
        image_size: side of the result, pixels.
        device: where to decode and where the images stay.
    """

    image_size: int
    device: torch.device

    def __call__(self, files: Sequence[Tensor], mirrored: Tensor) -> Tensor:
        """See `BatchDecoder`."""
        images = [F.resize(image, [self.image_size, self.image_size], antialias=False)
                  for image in self._decode(files)]
        stacked = torch.stack(images)
        flip = mirrored.to(self.device).view(-1, 1, 1, 1)
        return torch.where(flip, stacked.flip(-1), stacked)

    def _decode(self, files: Sequence[Tensor]) -> list[Tensor]:
        try:
            images: list[Tensor] = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=self.device)
            return images
        except RuntimeError:
            return [self._decode_one(content) for content in files]  # one of them is special

    def _decode_one(self, content: Tensor) -> Tensor:
        try:
            image: Tensor = decode_jpeg(content, mode=ImageReadMode.RGB, device=self.device)
            return image
        except RuntimeError:
            pass
        try:
            pixels = decode_rgb(content.numpy().tobytes())
        except UserError as error:
            raise DecodeError(str(error)) from error
        return torch.from_numpy(pixels).permute(2, 0, 1).to(self.device)
