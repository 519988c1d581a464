"""Where the dataset cards, site folders and checks lie: in a checkout or inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def share_path(name: str) -> Path:
    """Return the folder ``datasets``, ``systems`` or ``checks`` of this installation.

    A checkout (editable install) uses its own folders, so that edits count at once; a wheel carries copies.
    """
    checkout = _PACKAGE.parents[1] / name
    if (_PACKAGE.parents[1] / 'pyproject.toml').is_file() and checkout.is_dir():
        return checkout
    return _PACKAGE / '_share' / name
