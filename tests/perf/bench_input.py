"""The SSD input pipeline against Pillow and torchvision in the reference's order, on photos of about 640 x 480.

Both sides draw the same crop, flip and colour factors from the same generator, so what they return can be compared.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

from mlperf_det.data.annotations import read_annotations
from mlperf_det.data.color_jitter import ColorJitter
from mlperf_det.data.decode import decode_rgb
from mlperf_det.data.ssd_augment import random_crop
from mlperf_det.data.transforms import SsdTrainTransform, squash
from tests.perf.case import Case

SIZE = 300
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
SHIFT = -(torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
TRANSFORM = SsdTrainTransform(SIZE, 1)
REAL_PHOTOS = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'coco2017-mini'


class Photo(NamedTuple):
    content: bytes
    boxes: np.ndarray  # (M, 4) ltrb fractions


def cases() -> list[Case]:
    photos, kind = _photos()
    note = f'{len(photos)} {kind}'
    pixels = [decode_rgb(photo.content) for photo in photos]
    inputs = [squash(image, SIZE, antialias=True) for image in pixels]
    return [
        Case(name='JPEG decode', peer=_over(photos, lambda photo, _: _pillow(photo)),
             ours=_over(photos, lambda photo, _: decode_rgb(photo.content)), equal=_within(0), target=None, rounds=9,
             note=f'{note}; bit-equal'),
        Case(name='decode and resize to 300 (evaluation)', peer=_over(photos, _peer_evaluation),
             ours=_over(photos, _our_evaluation), equal=_within(1), target=None, rounds=9, note=f'{note}; <= 1 level'),
        Case(name='colour jitter at 300', peer=_over(inputs, _peer_jitter), ours=_over(inputs, _our_jitter),
             equal=_within(0), target=2.0, rounds=9, note='bit-equal'),
        Case(name='SSD training input', peer=_into_batch(photos, _peer_training, torch.float32),
             ours=_into_batch(photos, _our_training, torch.uint8), equal=_nearly_equal, target=2.0, rounds=11,
             note=f'{note}; ours stays uint8, the device normalises; the peer takes our crop decisions'),
        Case(name='SSD training input, normalised on the host', peer=_into_batch(photos, _peer_training, torch.float32),
             ours=_into_batch(photos, _our_normalised, torch.float32), equal=_nearly_equal, target=None, rounds=11,
             note='the same, with the step that the device would do'),
    ]


def _photos() -> tuple[list[Photo], str]:
    if not REAL_PHOTOS.is_dir():
        return _synthetic_photos(), 'synthetic photos'
    annotations = read_annotations(REAL_PHOTOS / 'annotations' / 'instances_train2017.json')
    photos = []
    for index in np.flatnonzero(annotations.boxes_per_image):
        boxes = annotations.boxes[annotations.of_image(index)].copy()
        boxes[:, 2:] += boxes[:, :2]
        size = annotations.widths[index], annotations.heights[index]
        path = REAL_PHOTOS / 'train2017' / annotations.file_names[index]
        photos.append(Photo(path.read_bytes(), boxes / (size * 2)))
    return photos, 'COCO photos'


def _synthetic_photos(count: int = 32) -> list[Photo]:
    """Images with the 1/f spectrum of photographs and some grain, so that they cost as much to decode."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640)[None])
    frequency[0, 0] = 1
    photos = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, 480, 640))) / frequency
        smooth = np.fft.irfft2(spectrum, s=(480, 640))
        values = 128 + 45 * smooth / smooth.std() + rng.normal(0, 6, smooth.shape)
        stream = io.BytesIO()
        Image.fromarray(values.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(stream, 'JPEG', quality=92)
        corners = rng.uniform(0, 0.6, (7, 2))
        photos.append(Photo(stream.getvalue(), np.concatenate([corners, corners + rng.uniform(0.05, 0.4, (7, 2))], 1)))
    return photos


def _over(items: list, function: Callable) -> Callable[[], list]:
    return lambda: [function(item, np.random.default_rng(index)) for index, item in enumerate(items)]


def _into_batch(items: list, function: Callable, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """Both sides end in a batch whose memory is there, as a loader's is: else new pages would be a part of the time."""
    batch = torch.empty(len(items), 3, SIZE, SIZE, dtype=dtype)

    def run() -> torch.Tensor:
        for index, item in enumerate(items):
            function(item, np.random.default_rng(index), batch[index])
        return batch
    return run


def _pillow(photo: Photo) -> Image.Image:
    return Image.open(io.BytesIO(photo.content)).convert('RGB')


def _peer_evaluation(photo: Photo, _: np.random.Generator) -> Image.Image:
    return _pillow(photo).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _our_evaluation(photo: Photo, _: np.random.Generator) -> np.ndarray:
    return squash(decode_rgb(photo.content), SIZE, antialias=True).permute(1, 2, 0).numpy()


def _pillow_jitter(image: Image.Image, jitter: ColorJitter, rng: np.random.Generator) -> Image.Image:
    factors = rng.uniform(-1, 1, 4)
    steps = [
        (F.adjust_brightness, 1 + jitter.brightness * factors[0]),
        (F.adjust_contrast, 1 + jitter.contrast * factors[1]),
        (F.adjust_saturation, 1 + jitter.saturation * factors[2]),
        (F.adjust_hue, jitter.hue * factors[3]),
    ]
    for step in rng.permutation(4):
        adjust, factor = steps[step]
        image = adjust(image, factor)
    return image


def _peer_jitter(image: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(_pillow_jitter(Image.fromarray(image.permute(1, 2, 0).numpy()), TRANSFORM.jitter, rng))


def _our_jitter(image: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    return TRANSFORM.jitter(image, rng).permute(1, 2, 0).numpy()


def _peer_training(photo: Photo, rng: np.random.Generator, out: torch.Tensor) -> None:
    image = _pillow(photo)
    crop = random_crop(photo.boxes, 1, rng)
    rows, columns = crop.pixels(image.height, image.width)
    image = image.crop((columns.start, rows.start, columns.stop, rows.stop))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _pillow_jitter(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), TRANSFORM.jitter, rng)
    out.copy_(F.normalize(F.to_tensor(image), MEAN, STD))


def _our_training(photo: Photo, rng: np.random.Generator, out: torch.Tensor) -> None:
    pixels, _, _ = TRANSFORM(decode_rgb(photo.content), photo.boxes, np.zeros(len(photo.boxes), np.int64), rng)
    out.copy_(pixels)


def _our_normalised(photo: Photo, rng: np.random.Generator, out: torch.Tensor) -> None:
    _our_training(photo, rng, out)
    torch.addcmul(SHIFT, out, SCALE, out=out)


def _within(levels: int) -> Callable[[list, list], None]:
    def check(peer: list, ours: list) -> None:
        for theirs, mine in zip(peer, ours, strict=True):
            difference = np.abs(np.asarray(theirs).astype(int) - np.asarray(mine)).max()
            assert difference <= levels, f'differ by {difference} grey levels'
    return check


def _nearly_equal(peer: torch.Tensor, ours: torch.Tensor) -> None:
    """Every stage is equal or within one grey level (the rows above); the colour steps stretch that one level."""
    if ours.dtype == torch.uint8:
        ours = torch.addcmul(SHIFT, ours.float(), SCALE)
    levels = ((peer - ours) * torch.tensor(STD).view(3, 1, 1) * 255).abs()
    beyond = (levels > 1.01).float().mean()
    assert levels.mean() < 0.05, f'differ by {levels.mean():.3f} grey levels on average'
    assert beyond < 0.01, f'{beyond:.2%} of the values differ by over one grey level'
