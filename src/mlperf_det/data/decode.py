"""Image files to RGB arrays, bit-equal to what Pillow decodes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mlperf_det.errors import UserError

#: Larger images are refused before memory is reserved. Pillow's own limit for an error; the largest Open Images photo
#: has less than a third of it.
MAX_PIXELS = 178_956_970

_JPEG_MAGIC = b'\xff\xd8\xff'
#: What libjpeg-turbo turns into RGB as Pillow does; CMYK it converts in another way.
_FAST_COLORSPACES = frozenset({'YCbCr', 'RGB', 'Gray'})


def decode_rgb(source: bytes | Path, *, name: str | None = None) -> NDArray[np.uint8]:
    """Decode an image as the reference implementations do: three RGB channels, EXIF orientation ignored.

    libjpeg-turbo decodes directly. CMYK, other formats, and what it refuses or warns about (stray bytes) go to Pillow,
    because Pillow decides what the references train on: it tolerates stray bytes and refuses truncated files.

    Args:
        source: the file or its content.
        name: what errors call the image; by default the path.

    Returns:
        (H, W, 3) uint8, C-contiguous.

    Raises:
        UserError: the file cannot be read, is not an image, is truncated or corrupt, or has over `MAX_PIXELS` pixels.
    """
    name = name or (str(source) if isinstance(source, Path) else 'image')
    content = _read(source) if isinstance(source, Path) else source
    if content.startswith(_JPEG_MAGIC):
        try:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(content)
            _check_size(width, height, name)
            if colorspace in _FAST_COLORSPACES:
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace='RGB', strict=True)
                return pixels
        except ValueError:
            pass  # Pillow judges
    return _decode_with_pillow(content, name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}); is the image folder the right one?') from error


def _decode_with_pillow(content: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Between half of its limit and the limit Pillow only warns.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                _check_size(image.width, image.height, name)
                return np.array(image.convert('RGB'))
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(name)) from error
    except UnidentifiedImageError as error:
        raise _unreadable(name, 'unknown format' if content else 'empty file') from error
    # SyntaxError and ValueError: what Pillow's parsers of some formats raise for broken headers.
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(name, str(error).replace('\n', ' ')) from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(_too_large(name, f' ({width} x {height})'))


def _too_large(name: str, size: str = '') -> str:
    return f'{name}: its header states more than {MAX_PIXELS} pixels{size}; no photo of a dataset is that large'


def _unreadable(name: str, reason: str) -> UserError:
    return UserError(f'{name}: is not a readable image ({reason}); fetch the file again')
