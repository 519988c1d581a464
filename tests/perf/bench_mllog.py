"""Parsing MLPerf logs: ours against mlperf-logging's own parser, event for event."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlperf_logging.compliance_checker.mlp_parser import parse_file

from mlperf_det.mllog.events import Event
from mlperf_det.mllog.reader import read_events
from tests.perf.case import Case

MEBIBYTES = 24


def write_log(share: float) -> Path:
    """Write a log of a detection run in which about ``share`` of the lines are events, and return its path."""
    dice = random.Random(1)
    folder = tempfile.mkdtemp(prefix='bench_mllog_')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / 'result_0.txt'
    size, number = 0, 0
    with path.open('w') as stream:
        while size < MEBIBYTES << 20:
            number += 1
            if dice.random() < share:
                event = {'namespace': '', 'time_ms': 1_700_000_000_000 + number, 'event_type': 'POINT_IN_TIME',
                         'key': 'tracked_stats', 'value': {'throughput': dice.random() * 4000, 'loss': dice.random()},
                         'metadata': {'file': '/workspace/ssd/engine.py', 'lineno': 334, 'step': number}}
                line = f'{number % 64}: :::MLLOG {json.dumps(event)}\n'
            else:
                line = f'{number % 64}: iteration {number}, loss {dice.random():.6f}, ' + 'x' * 200 + '\n'
            size += stream.write(line)
    return path


def equal(peer: Any, ours: list[Event]) -> None:
    """Require the same keys, times, values and metadata in the same order."""
    lines, errors = peer
    assert not errors
    assert len(lines) == len(ours)
    for line, event in zip(lines, ours, strict=True):
        assert (line.key, line.timestamp, line.value['value'], line.value['metadata']) == (
            event.key, event.time_ms, event.value, event.metadata)


def cases() -> list[Case]:
    """Return the comparisons: a usual mix of events and other output, and a log of events only."""
    found: list[Case] = []
    for name, share in (('30 % events', 0.3), ('events only', 1.0)):
        path = write_log(share)
        peer: Callable[[], Any] = partial(parse_file, str(path), ruleset='5.1.0')
        found.append(Case(name=f'parse a log of {MEBIBYTES} MiB, {name}', peer=peer, ours=partial(read_events, path),
                          equal=equal, target=10.0, note='peer: mlperf-logging; the same events'))
    return found
