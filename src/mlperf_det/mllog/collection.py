"""All logs below some paths, read once, with the files beside them that later stations need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from mlperf_det.mllog.reader import EventReader
from mlperf_det.mllog.sources import DAMAGED, SourceFile, find, natural_key
from mlperf_det.mllog.summary import LogSummary, summarize
from mlperf_det.mllog.systems import SystemDescription, parse_system

#: a companion larger than this is not what its name says; metrics.jsonl takes a few hundred bytes a line
LARGEST_COMPANION_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log that was found: its facts, or the reason why there are none."""

    path: PurePath
    summary: LogSummary | None
    problem: str = ''


@dataclass
class Collection:
    """Logs in natural order of their paths, and the companions: their contents, or None for those still on disk."""

    logs: list[Log] = field(default_factory=list)
    companions: dict[PurePath, bytes | None] = field(default_factory=dict)
    _systems: dict[PurePath, SystemDescription | None] = field(default_factory=dict)

    def system(self, log: Log) -> SystemDescription | None:
        """Return the description of the part of a system that made a log.

        Looks for ``system.json`` beside or above the log and, as in the published repositories,
        ``<submitter>/systems/<system>.json`` for ``<submitter>/results/<system>/<benchmark>/result_0.txt``.
        """
        folder = log.path.parent
        system = folder.parent
        for place in (folder / 'system.json', system / 'system.json',
                      system.parent.parent / 'systems' / f'{system.name}.json'):
            if place not in self._systems:
                content = self.content(place)
                self._systems[place] = None if content is None else parse_system(content)
            if found := self._systems[place]:
                return found.used_by(log.summary.init_starts if log.summary else 0)
        return None

    def scaling_factor(self, folder: PurePath) -> float:
        """Return the factor of ``scaling.json`` in the folder of a group; 1 without one or with a broken one."""
        content = self.content(folder / 'scaling.json')
        try:
            factor = json.loads(content)['scaling_factor'] if content is not None else 1.0
        except (ValueError, KeyError, TypeError, RecursionError):
            return 1.0
        return float(factor) if isinstance(factor, (int, float)) and 0 < factor < float('inf') else 1.0

    def content(self, path: PurePath) -> bytes | None:
        """Return the content of a companion, found or on disk; None where there is none that can be read."""
        content = self.companions.get(path)
        if content is not None or not isinstance(path, Path) or not path.is_file():
            return content
        try:
            with path.open('rb') as stream:
                content = stream.read(LARGEST_COMPANION_BYTES + 1)
        except OSError:
            return None
        return content if len(content) <= LARGEST_COMPANION_BYTES else None


def collect(paths: Iterable[Path], skip: Callable[[Path], bool] = lambda folder: False) -> Collection:
    """Read all logs below ``paths``; a log that cannot be read is in the result with its problem.

    Args:
        paths: logs, folders, archives, ReFrame sessions; see `sources.find`.
        skip: says of a folder below them that it is of no interest.

    Raises:
        UserError: a path does not exist, or is compressed in a way that nothing here can read.
    """
    collection = Collection()
    for source in find(paths, skip):
        if not source.is_log:
            _read_companion(collection, source)
            continue
        collection.logs.append(_read_log(source))
    collection.logs.sort(key=lambda log: [natural_key(part) for part in log.path.parts])
    return collection


def _read_log(source: SourceFile) -> Log:
    if source.problem:
        return Log(path=source.path, summary=None, problem=source.problem)
    try:
        with source.open() as stream:
            return Log(path=source.path, summary=summarize(EventReader(stream), source.path))
    except DAMAGED as error:
        return Log(path=source.path, summary=None, problem=f'cannot be read ({error})')


def _read_companion(collection: Collection, source: SourceFile) -> None:
    if source.on_disk:
        # Read when it is asked for: thousands of metrics.jsonl would fill the memory.
        collection.companions[source.path] = None
        return
    try:
        with source.open() as stream:
            content = stream.read(LARGEST_COMPANION_BYTES + 1)
    except DAMAGED:
        return
    if len(content) <= LARGEST_COMPANION_BYTES:
        collection.companions[source.path] = content
