"""evidence.zip: the logs and records that a report stands on, with checksums; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlperf_det.results.groups import Group
from mlperf_det.results.run import Run
from mlperf_det.run_folder import METRICS_JSONL, RUN_JSON

SUMS = 'SHA256SUMS'
MISSING = 'NOT-INCLUDED.txt'
#: The only time in the archive: ZIP knows none before. When the files were written is in the logs.
_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20


def write_evidence(path: Path, groups: Sequence[Group], beside: Mapping[str, bytes]) -> None:
    """Write the archive, streaming: memory stays small whatever the size of the logs.

    Args:
        path: of the archive; written under another name and renamed when whole.
        groups: whose logs, run.json, metrics.jsonl, scaling.json and system descriptions go in.
        beside: further files by name: the tables of the report, references, promises.
    """
    sources = dict(_sources(groups))
    missing = sorted(f'{run.log or run.source}: lies in an archive or is gone; hand over the archive as well'
                     for group in groups for run in group.runs if not _is_file(run.log))
    texts = dict(beside)
    if missing:
        texts[MISSING] = ('\n'.join(missing) + '\n').encode('utf-8', 'backslashreplace')
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        with zipfile.ZipFile(temporary, 'w') as archive:
            sums = {name: _add_file(archive, name, sources[name]) for name in sorted(sources)}
            for name in sorted(texts):
                sums[name] = _add_bytes(archive, name, texts[name])
            listed = ''.join(f'{digest}  {name}\n' for name, digest in sorted(sums.items()))
            _add_bytes(archive, SUMS, listed.encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sources(groups: Sequence[Group]) -> Iterator[tuple[str, Path]]:
    """Yield name in the archive and file of everything on disk that belongs to the groups."""
    for number, group in enumerate(groups):
        folder = f'runs/{number:03d}-{_slug(group.title)}'
        for index, run in enumerate(group.runs):
            if run.record is not None:
                inside = f'{folder}/{index:03d}-{_slug(run.source.name)}'
                names = [run.log.name if run.log else '', RUN_JSON, METRICS_JSONL]
                places = [(f'{inside}/{_slug(name)}', Path(run.source) / name) for name in names if name]
            else:
                places = _published_files(folder, run)
            yield from ((name, path) for name, path in places if _is_file(path))


def _published_files(folder: str, run: Run) -> list[tuple[str, Path]]:
    if not isinstance(run.log, Path):
        return []
    place, system = run.log.parent, run.log.parent.parent
    return [(f'{folder}/{_slug(run.log.name)}', run.log), (f'{folder}/scaling.json', place / 'scaling.json'),
            (f'{folder}/system.json', system / 'system.json'),
            (f'{folder}/system.json', system.parent.parent / 'systems' / f'{system.name}.json')]


def _is_file(path: object) -> bool:
    return isinstance(path, Path) and path.is_file()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    return entry


def _add_file(archive: zipfile.ZipFile, name: str, source: Path) -> str:
    digest = hashlib.sha256()
    with source.open('rb') as stream, archive.open(_entry(name), 'w', force_zip64=True) as target:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _add_bytes(archive: zipfile.ZipFile, name: str, content: bytes) -> str:
    archive.writestr(_entry(name), content)
    return hashlib.sha256(content).hexdigest()


def _slug(text: str) -> str:
    """Return a name that is one path component on every system."""
    return re.sub(r'[^A-Za-z0-9._-]+', '_', text).strip('.')[:80] or '_'
