"""Decoding: bit-equal to Pillow, and a defined answer for every odd or broken file."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlperf_det.data import decode
from mlperf_det.data.decode import decode_rgb
from mlperf_det.errors import UserError


@pytest.fixture(scope='module')
def picture() -> Image.Image:
    """Smooth colours with some grain, 90 x 70."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((90, 70))
    return Image.fromarray((np.asarray(coarse) + rng.integers(0, 8, (70, 90, 3))).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = 'JPEG', **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


@pytest.mark.parametrize('options', [
    {}, {'subsampling': '4:4:4'}, {'subsampling': '4:2:2'}, {'progressive': True}, {'quality': 15}, {'quality': 100},
    {'optimize': True}, {'keep_rgb': True},
])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_jpegs_of_every_kind_equal_pillow(picture: Image.Image, mode: str, options: dict) -> None:
    content = encoded(picture.convert(mode), **options)
    pixels = decode_rgb(content)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, by_pillow(content))


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'L'])
def test_pngs_are_read_as_well(picture: Image.Image, mode: str) -> None:
    content = encoded(picture.convert(mode), 'PNG')
    np.testing.assert_array_equal(decode_rgb(content), by_pillow(content))


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_exif_orientation_is_ignored(picture: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rotated = decode_rgb(encoded(picture, exif=exif))
    np.testing.assert_array_equal(rotated, decode_rgb(encoded(picture)))
    assert rotated.shape == (70, 90, 3)


def test_stray_bytes_before_a_marker_are_tolerated_as_pillow_does(picture: Image.Image) -> None:
    content = encoded(picture)
    np.testing.assert_array_equal(decode_rgb(content[:-2] + b'\1\2\3' + content[-2:]), by_pillow(content))


@pytest.mark.parametrize(('damage', 'words'), [
    (lambda content: content[:len(content) // 2], 'truncated'),
    (lambda content: content[:-2], 'truncated'),
    (lambda content: content[:30], 'not a readable image'),
    (lambda content: b'', 'empty file'),
    (lambda content: b'<html>404</html>', 'unknown format'),
    (lambda content: b'\xff\xd8\xff' + b'\0' * 200, 'not a readable image'),
])
def test_a_broken_file_is_an_error_that_names_it(picture: Image.Image, tmp_path: Path, damage, words: str) -> None:
    path = tmp_path / 'broken.jpg'
    path.write_bytes(damage(encoded(picture)))
    with pytest.raises(UserError, match=words) as caught:
        decode_rgb(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_truncated_png_is_an_error(picture: Image.Image) -> None:
    with pytest.raises(UserError, match=r'x\.png: is not a readable image'):
        decode_rgb(encoded(picture, 'PNG')[:3000], name='x.png')


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent\.jpg: cannot be read'):
        decode_rgb(tmp_path / 'absent.jpg')


@pytest.mark.parametrize('form', ['JPEG', 'PNG'])
def test_an_image_over_the_limit_is_refused_before_it_is_decoded(
        picture: Image.Image, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, 'MAX_PIXELS', 90 * 70 - 1)
    with pytest.raises(UserError, match='more than 6299 pixels'):
        decode_rgb(encoded(picture, form))
    monkeypatch.setattr(decode, 'MAX_PIXELS', 90 * 70)
    assert decode_rgb(encoded(picture, form)).shape == (70, 90, 3)


def test_a_png_that_pillow_takes_for_a_bomb_is_refused(picture: Image.Image) -> None:
    content = bytearray(encoded(picture, 'PNG'))
    content[16:24] = (20_000).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    with pytest.raises(UserError, match='more than 178956970 pixels'):
        decode_rgb(bytes(content), name='bomb.png')


@pytest.mark.shared
def test_real_photos_equal_pillow(shared_data: Path) -> None:
    photos = sorted((shared_data / 'coco2017-mini' / 'train2017').glob('*.jpg'))
    assert any(photo.stem == '000000000086' for photo in photos), 'the grayscale photo is part of the set'
    for photo in photos:
        np.testing.assert_array_equal(decode_rgb(photo), np.asarray(Image.open(photo).convert('RGB')), photo.name)
