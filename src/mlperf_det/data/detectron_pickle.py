"""Reading Detectron's pickled weights without running any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlperf_det.errors import UserError


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, through which Python 3 writes bytes in old pickle protocols."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'encodes bytes as {encoding}')
    return text.encode('latin1')


def _numpy_globals() -> dict[tuple[str, str], Any]:
    """Return what numpy's own pickles call, under the module names of old and new numpy."""
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    modules = ('numpy.core.multiarray', 'numpy._core.multiarray')
    return {('numpy', 'ndarray'): np.ndarray, ('numpy', 'dtype'): np.dtype, ('_codecs', 'encode'): _encode_latin1,
            **{(module, '_reconstruct'): reconstruct for module in modules},
            **{(module, 'scalar'): scalar for module in modules}}


_ALLOWED: Mapping[tuple[str, str], Any] = MappingProxyType(_numpy_globals())


class _ArrayUnpickler(pickle.Unpickler):
    """Builds containers and numpy arrays; any other class or function is refused before it is even imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f'refers to {module}.{name}') from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f'refers to an external object ({pid!r})')


def read_detectron_pickle(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a Detectron weights file (written by Python 2) by name, as float32, in the file's order.

    Descends into ``blobs`` if there is one; momentum arrays are left out.

    Raises:
        UserError: the file is damaged, refers to anything but numpy arrays, or holds no arrays.
    """
    try:
        with path.open('rb') as stream:
            content = _ArrayUnpickler(stream, encoding='latin1').load()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    except pickle.UnpicklingError as error:
        raise UserError(f'{path}: is not a plain pickle of arrays ({error}); it was not loaded') from error
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        raise UserError(f'{path}: is damaged ({type(error).__name__}: {error})') from error
    if isinstance(content, dict) and isinstance(content.get('blobs'), dict):
        content = content['blobs']
    if not isinstance(content, dict):
        raise UserError(f'{path}: holds no mapping of names to arrays')
    arrays = {name: value for name, value in content.items()
              if isinstance(name, str) and not name.endswith('_momentum')}
    wrong = [name for name, value in arrays.items()
             if not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiu']
    if wrong or not arrays:
        raise UserError(f'{path}: {wrong[0] if wrong else "the mapping"} holds no numbers')
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in arrays.items()}
