"""YAML files that people write, read strictly: every mistake is named with its file, its field and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mlperf_det.errors import UserError

#: a larger file is not what its name says; it is refused before it takes minutes and gigabytes
_LARGEST_BYTES = 2 << 20


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that occurs twice is an error: the second value would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for name, _ in node.value:
            key = self.construct_object(name, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f'{key!r} occurs twice', name.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, fix: str = '') -> Any:
    """Return the content of a YAML file.

    Args:
        path: of the file.
        fix: what to do where it cannot be read.

    Raises:
        UserError: the file cannot be read, is no YAML, or a key occurs twice in it.
    """
    advice = fix and f'; {fix}'
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UserError(f'{path}: is larger than {_LARGEST_BYTES >> 20} MiB{advice}')
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}){advice}') from error
    return parse_yaml(content, path)


def parse_yaml(content: bytes | str, path: Path) -> Any:
    """Return what YAML text says; raises `UserError` as `read_yaml` does, naming ``path``."""
    try:
        return yaml.load(content, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f'{path}: not YAML: {" ".join(str(error).split())}') from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return advice after a name that is not known: the nearest one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f'did you mean {close[0]!r}?' if close else f'choose from {", ".join(names)}'


def check_known(key: object, known: Iterable[str], what: str, where: str) -> None:
    """Raise `UserError` for a key that is not known, and name the nearest one."""
    names = list(known)
    if key not in names:
        fail(where, f'{key!r} is not a {what}; {did_you_mean(str(key), names)}')


def as_mapping(value: Any, where: str) -> dict[Any, Any]:
    """Return the value, which must be a mapping."""
    if not isinstance(value, dict):
        fail(where, f'must be a mapping, is {type(value).__name__}')
    return value


def fail(where: str, problem: str) -> NoReturn:
    """Raise `UserError` that names file and field."""
    raise UserError(f'{where}: {problem}')
