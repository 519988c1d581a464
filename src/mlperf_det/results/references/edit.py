"""Put references into the text of a references.yaml, leaving everything else of it as its author wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mlperf_det.results.references.table import Key, Reference, parse_references
from mlperf_det.yaml_files import fail, parse_yaml


def with_references(text: str, new: Mapping[Key, Reference], path: Path) -> str:
    """Return the text of a references file with entries added or replaced; comments and order stay.

    Args:
        text: of a valid references file, or empty.
        new: what to put into it.
        path: of the file, for messages.

    Raises:
        UserError: the text is no valid references file, or is written in braces where an entry is to go.
    """
    for key, reference in new.items():
        text = _with_one(text, key, reference, path)
    values = dict(parse_references(parse_yaml(text, path) or {}, path).items())
    assert all(values[key] == reference for key, reference in new.items())
    return text


def diff(old: str, new: str, path: Path) -> str:
    """Return a unified diff that ``patch`` can apply; empty where nothing changes."""
    return ''.join(difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True),
                                        f'{path}', f'{path} (proposed)'))


def _with_one(text: str, key: Key, reference: Reference, path: Path) -> str:
    names: Sequence[str] = [str(part) for part in key]
    lines = text.splitlines()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    column, start, end = 0, len(lines), len(lines)
    depth = 0
    while isinstance(node, yaml.MappingNode) and node.value:
        if node.flow_style:
            fail(f'{path}: {".".join(names[:depth])}', 'is written in braces; write it as indented lines first')
        column = node.start_mark.column
        found = next(((name, value) for name, value in node.value if name.value == names[depth]), None)
        if found is None:
            start = end = _end(lines, node.value[-1][1])
            break
        start, end, node = found[0].start_mark.line, _end(lines, found[1]), found[1]
        depth += 1
        if depth == len(names):
            depth -= 1    # the entry itself is there: its lines are replaced
            break
    rendered = _render(names[depth:], reference, column)
    return '\n'.join([*lines[:start], *rendered, *lines[end:]]) + '\n'


def _end(lines: Sequence[str], node: yaml.Node) -> int:
    """Return the line after a node, comments and blank lines behind it left out."""
    end: int = node.end_mark.line + (node.end_mark.column > 0 and not _is_block(node))
    while end > node.start_mark.line + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith('#')):
        end -= 1
    return end


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _render(names: Sequence[str], reference: Reference, column: int) -> list[str]:
    lines = [f'{" " * (column + 2 * depth)}{_scalar(name)}:' for depth, name in enumerate(names)]
    indent = ' ' * (column + 2 * len(names))
    return lines + [f'{indent}{name}: {_flow(value)}' for name, value in entry_fields(reference).items()]


def entry_fields(reference: Reference) -> dict[str, Any]:
    """Return a reference as plain values in the order in which files state them; what is empty is left out."""
    source = reference.source
    origin = {'kind': source.kind.value, 'round': source.round, 'submitter': source.submitter, 'system': source.system,
              'document': source.document, 'runs': list(source.runs), 'note': source.note}
    fields = {'value': reference.value, 'unit': reference.unit, 'direction': reference.direction.value,
              'n': reference.n, 'spread': reference.spread, 'tolerance': reference.tolerance or None,
              'date': reference.date, 'image': reference.image or None,
              'source': {name: value for name, value in origin.items() if value}}
    return {name: value for name, value in fields.items() if value is not None}


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return text.removesuffix('...\n').strip()


def _scalar(name: str) -> str:
    return name if name.isdigit() else _flow(name)
