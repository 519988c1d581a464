"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real sample data beside the checkout; the test is skipped where it is absent."""
    folder = CHECKOUT.parent / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'real sample data is not at {folder}')
    return folder
