"""Every line form and every oddity of real and made-up logs; the same events as the official parser."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlperf_logging.compliance_checker.mlp_parser import parse_file

from mlperf_det.mllog import reader as reader_module
from mlperf_det.mllog.events import Event, Form
from mlperf_det.mllog.reader import LONGEST_EVENT_BYTES, EventReader


def line(key: str, value: Any = None, time_ms: Any = 1_700_000_000_000, **metadata: Any) -> bytes:
    return b':::MLLOG ' + json.dumps({'namespace': '', 'time_ms': time_ms, 'event_type': 'POINT_IN_TIME', 'key': key,
                                      'value': value, 'metadata': metadata}).encode()


def read(content: bytes) -> tuple[list[Event], EventReader]:
    reader = EventReader(io.BytesIO(content))
    return list(reader), reader


def keys(content: bytes) -> list[str]:
    return [event.key for event in read(content)[0]]


def as_official(content: bytes, tmp_path: Path, ruleset: str = '5.1.0') -> list[tuple[Any, ...]]:
    path = tmp_path / 'log.txt'
    path.write_bytes(content)
    lines, _ = parse_file(str(path), ruleset=ruleset)
    return [(entry.key, entry.timestamp, entry.value['value'], entry.value['metadata']) for entry in lines]


def as_ours(content: bytes) -> list[tuple[Any, ...]]:
    return [(event.key, float(event.time_ms), event.value, event.metadata) for event in read(content)[0]]


ODD = {
    'rank prefix': b' 0: ' + line('seed', 1) + b'\n12: ' + line('seed', 2) + b'\n',
    'progress bar before the token': b'10%|##  |\r 20%|### |' + line('eval_start', 1, epoch_num=3) + b'\n',
    'CR LF': line('a') + b'\r\n' + line('b') + b'\r\n',
    'bare CR between events': line('a') + b'\r' + line('b') + b'\n',
    'two events on one line': line('a') + line('b') + b'\n',
    'truncated, then whole': line('a')[:40] + line('b') + b'\n',
    'truncated': line('a') + b'\n' + line('b')[:50] + b'\n' + line('c') + b'\n',
    'no newline at the end': line('a') + b'\n' + line('b'),
    'escape sequences': b'\x1b[I^[[A' + line('a') + b'\n\x1b[0m\n',
    'not UTF-8 before the token': b'\xff\xfe\x80' + line('a') + b'\n',
    'float time': line('a', time_ms=1700000000000.5) + b'\n',
    'string time': line('a', time_ms='1700000000000') + b'\n',
    'not a number': line('a', float('nan')) + b'\n' + line('b', float('-inf')) + b'\n',
    'big number': line('a', 10**30) + b'\n',
    'token inside noise': b'see :::MLLOG for details\n:::MLLOG\n' + line('a') + b'\n',
    'nothing': b'',
    'noise only': b'x' * 100_000,
}


@pytest.mark.parametrize('name', ODD)
def test_the_same_events_as_the_official_parser(name: str, tmp_path: Path) -> None:
    assert repr(as_ours(ODD[name])) == repr(as_official(ODD[name], tmp_path))


@pytest.mark.parametrize(('name', 'forgiven'), [
    ('two events on one line', 'several events on one line'), ('truncated', 'truncated or invalid JSON'),
    ('string time', 'time_ms is a string')])
def test_it_says_what_it_forgave_and_where(name: str, forgiven: str) -> None:
    _, reader = read(b'noise\n' + ODD[name])
    noted = reader.forgiven.lines()
    assert len(noted) == 1
    assert forgiven in noted[0]
    assert f'line {3 if name == "truncated" else 2}' in noted[0]


@pytest.mark.parametrize('name', ['rank prefix', 'CR LF', 'bare CR between events', 'progress bar before the token'])
def test_usual_oddities_need_no_forgiveness(name: str) -> None:
    assert read(ODD[name])[1].forgiven.lines() == ()


@pytest.mark.parametrize(('content', 'expected', 'forgiven'), [
    (line('a') + b' trailing words\n', ['a'], 'text after the event'),
    (line('a').replace(b'"value": null', b'"value"\x00: null') + b'\n', ['a'], 'NUL bytes'),
    (line('a', 'x').replace(b'"x"', b'"\xe9"') + b'\n', ['a'], 'not UTF-8'),
    (b':::MLLOG ' + b'[' * 200_000 + b'\n' + line('a') + b'\n', ['a'], 'ignored'),
    (b':::MLLOG {"key": 1, "time_ms": 1, "value": 1, "metadata": {}}\n', [], 'not an event'),
    (b':::MLLOG {"key": "a", "time_ms": NaN, "value": 1, "metadata": {}}\n', [], 'not an event'),
    (b':::MLLOG {"key": "a", "time_ms": 1, "value": 1, "metadata": [1]}\n', ['a'], 'metadata is not an object'),
    (b':::MLLOG 17\n:::MLL 1.0\n:::MLPv0.5.0 ssd\n', [], 'not an event'),
])
def test_more_is_read_than_the_official_parser_can(content: bytes, expected: list[str], forgiven: str) -> None:
    events, reader = read(content)
    assert [event.key for event in events] == expected
    assert any(forgiven in noted for noted in reader.forgiven.lines()), reader.forgiven.lines()


def test_missing_envelope_fields_are_no_fault() -> None:
    events, reader = read(b':::MLLOG {"metadata": {}, "time_ms": 132, "key": "submission_org", "value": "S"}\n')
    assert (events[0].value, events[0].event_type, reader.forgiven.lines()) == ('S', '', ())


def test_form_of_v06_with_seconds() -> None:
    content = (b':::MLL 1558510620.7927368 cache_clear: {"value": null, "metadata": {"lineno": 0, "file": "N/A"}}\n'
               b':::MLL 1558514858.542 eval_accuracy: {"value": [0.378, 0.342], "metadata": {"epoch_num": 14}}')
    events, reader = read(content)
    assert [event.time_ms for event in events] == pytest.approx([1558510620792.7368, 1558514858542.0])
    assert (events[1].value, events[1].meta('epoch_num'), events[1].line) == ([0.378, 0.342], 14, 2)
    assert reader.forms == {Form.V06}


def test_form_of_v05() -> None:
    content = (b':::MLPv0.5.0 ssd 1541710832.187837362 (train.py:371) run_start\n'
               b':::MLPv0.5.0 ssd 1541711222.7 (train.py:333) eval_accuracy: {"epoch": 54, "value": 0.2124}\n'
               b':::MLPv0.5.0 ssd 1541711223.7 (ssd_main.py:1) opt_name: SGD (plain)\n')
    events, reader = read(content)
    assert [event.key for event in events] == ['run_start', 'eval_accuracy', 'opt_name']
    assert events[1].value == {'epoch': 54, 'value': 0.2124}
    assert (events[0].value, events[0].meta('benchmark'), events[2].value) == (None, 'ssd', 'SGD (plain)')
    assert reader.forms == {Form.V05}


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 400), seed=st.integers(0, 10_000))
def test_chunk_borders_change_nothing(size: int, seed: int) -> None:
    names = sorted(ODD)
    content = b''.join(ODD[names[(seed + 7 * number) % len(names)]][:20_000] + b'\n' for number in range(4))

    class Slow(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            return super().read(size)

    whole, slow = EventReader(io.BytesIO(content)), EventReader(Slow(content))
    assert repr(list(slow)) == repr(list(whole))
    assert slow.forgiven == whole.forgiven


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([line('run_start'), line('b', {'x': [1]}), b':::MLLOG ', b':::MLL ', b':::ML', b'\n',
                                 b'\r', b'{', b'}', b'"', b'\x00', b'\xff', b':::MLPv0.5.0 ssd 1.0 (a:1) k', b'NaN']),
                max_size=30).map(b''.join))
def test_arbitrary_pieces_never_raise(content: bytes) -> None:
    for event in read(content)[0]:
        assert isinstance(event.key, str)
        assert isinstance(event.time_ms, (int, float))


class Endless(io.RawIOBase):
    """A stream of ``total`` bytes that exist one chunk at a time."""

    def __init__(self, head: bytes, filler: bytes, total: int, tail: bytes) -> None:
        self._head, self._chunk, self._left, self._tail = head, filler, total, tail

    def read(self, count: int = -1, /) -> bytes:
        if self._head:
            head, self._head = self._head, b''
            return head
        if self._left > 0:
            self._left -= len(self._chunk)
            return self._chunk
        tail, self._tail = self._tail, b''
        return tail


MEGABYTE = b'x' * (1 << 20)


@pytest.mark.parametrize(('name', 'stream', 'expected'), [
    ('one line of 1 GB of noise', lambda: Endless(b'', MEGABYTE, 1 << 30, line('z')), ['z']),
    ('an event of 1 GB', lambda: Endless(line('a')[:-2], MEGABYTE, 1 << 30, b'\n' + line('z')), ['z']),
    ('2 GB of lines', lambda: Endless(line('a') + b'\n', (b'y' * 1023 + b'\n') * 1024, 2 << 30, line('z')), ['a', 'z']),
    ('carriage returns', lambda: Endless(line('a'), b'\r' + MEGABYTE[1:], 1 << 28, b'\r' + line('z')), ['a', 'z']),
])
def test_memory_is_bounded(name: str, stream: Any, expected: list[str]) -> None:
    tracemalloc.start()
    try:
        assert [event.key for event in EventReader(stream())] == expected, name
        assert tracemalloc.get_traced_memory()[1] < 6 * LONGEST_EVENT_BYTES
    finally:
        tracemalloc.stop()


def test_a_failing_disk_ends_the_log_and_is_told() -> None:
    class Broken(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise OSError('input/output error')
            return super().read(len(line('a')) + 1)

    reader = EventReader(Broken(line('a') + b'\n' + line('b') + b'\n'))
    assert [event.key for event in reader] == ['a']
    assert 'input/output error' in reader.forgiven.lines()[0]


def test_a_log_of_events_alone_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b''.join(line(f'k{number}', number) + b'\n' for number in range(5))
    monkeypatch.setattr(reader_module.EventReader, '_events', lambda *_: pytest.fail('line by line'))
    events, _ = read(content)
    assert [(event.key, event.line) for event in events] == [(f'k{number}', number + 1) for number in range(5)]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([
    line('a'), line('b', {'x': [1]}), line('c', 'with :::MLLOG {} in it'), line('d')[:-9], line('d')[-9:], b'noise',
    b':::MLLOG ', b'', line('e') + b'\r', line('f') + b'\r' + line('g'), b' ' + line('h'), line('i') + line('j'),
    b':::MLL 1.5 k: {"value": 1}']), max_size=8), st.booleans())
def test_all_at_once_or_line_by_line_makes_no_difference(lines: list[bytes], ended: bool) -> None:
    content = b'\n'.join(lines) + b'\n' * ended
    whole = EventReader(io.BytesIO(content))
    noisy = EventReader(io.BytesIO(b'noise\n' + content))    # never all events
    assert [(event.key, event.time_ms, event.value, event.metadata, event.line + 1) for event in whole] == [
        (event.key, event.time_ms, event.value, event.metadata, event.line) for event in noisy]
    assert (whole.forgiven.counts, whole.forms) == (noisy.forgiven.counts, noisy.forms)


@pytest.mark.parametrize('time_ms', [10**19, -10**400, 1e300])
@pytest.mark.parametrize('after', [b'\n', b' and more\n'])
def test_a_time_beyond_all_times_is_none(time_ms: float, after: bytes) -> None:
    assert keys(line('a') + b'\n' + line('b', time_ms=time_ms) + after + line('c') + b'\n') == ['a', 'c']


def test_the_fast_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound lines must not go through the slow path: the speed of the reader rests on it."""
    monkeypatch.setattr(reader_module.EventReader, '_difficult', lambda *_: pytest.fail('slow path'))
    assert keys(b' 3: ' + line('a', {'BBOX': 0.3}) + b'\r\n') == ['a']
