"""What these tests need of the machine.

With CI=true a missing program is a failure; elsewhere the tests that need it are skipped, and say why.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require(*needs: str) -> None:
    """Fail in continuous integration, skip elsewhere, where this machine lacks a program or (with a slash) a file."""
    missing = [f'{need} is not installed' for need in needs
               if not (Path(need).exists() if '/' in need else shutil.which(need))]
    if os.geteuid() != 0:
        missing.append('namespaces need root')
    if not missing:
        return
    reason = f'{", ".join(missing)}; .ci/install installs what is needed'
    if os.environ.get('CI') == 'true':
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
