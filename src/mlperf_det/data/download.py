"""Downloading the files of a dataset card and unpacking them into the dataset's layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from mlperf_det.data.archive import extract_zip
from mlperf_det.data.cards import Card, RemoteFile
from mlperf_det.data.fetch import DEFAULT_RETRIES, Retries, digest_check, fetch
from mlperf_det.errors import UserError
from mlperf_det.run_folder import write_atomically
from mlperf_det.yaml_files import did_you_mean

#: below the root: archives, unfinished downloads, and notes of what was unpacked
DOWNLOADS = 'downloads'


def download(card: Card, root: Path, *, splits: Sequence[str] = (), files: Sequence[str] = (),
             mirror: str | None = None, keep_archives: bool = False, report: Callable[[str], None] = lambda _: None,
             retries: Retries = DEFAULT_RETRIES) -> None:
    """Fetch, check and unpack the files that the splits need; what is done already is not done again.

    Args:
        card: the dataset.
        root: its folder.
        splits: splits to fetch; empty: all.
        files: names of files to fetch instead of what the splits need.
        mirror: address of a folder with files of the same names, instead of the publisher's addresses.
        keep_archives: keep the archives after unpacking them.
        report: receives a line about each file.
        retries: how often to try again.

    Raises:
        UserError: an unknown split or file, a failed download, a wrong checksum or a dangerous archive.
    """
    for remote in _select(card, splits, files):
        _obtain(card, remote, root, mirror, keep_archives, report, retries)


def _select(card: Card, splits: Sequence[str], names: Sequence[str]) -> list[RemoteFile]:
    if names:
        known = {remote.name: remote for remote in card.files}
        for name in names:
            if name not in known:
                raise UserError(f'{card.name}: has no file {name!r}; {did_you_mean(name, list(known))}')
        return [known[name] for name in names]
    for name in splits:
        card.split(name)
    selected = [remote for remote in card.files if set(splits or card.splits) & set(remote.splits)]
    if not selected:
        raise UserError(f'{card.name}: its card names no files to download; it was made on this machine')
    return selected


def _obtain(card: Card, remote: RemoteFile, root: Path, mirror: str | None, keep_archives: bool,
            report: Callable[[str], None], retries: Retries) -> None:
    algorithm, expected = remote.digest
    archive = root / DOWNLOADS / remote.name
    note = archive.with_name(f'{remote.name}.unpacked')
    if remote.extract and note.is_file() and note.read_text() == expected and _is_unpacked(remote, root):
        report(f'{remote.name}: unpacked already')
        return
    url = remote.url if mirror is None else f'{mirror.rstrip("/")}/{quote(remote.name)}'
    fetched = fetch(url, archive, check=digest_check(algorithm, expected, remote.bytes), size=remote.bytes,
                    retries=retries)
    report(f'{remote.name}: {"fetched" if fetched else "present"}, {algorithm} as its card states')
    if remote.extract:
        assert remote.unpacked_bytes_limit is not None  # read_card requires it
        count = extract_zip(archive, root, wanted=remote.extract, bytes_limit=remote.unpacked_bytes_limit,
                            members=card.members)
        write_atomically(note, expected.encode())
        report(f'{remote.name}: unpacked {count:,} files')
        if not keep_archives:
            archive.unlink()


def _is_unpacked(remote: RemoteFile, root: Path) -> bool:
    """Say whether what the archive unpacks to is still there; ``data verify`` looks at every file."""
    paths = [root / path for path in remote.extract]
    return all(any(path.iterdir()) if path.is_dir() else path.is_file() for path in paths)
