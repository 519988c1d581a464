"""Errors of users as the errors with which ReFrame ends a case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reframe.core.exceptions import ReframeError

from mlperf_det.errors import UserError


@contextmanager
def user_errors(kind: type[ReframeError] = ReframeError) -> Iterator[None]:
    """Turn a `UserError` into an error that ReFrame reports as the reason of the case."""
    try:
        yield
    except UserError as error:
        raise kind(str(error)) from None
