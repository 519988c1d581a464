"""Mapping over a pool of workers with a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


def bounded_map(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
                ) -> Iterator[Result]:
    """Yield the results in order, with at most ``ahead`` calls under way.

    So memory stays bounded, and an interrupt waits for these calls alone; ``pool.map`` queues all of them at once.
    """
    remaining = iter(items)
    pending = deque(pool.submit(function, item) for item in islice(remaining, ahead))
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
