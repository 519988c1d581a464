"""Sizes from JPEG headers: equal to Pillow's, whatever comes before the frame header."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlperf_det.data import jpeg_header
from mlperf_det.data.jpeg_header import HeaderError, ImageSizes, read_size, read_sizes
from mlperf_det.data.progress import Progress


def jpeg(width: int, height: int, mode: str = 'RGB', **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, 'JPEG', **options)
    return stream.getvalue()


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / 'x.jpg'
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('progressive', [False, True])
@pytest.mark.parametrize(('width', 'height'), [(1, 1), (300, 7), (7, 300), (4000, 3)])
def test_the_size_is_pillows(tmp_path: Path, mode: str, progressive: bool, width: int, height: int) -> None:
    path = written(tmp_path, jpeg(width, height, mode, progressive=progressive))
    with Image.open(path) as image:
        assert read_size(path) == (height, width) == (image.height, image.width)


def test_large_segments_before_the_frame_header_are_skipped(tmp_path: Path) -> None:
    profile, exif = bytes(range(256)) * 600, b'Exif\0\0' + b'\xff\xc0' * 20_000
    path = written(tmp_path, jpeg(31, 17, icc_profile=profile, exif=exif, comment=b'\xff\xd8\xff\xc0'))
    assert path.read_bytes().find(b'\xff\xdb') > 100_000, 'the frame header is far behind the first read'
    assert read_size(path) == (17, 31)


def test_exif_rotation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_size(written(tmp_path, jpeg(40, 20, exif=exif))) == (20, 40)


def test_fill_bytes_and_stray_bytes_before_a_marker(tmp_path: Path) -> None:
    content = jpeg(40, 20)
    assert read_size(written(tmp_path, content[:2] + b'\xff\xff\xff' + content[2:])) == (20, 40)


def test_other_formats_are_read_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / 'x.jpg'
    Image.new('RGB', (9, 8)).save(path, 'PNG')
    assert read_size(path) == (8, 9)


@pytest.mark.parametrize('content', [
    b'', b'\xff\xd8', b'<html>not found</html>', jpeg(30, 20)[:30], b'\xff\xd8\xff\xd9' + bytes(50),
    b'\xff\xd8\xff\xe0\0\0' + bytes(50)])
def test_what_is_no_image_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(HeaderError):
        read_size(written(tmp_path, content))


@pytest.mark.parametrize('slow', [False, True])
def test_many_files_in_order_with_the_bad_ones_named(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: bool) -> None:
    """On a slow file system (here by decree) many files are read at a time, with the same result."""
    monkeypatch.setattr(jpeg_header, '_SLOW_SECONDS', 0.0 if slow else 1.0)
    rng = np.random.default_rng(3)
    expected = rng.integers(1, 50, (300, 2))
    names = [f'{index}.jpg' for index in range(len(expected))]
    for name, (height, width) in zip(names, expected.tolist(), strict=True):
        (tmp_path / name).write_bytes(jpeg(width, height))
    (tmp_path / '7.jpg').write_bytes(b'no image')
    (tmp_path / '200.jpg').unlink()
    expected[[7, 200]] = 0
    found = read_sizes(tmp_path, names)
    assert np.array_equal(found.sizes, expected)
    assert found.missing == ('200.jpg',)
    assert found.unreadable == ('7.jpg (not an image)',)


def test_processes_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_header, '_WORTH_PROCESSES', 1)
    monkeypatch.setattr(jpeg_header, '_CHUNK', 4)
    names = [f'{index}.jpg' for index in range(10)]
    for index, name in enumerate(names[:-1], 1):
        (tmp_path / name).write_bytes(jpeg(index, 2 * index))
    one, two = (read_sizes(tmp_path, names, workers=workers) for workers in (1, 2))
    assert one.sizes[:9].tolist() == [[2 * index, index] for index in range(1, 10)]
    assert np.array_equal(one.sizes, two.sizes)
    assert one.missing == two.missing == ('9.jpg',)


def test_an_interrupt_does_not_wait_for_all_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(folder: Path, names: list[str]) -> ImageSizes:
        read.extend(names)
        time.sleep(0.01)
        return ImageSizes(sizes=np.ones((len(names), 2), np.int32), missing=(), unreadable=())

    def interrupt(_progress: Progress, _amount: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jpeg_header, 'ProcessPoolExecutor', lambda workers, **_: ThreadPoolExecutor(workers))
    monkeypatch.setattr(jpeg_header, '_WORTH_PROCESSES', 1)
    monkeypatch.setattr(jpeg_header, '_CHUNK', 1)
    monkeypatch.setattr(jpeg_header, '_read_chunk', note)
    monkeypatch.setattr(Progress, 'advance', interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_sizes(tmp_path, [f'{index}.jpg' for index in range(100)], workers=2)
    assert len(read) <= 5, 'those that were under way'


@pytest.mark.shared
def test_real_photos(shared_data: Path) -> None:
    for folder in (shared_data / 'openimages-mini' / 'train' / 'data', shared_data / 'coco2017-mini' / 'train2017'):
        names = sorted(path.name for path in folder.iterdir())
        found = read_sizes(folder, names)
        assert len(names) > 20
        assert not found.missing + found.unreadable
        for name, size in zip(names, found.sizes.tolist(), strict=True):
            with Image.open(folder / name) as image:
                assert size == [image.height, image.width]
