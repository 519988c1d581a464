from __future__ import annotations

import sys

import pytest

from mlperf_det.data import progress as module
from mlperf_det.data.progress import Progress


@pytest.fixture(autouse=True)
def _a_line_at_once(monkeypatch):
    monkeypatch.setattr(module, '_SECONDS_BETWEEN_LINES', 0.0)


def test_lines_in_a_log(capsys):
    with Progress('images', 4, 'images') as progress:
        progress.advance(1)
        progress.advance(3)
    assert progress.done == 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith('images: 1 of 4 images (25%), ')
    assert lines[1].startswith('images: 4 of 4 images (100%), ')


def test_unknown_total_and_lost_work(capsys):
    with Progress('a.zip', None) as progress:
        progress.advance(3_000_000)
        progress.advance(-3_000_000)
    assert progress.done == 0
    assert capsys.readouterr().err.startswith('a.zip: 3 MB, ')


@pytest.mark.parametrize('unit', ['bytes', 'images'])
def test_a_bar_on_a_terminal(monkeypatch, capsys, unit):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    with Progress('label', 10, unit) as progress:
        progress.advance(10)
    assert 'label' in capsys.readouterr().err


@pytest.mark.parametrize(('done', 'seconds', 'left'), [
    (25, 10.0, '30 s left'), (1, 10.0, '16 min left'), (1, 600.0, '16.5 h left'), (100, 10.0, '0 s left'),
    (0, 10.0, 'unknown time left')])
def test_the_time_left_is_that_of_the_rate_so_far(monkeypatch, capsys, done, seconds, left):
    now = 100.0
    monkeypatch.setattr(module.time, 'monotonic', lambda: now)
    progress = Progress('images', 100, 'images')
    now += seconds
    progress.advance(done)
    assert f', {left} at this rate' in capsys.readouterr().err
