"""Repairing exports whose categories count from 1 (FiftyOne since 1.2): MLPerf's count from 0, as the logits do."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from mlperf_det.data.annotations import decode_file

_PIECE_BYTES = 64 << 20
# Inside a JSON string both quotes would be escaped, so these match keys only.
_CATEGORY_ID = re.compile(rb'("category_id"\s*:\s*)(\d+)')
_ID = re.compile(rb'("id"\s*:\s*)(\d+)')
_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')


class _Category(msgspec.Struct):
    id: int
    name: str


class _Categories(msgspec.Struct):
    categories: list[_Category]


def category_list(path: Path) -> list[tuple[int, str]]:
    """Return id and name of the categories of an annotation file, without reading the rest into memory.

    Raises:
        UserError: the file cannot be read, is not JSON or has no categories.
    """
    document = decode_file(path, msgspec.json.Decoder(_Categories))
    return [(category.id, category.name) for category in document.categories]


def counts_from_one(ids: Sequence[int]) -> bool:
    """Say whether category ids are 1, 2, 3, ..."""
    return len(ids) > 0 and list(ids) == list(range(1, len(ids) + 1))


def renumber(path: Path) -> None:
    """Lower all category ids of an annotation file by one; nothing else of it changes.

    The file is replaced when the new one is complete.

    Raises:
        OSError: it cannot be read or written.
    """
    temporary = path.with_name(f'.{path.name}.part')
    try:
        with (path.open('rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text,
              temporary.open('wb') as target):
            begin, end = _categories_span(text)
            _copy(text, 0, begin, target)
            target.write(_ID.sub(_lowered, text[begin:end]))
            _copy(text, end, len(text), target)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _categories_span(text: mmap.mmap) -> tuple[int, int]:
    """Return where the list of categories begins and ends."""
    found = _CATEGORIES.search(text)
    assert found is not None  # category_list() has read it
    # Of any dataset the list is far shorter than this.
    begin, piece = found.end(), text[found.end():found.end() + _PIECE_BYTES].decode(errors='ignore')
    _, length = json.JSONDecoder().raw_decode(piece)
    return begin, begin + len(piece[:length].encode())


def _copy(text: mmap.mmap, begin: int, end: int, target: IO[bytes]) -> None:
    """Copy a part of the file with its category ids lowered; pieces end at a closing brace, so none is cut."""
    while begin < end:
        stop = min(begin + _PIECE_BYTES, end)
        if stop < end:
            stop = text.find(b'}', stop, end) + 1 or end
        target.write(_CATEGORY_ID.sub(_lowered, text[begin:stop]))
        begin = stop


def _lowered(found: re.Match[bytes]) -> bytes:
    return found[1] + str(int(found[2]) - 1).encode()
