"""The report's style sheet and script, which lie beside this file and go into the page."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


@functools.lru_cache(maxsize=1)
def style() -> str:
    """Return the style sheet."""
    return (_HERE / 'report.css').read_text(encoding='utf-8')


@functools.lru_cache(maxsize=1)
def script() -> str:
    """Return the script: conveniences on top of a page that is complete without it."""
    return (_HERE / 'report.js').read_text(encoding='utf-8')


def script_hash() -> str:
    """Return the script's hash as the page's security policy names it: this script may run and no other."""
    return 'sha256-' + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
