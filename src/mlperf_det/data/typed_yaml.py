"""Reading a YAML file into dataclasses, with errors that name the file, the field and the nearest valid name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.yaml_files import did_you_mean, read_yaml

T = TypeVar('T')


def load_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UserError: it cannot be read, is not YAML, or is something else than a mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f'{path}: must be a mapping of field names to values')
    return content


def convert(content: Mapping[str, Any], cls: type[T], path: Path) -> T:
    """Return the content of ``path`` as a dataclass; every key must be a field.

    Raises:
        UserError: an unknown or missing field, or a value of a wrong type.
    """
    _check_fields(content, cls, str(path))
    return _convert(content, cls, str(path))


def _check_fields(value: Any, expected: Any, where: str) -> None:
    """Walk a value beside its type, through mappings and tuples, down to the dataclasses."""
    if is_dataclass(expected) and isinstance(value, Mapping):
        known = [field.name for field in fields(expected)]
        hints = get_type_hints(expected)
        for key, inner in value.items():
            if key not in known:
                raise UserError(f'{where}: unknown field {key!r}; {did_you_mean(str(key), known)}')
            _check_fields(inner, hints[key], f'{where}: {key}')
    elif isinstance(value, Mapping) and len(get_args(expected)) == 2:
        inner_type = get_args(expected)[1]
        for key, inner in value.items():
            _check_fields(inner, inner_type, f'{where}.{key}')
            _convert(inner, inner_type, f'{where}.{key}')  # here, because msgspec's own errors hide a mapping's keys
    elif isinstance(value, list) and get_origin(expected) is tuple:
        for index, inner in enumerate(value):
            _check_fields(inner, get_args(expected)[0], f'{where}[{index}]')


def _convert(value: Any, cls: type[T], where: str) -> T:
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as error:
        raise UserError(f'{where}: {str(error).replace("$.", "")}') from error
