"""Read MLPerf logs of every round as a stream of events, in bounded memory, whatever else the file contains.

The meaning of a line is the official checker's (mlperf-logging): the token may stand anywhere in a line, the text
after the *last* token of a line counts, and carriage return ends a line as newline does. Where the official parser
gives up on a line, this one reads what can be read and says what it forgave.
"""

from __future__ import annotations

import ast
import codecs
import itertools
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from mlperf_det.mllog.events import LATEST_MS, Event, Forgiven, Form

CHUNK_BYTES = 1 << 20
#: An event of a detection benchmark takes a few hundred bytes; the longest published line has 3 KiB.
LONGEST_EVENT_BYTES = 4 << 20
#: Python's parser is for short texts: deeply nested ones exhaust it.
_LONGEST_LITERAL = 8 << 10

_TOKEN = b':::MLLOG '
#: what all forms begin with: ``:::MLPv0.5.0``, ``:::MLL`` and ``:::MLLOG``
_STEM = b':::ML'
_ANY_TOKEN = re.compile(rb':::(?:MLLOG|MLL|MLPv0\.5\.0)(?= )')
_V05 = re.compile(r'(\S+)\s+(\d+(?:\.\d+)?)\s+\((.*?)\)\s+([A-Za-z0-9_]+)\s*(?::\s*(.+))?$')
_V06 = re.compile(r'([\d.]+) ([A-Za-z0-9_]+) ?:\s+(.+)$')
#: how UTF-16 text of ASCII characters begins -> its codec
_UTF16 = ((re.compile(rb'\xff\xfe[^\x00]\x00'), 'utf-16-le'), (re.compile(rb'\xfe\xff\x00[^\x00]'), 'utf-16-be'))
_decode = msgspec.json.Decoder(Event).decode
_UNREADABLE = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, tarfile.TarError)


class EventReader:
    """Iterate over the events of one log; afterwards `forgiven` says what had to be forgiven.

    Args:
        stream: a binary stream; it is read once, in chunks.

    Attributes:
        forgiven: what was wrong with the file, by kind.
        forms: the line forms seen.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._line = 1
        self.forgiven = Forgiven()
        self.forms: set[Form] = set()

    def __iter__(self) -> Iterator[Event]:
        return itertools.chain.from_iterable(self._batches())

    def _batches(self) -> Iterator[list[Event]]:
        """Yield the events of each chunk."""
        carry = b''
        for chunk in self._chunks():
            data = carry + chunk if carry else chunk
            end = max(data.rfind(b'\n'), data.rfind(b'\r')) + 1
            yield self._all_sound(data, end) or self._events(data, end)
            carry = self._unfinished(data, end)
        if carry:
            yield self._events(carry, len(carry))

    def _chunks(self) -> Iterator[bytes]:
        """Yield the content piece by piece; UTF-16, in which Windows shells redirect output, as UTF-8."""
        first = b''
        while len(first) < 4 and (more := self._read()):
            first += more
        codec = next((codec for begin, codec in _UTF16 if begin.match(first)), None)
        if codec is None:
            yield first
            while chunk := self._read():
                yield chunk
            return
        self.forgiven.note('UTF-16 text', self._line)
        decode = codecs.getincrementaldecoder(codec)('replace').decode
        chunk = first
        while chunk:
            yield decode(chunk).encode('utf-8', 'replace')
            chunk = self._read()

    def _read(self) -> bytes:
        """Return the next chunk; a damaged archive ends the log where the damage begins."""
        try:
            return self._stream.read(CHUNK_BYTES)
        except _UNREADABLE as error:
            self.forgiven.note(f'the file cannot be read further ({error})', self._line)
            return b''

    def _unfinished(self, data: bytes, end: int) -> bytes:
        """Return what of the last, unfinished line must be kept; a line without end never fills the memory."""
        token = data.rfind(_STEM, end)
        if token < 0:
            return data[max(end, len(data) - len(_STEM) + 1):]
        if len(data) - token > LONGEST_EVENT_BYTES:
            self.forgiven.note(f'an event longer than {LONGEST_EVENT_BYTES >> 20} MiB ignored', self._line)
            return b''
        # The stem may be the broken end of a line whose real token came before; keep that one too.
        whole = data.rfind(_STEM, end, token)
        return data[max(whole, end) if whole >= 0 and len(data) - whole <= LONGEST_EVENT_BYTES else token:]

    def _events(self, data: bytes, end: int) -> list[Event]:
        """Return the events of the lines in ``data[:end]``."""
        events: list[Event] = []
        find = data.find
        count = data.count
        line = self._line
        counted = 0
        position = find(_STEM, 0, end)
        while position >= 0:
            stop = find(b'\n', position, end)
            if stop < 0:
                stop = end
            line += count(b'\n', counted, position)
            counted = position
            if data.startswith(_TOKEN, position):
                try:
                    event = _decode(data[position + 9:stop])
                except (msgspec.DecodeError, ValueError, RecursionError):
                    events += self._difficult(data[position:stop], line)
                else:
                    event.line = line
                    self.forms.add(Form.MLLOG)
                    events.append(event)
            else:
                events += self._difficult(data[position:stop], line)
            position = find(_STEM, stop, end)
        self._line = line + count(b'\n', counted, end)
        return events

    def _all_sound(self, data: bytes, end: int) -> list[Event]:
        """Return the events of ``data[:end]`` if each line is one sound ``:::MLLOG`` event, as in our own logs.

        That is quickly seen and quickly read. Nothing: some line is of another kind.
        """
        if not (data.startswith(_TOKEN) and data.endswith(b'\n', 0, end)):
            return []
        texts = data[len(_TOKEN):end].split(b'\n' + _TOKEN)
        if data.count(b'\n', 0, end) != len(texts):
            return []
        try:
            events = list(map(_decode, texts))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return []
        for number, event in enumerate(events, start=self._line):
            event.line = number
        self._line += len(texts)
        self.forms.add(Form.MLLOG)
        return events

    def _difficult(self, text: bytes, number: int) -> Iterator[Event]:
        """Yield the events of a line that is not simply one sound ``:::MLLOG`` event."""
        for part in text.split(b'\r'):
            tokens = list(_ANY_TOKEN.finditer(part))
            if not tokens:
                continue
            if len(tokens) > 1:
                self.forgiven.note('several events on one line, the last one counts', number)
            last = tokens[-1]
            event = self._event(Form(last.group().decode()), part[last.end():].strip(b' \t\x00'), number)
            if event is not None:
                yield event

    def _event(self, form: Form, body: bytes, number: int) -> Event | None:
        """Read the text after a token; None, and a note, where it is no event."""
        try:
            text = body.decode('utf-8')
        except UnicodeDecodeError:
            self.forgiven.note('an event that is not UTF-8, read as Latin-1', number)
            text = body.decode('latin-1')
        if '\x00' in text:
            self.forgiven.note('NUL bytes in an event removed', number)
            text = text.replace('\x00', '')
        try:
            event = _PARSERS[form](self, text, number)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            kind = 'truncated or invalid JSON' if isinstance(error, json.JSONDecodeError) else 'not an event'
            self.forgiven.note(f'line with a token ignored: {kind}', number)
            return None
        self.forms.add(form)
        return event

    def _mllog(self, text: str, number: int) -> Event:
        try:
            content, stop = json.JSONDecoder().raw_decode(text)
        except json.JSONDecodeError:
            content = self._literal(text, number)
            stop = len(text)
        if text[stop:].strip():
            self.forgiven.note('text after the event ignored', number)
        time_ms = content['time_ms']
        if isinstance(time_ms, str):
            self.forgiven.note('time_ms is a string', number)
        metadata = content.get('metadata')
        if metadata is not None and not isinstance(metadata, dict):
            self.forgiven.note('metadata is not an object', number)
            metadata = None
        if not isinstance(content['key'], str):
            raise TypeError('key is not a string')
        return Event(key=content['key'], time_ms=_time(time_ms), value=content.get('value'), metadata=metadata,
                     event_type=str(content.get('event_type') or ''), line=number)

    def _v06(self, text: str, number: int) -> Event:
        match = _V06.match(text)
        if match is None:
            raise ValueError('not a v0.6 line')
        try:
            content = json.loads(match[3])
        except json.JSONDecodeError:
            content = self._literal(match[3], number)
        return Event(key=match[2], time_ms=_time(match[1]) * 1000, value=content['value'],
                     metadata=content.get('metadata') or {}, line=number)

    def _v05(self, text: str, number: int) -> Event:
        match = _V05.match(text)
        if match is None:
            raise ValueError('not a v0.5 line')
        benchmark, seconds, _, key, text = match.groups()
        return Event(key=key, time_ms=_time(seconds) * 1000, value=_v05_value(text), line=number,
                     metadata={'benchmark': benchmark})

    def _literal(self, text: str, number: int) -> Any:
        """Read what a program printed instead of JSON: a Python literal (single quotes, None, True)."""
        content = _python_literal(text)
        if not isinstance(content, dict):
            raise json.JSONDecodeError('neither JSON nor a Python literal', text[:100], 0)
        self.forgiven.note('a Python literal instead of JSON', number)
        return content


_PARSERS = {Form.MLLOG: EventReader._mllog, Form.V06: EventReader._v06, Form.V05: EventReader._v05}


def _time(value: Any) -> float:
    """Return a time as a number; one that is not finite, or beyond all times, is none."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    if not -LATEST_MS <= number <= LATEST_MS:
        raise ValueError('no time')
    return number


def _v05_value(text: str | None) -> Any:
    """Return a v0.5 value: JSON where it is JSON, a Python literal where it is one, else the text itself."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        value = _python_literal(text)
        return text if value is None and text != 'None' else value


def _python_literal(text: str) -> Any:
    """Return the value of a short Python literal; None for other text."""
    if len(text) > _LONGEST_LITERAL:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def read_events(path: Path) -> list[Event]:
    """Return all events of an uncompressed log.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open('rb', buffering=0) as stream:
        return list(EventReader(stream))
