"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CHECKOUT = Path(__file__).resolve().parents[1]

# How long an example takes depends on what else the machine does; it is no reason to fail.
settings.register_profile('unhurried', settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('unhurried')


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real sample data beside the checkout; the test is skipped where it is absent."""
    folder = CHECKOUT.parent / 'shared' / 'data'
    if not folder.is_dir():
        pytest.skip(f'real sample data is not at {folder}')
    return folder
