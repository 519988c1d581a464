"""Looking at every image of a split, over several processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from mlperf_det.data.bounded_map import bounded_map
from mlperf_det.data.cards import is_relative
from mlperf_det.data.progress import Progress
from mlperf_det.errors import UserError

_CHUNK = 64
_EXIF_ORIENTATION = 0x0112
_NOTICES = {'L': 'grayscale', '1': 'grayscale', 'I;16': 'grayscale', 'CMYK': 'cmyk', 'YCCK': 'cmyk'}


@dataclass(frozen=True, kw_only=True)
class ImageFinding:
    """What one image file is.

    Attributes:
        name: file name as the annotations state it.
        bytes: file size; 0 where the file is missing or corrupt.
        problem: 'missing', 'corrupt', 'wrong size' or 'outside'; None: the image can be trained on.
        detail: the problem in words.
        notices: what is unusual yet has a defined behaviour: 'grayscale', 'cmyk', 'other mode', 'exif rotated'.
    """

    name: str
    bytes: int = 0
    problem: str | None = None
    detail: str = ''
    notices: tuple[str, ...] = ()


def inspect_images(folder: Path, images: Sequence[tuple[str, int, int]], *, decode: bool, workers: int,
                   label: str) -> list[ImageFinding]:
    """Inspect images, in the order given.

    Args:
        folder: what the file names are relative to.
        images: file name, height and width as the annotations state them.
        decode: decode every pixel, as training does; otherwise only the headers are read.
        workers: processes.
        label: what the progress bar says.
    """
    chunks = [(folder, images[start:start + _CHUNK], decode) for start in range(0, len(images), _CHUNK)]
    findings: list[ImageFinding] = []
    # Fresh processes: a fork would copy the locks of the caller's threads.
    pool = ProcessPoolExecutor(workers, mp_context=get_context('spawn')) if workers > 1 and len(chunks) > 1 else None
    with Progress(label, len(images), 'images') as progress, pool or nullcontext():
        results = bounded_map(pool, _inspect_chunk, chunks, ahead=4 * workers) if pool else map(_inspect_chunk, chunks)
        for result in results:
            findings += result
            progress.advance(len(result))
    return findings


_Chunk = tuple[Path, Sequence[tuple[str, int, int]], bool]


def _inspect_chunk(chunk: _Chunk) -> list[ImageFinding]:
    folder, images, decode = chunk
    return [inspect_image(folder, name, height, width, decode=decode) for name, height, width in images]


def inspect_image(folder: Path, name: str, height: int, width: int, *, decode: bool) -> ImageFinding:
    """Inspect one image file (see `inspect_images`)."""
    if not is_relative(name):
        return ImageFinding(name=name, problem='outside', detail='the file name leaves the image folder')
    path = folder / name
    try:
        size = path.stat().st_size
        shape, notices = _read_header(path)
        if decode:
            shape = _decoded_shape(path)
    except FileNotFoundError:
        return ImageFinding(name=name, problem='missing', detail='no such file')
    # Pillow's parsers raise SyntaxError and ValueError for some broken headers.
    except (OSError, SyntaxError, ValueError, UserError) as error:
        return ImageFinding(name=name, problem='corrupt', detail=' '.join(str(error).split()))
    if shape != (height, width):
        return ImageFinding(name=name, bytes=size, problem='wrong size', notices=notices,
                            detail=f'is {shape[1]} x {shape[0]}, the annotations state {width} x {height}')
    return ImageFinding(name=name, bytes=size, notices=notices)


def _read_header(path: Path) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Return height and width, and what is unusual."""
    # Imported here: only image work needs it, and a login node may lack it.
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        with Image.open(path) as image:
            notices = [] if image.mode == 'RGB' else [_NOTICES.get(image.mode, 'other mode')]
            if image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
                notices.append('exif rotated')
            return (image.height, image.width), tuple(notices)


def _decoded_shape(path: Path) -> tuple[int, int]:
    # Training's own decoder: what it accepts is what counts.
    from mlperf_det.data.decode import decode_rgb

    height, width, _ = decode_rgb(path).shape
    return int(height), int(width)
