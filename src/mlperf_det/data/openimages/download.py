"""Downloading an Open Images subset: the published lists, then exactly the images that the subset has."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mlperf_det.data.cards import OpenImagesCard, OpenImagesSplit, SourceFile
from mlperf_det.data.download import DOWNLOADS
from mlperf_det.data.fetch import DEFAULT_RETRIES, Retries, fetch, require_space
from mlperf_det.data.image_fetch import FetchFailedError, ImageFetcher, NotOfferedError
from mlperf_det.data.layout import file_hash
from mlperf_det.data.openimages.boxes import read_subset
from mlperf_det.data.progress import Progress
from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically
from mlperf_det.yaml_files import did_you_mean

#: SHA-256 of published files that have no published checksum, as the first download found them
DIGESTS = 'sha256.json'
#: The mean over the MLPerf subset (374.6 GB, 1,195,093 files): what is reserved before a download starts.
_MEAN_IMAGE_BYTES = 309_000
_LISTED = 3
#: how long an interrupt may go unnoticed
_JOIN_SECONDS = 0.2
#: An image is written within a moment, so what is older was left by a download that was killed.
_LEFTOVER_SECONDS = 3600.0
#: After so many it is the wrong source, and asking on would only be a burden to it.
_MOST_NOT_OFFERED = 100


def download_openimages(
    card: OpenImagesCard, root: Path, *, splits: Sequence[str] = (), files: Sequence[str] = (),
    mirror: str | None = None, connections: int = 16, report: Callable[[str], None] = lambda _: None,
    retries: Retries = DEFAULT_RETRIES,
) -> None:
    """Fetch the published files of the splits and the images of the subset; what is there already stays.

    Args:
        card: the subset.
        root: folder of the dataset.
        splits: splits to fetch; empty: all.
        files: published files to fetch instead, by their paths in the dataset.
        mirror: http, https or file address of a folder laid out like the dataset, instead of the publisher.
        connections: images fetched at a time.
        report: receives a line about each file.
        retries: how often to try again after failures that may pass.

    Raises:
        UserError: an unknown split or file, a failed download, wrong content, or too small a disk.
    """
    for name in splits:
        card.split(name)
    wanted = {name: card.splits[name] for name in splits or card.splits}
    sources = [source for split in wanted.values() for source in split.sources]
    if files:
        known = {source.path: source for split in card.splits.values() for source in split.sources}
        for name in files:
            if name not in known:
                raise UserError(f'{card.name}: has no file {name!r}; {did_you_mean(name, list(known))}')
        sources = [known[name] for name in files]
    if not sources and mirror is None:
        raise UserError(f'{card.name}: its card names no files to download; it was made on this machine')
    for source in sources:
        _fetch_source(source, root, mirror, retries, report)
    if not files:
        for name, split in wanted.items():
            _fetch_images(card, name, split, root, mirror, connections, retries, report)


def _fetch_source(source: SourceFile, root: Path, mirror: str | None, retries: Retries,
                  report: Callable[[str], None]) -> None:
    recorded = _recorded(root)
    expected = source.sha256 or recorded.get(source.path)

    def check(path: Path) -> str | None:
        size = path.stat().st_size
        if source.bytes not in (None, size):
            return f'the file has {size:,} bytes, its card states {source.bytes:,}'
        found = file_hash(path, 'sha256')
        if expected is not None and found != expected:
            return f'the sha256 is {found}, {"its card" if source.sha256 else DIGESTS} states {expected}'
        return None

    url = source.url if mirror is None else f'{mirror.rstrip("/")}/{source.path}'
    fetched = fetch(url, root / source.path, check=check, size=source.bytes, retries=retries)
    state = 'fetched' if fetched else 'present'
    if expected is not None:
        report(f'{source.path}: {state}, sha256 as {"its card states" if source.sha256 else "recorded"}')
        return
    found = file_hash(root / source.path, 'sha256')
    path = root / DOWNLOADS / DIGESTS
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode({**recorded, source.path: found}), indent=2))
    report(f'{source.path}: {state}, size as its card states; nobody published its checksum, so sha256 {found} was '
           f'recorded in {DOWNLOADS}/{DIGESTS}')


def _recorded(root: Path) -> dict[str, str]:
    path = root / DOWNLOADS / DIGESTS
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f'{path}: cannot be read ({error}); delete it to record the checksums anew') from error


@dataclass
class _Outcome:
    """What the connections report to each other."""

    names: queue.SimpleQueue[str]
    not_offered: list[str] = field(default_factory=list)
    failure: Exception | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _fetch_images(card: OpenImagesCard, name: str, split: OpenImagesSplit, root: Path, mirror: str | None,
                  connections: int, retries: Retries, report: Callable[[str], None]) -> None:
    folder = root / split.images
    folder.mkdir(parents=True, exist_ok=True)
    # Files get their names when they are complete, so a name is enough to know what is there.
    present = {entry.name for entry in os.scandir(folder)}
    _remove_leftovers(folder, present)
    names = [f'{image_id}.jpg' for image_id in read_subset(card, split, root).image_ids]
    missing = [image for image in names if image not in present]
    report(f'{name}: {len(names):,} images, {len(names) - len(missing):,} present, {len(missing):,} to fetch')
    base = split.image_url if mirror is None else f'{mirror.rstrip("/")}/{split.images}'
    if not missing:
        return
    if not base:
        raise UserError(f'{card.name}: its card does not say where images of {name} are; name a --mirror')
    require_space(folder, len(missing) * _MEAN_IMAGE_BYTES if mirror is None else 0, f'for the images of {name}')
    outcome = _Outcome(names=queue.SimpleQueue())
    for image in missing:
        outcome.names.put(image)
    with Progress(f'{name}: images', len(missing), 'images') as progress:
        _work(outcome, base, folder, min(connections, len(missing)), retries, progress)
    if outcome.failure is not None:
        raise UserError(f'{outcome.failure}; {outcome.names.qsize():,} images are left. Run the same command again to '
                        'continue, or name another source with --mirror') from outcome.failure
    if outcome.not_offered:
        shown = ', '.join(sorted(outcome.not_offered)[:_LISTED])
        more = ' or more' if len(outcome.not_offered) > _MOST_NOT_OFFERED else ''
        raise UserError(f'{base}: lacks {len(outcome.not_offered):,}{more} of {len(missing):,} images ({shown}'
                        f'{", ..." if len(outcome.not_offered) > _LISTED else ""}), or has them damaged; fetch them '
                        'with --mirror from another source')


def _remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    for path in (folder / name for name in names if name.startswith('.') and name.endswith('.part')):
        with suppress(FileNotFoundError):  # another download has finished it
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()


def _work(outcome: _Outcome, base: str, folder: Path, connections: int, retries: Retries, progress: Progress) -> None:
    """Fetch on so many connections until nothing is left or one fails for good."""
    threads = [threading.Thread(target=_fetch_until_empty, args=(outcome, base, folder, retries, progress), daemon=True)
               for _ in range(connections)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            # Polars restarts system calls that a signal interrupts, so a join without a limit would not see it.
            while thread.is_alive():
                thread.join(_JOIN_SECONDS)
    finally:
        outcome.stop.set()  # an interrupt: the connections end after the image that each is at


def _fetch_until_empty(outcome: _Outcome, base: str, folder: Path, retries: Retries, progress: Progress) -> None:
    with ImageFetcher(base, retries, outcome.stop) as fetcher:
        while not outcome.stop.is_set():
            try:
                name = outcome.names.get_nowait()
            except queue.Empty:
                return
            try:
                _write_image(folder / name, fetcher.fetch(name))
            except NotOfferedError:
                with outcome.lock:
                    outcome.not_offered.append(name)
                    if len(outcome.not_offered) > _MOST_NOT_OFFERED:
                        outcome.stop.set()
            except (FetchFailedError, OSError) as error:
                outcome.failure = outcome.failure or error
                outcome.names.put(name)
                outcome.stop.set()
                return
            with outcome.lock:
                progress.advance(1)


def _write_image(path: Path, content: bytes) -> None:
    """Write an image, complete or not at all."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
