"""Downloading a subset: exactly its images, many at a time, resumed, checked, and polite to the source."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.data import progress
from mlperf_det.data.cards import OpenImagesCard, SourceFile, load_card, write_card
from mlperf_det.data.fetch import Retries
from mlperf_det.data.image_fetch import FetchFailedError, ImageFetcher
from mlperf_det.data.openimages import download
from mlperf_det.data.openimages.download import download_openimages
from mlperf_det.data.openimages.generate import CARD_NAME
from mlperf_det.data.openimages.prepare import prepare_openimages
from mlperf_det.data.openimages.verify import verify_openimages
from mlperf_det.errors import UserError
from tests.data.openimages.image_server import Server

QUICK = Retries(attempts=3, pause_seconds=0.001)


def card_at(url: str, published: Path) -> OpenImagesCard:
    """The card of the published files, with their addresses and sizes."""
    card = load_card(CARD_NAME, published)
    assert isinstance(card, OpenImagesCard)
    splits = {}
    for name, split in card.splits.items():
        paths = [split.class_list, split.image_list, split.boxes]
        sources = tuple(SourceFile(path=path, url=f'{url}/{path}', bytes=(published / path).stat().st_size)
                        for path in paths if path)
        splits[name] = replace(split, sources=sources, image_url=f'{url}/{split.images}')
    return replace(card, splits=splits)


def images(root: Path) -> set[str]:
    return {path.name for path in (root / 'train' / 'data').iterdir()}


def subset_of(published: Path) -> set[str]:
    return {name for name in images(published) if not name.startswith('000000000000000')}


def test_exactly_the_subset_is_fetched_and_can_be_trained_on(server: Server, published: Path, tmp_path: Path) -> None:
    card, lines = card_at(server.url, published), []
    download_openimages(card, tmp_path, report=lines.append, retries=QUICK)
    assert images(tmp_path) == subset_of(published)
    for name in images(tmp_path):
        assert (tmp_path / 'train' / 'data' / name).read_bytes() == (published / 'train' / 'data' / name).read_bytes()
    assert any('nobody published its checksum, so sha256' in line for line in lines)
    prepare_openimages(card, tmp_path)
    assert not verify_openimages(card, tmp_path).problems
    before = server.requests.total()
    download_openimages(card, tmp_path, report=lines.append, retries=QUICK)
    assert server.requests.total() == before, 'nothing is fetched twice'
    assert any('sha256 as recorded' in line for line in lines)


def test_a_download_continues_where_it_ended(server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    download_openimages(card, tmp_path, splits=['train'], retries=QUICK)
    gone = sorted(images(tmp_path))[:3]
    for name in gone:
        (tmp_path / 'train' / 'data' / name).unlink()
    server.requests.clear()
    lines: list[str] = []
    download_openimages(card, tmp_path, splits=['train'], report=lines.append, retries=QUICK)
    assert server.requests == Counter({f'/train/data/{name}': 1 for name in gone})
    assert '3 to fetch' in lines[-1]


def test_connections_are_bounded_and_kept_open(server: Server, published: Path, tmp_path: Path) -> None:
    server.seconds = 0.01
    card = card_at(server.url, published)
    for source in card.splits['train'].sources:
        (tmp_path / source.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / source.path).write_bytes((published / source.path).read_bytes())
    download_openimages(card, tmp_path, splits=['train'], connections=3, retries=QUICK)
    assert server.most_active == 3
    assert server.connections == 3 < server.requests.total()


def test_a_busy_server_is_asked_again_later(server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    download_openimages(card, tmp_path, files=[source.path for source in card.splits['train'].sources], retries=QUICK)
    server.busy, server.retry_after = 1, '1'
    began = time.monotonic()
    download_openimages(card, tmp_path, splits=['train'], connections=1, retries=QUICK)
    assert time.monotonic() - began >= 1, 'the pause that the server asked for'
    assert images(tmp_path) == subset_of(published)


def test_a_server_that_stays_busy_ends_the_download_and_says_how_to_go_on(
        server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    download_openimages(card, tmp_path, files=[source.path for source in card.splits['train'].sources], retries=QUICK)
    server.busy = 10_000
    with pytest.raises(UserError, match=r'answers 503.*gave up after 3 attempts; \d+ images are left. Run the same'):
        download_openimages(card, tmp_path, splits=['train'], retries=QUICK)
    assert images(tmp_path) == set()
    server.busy = 0
    download_openimages(card, tmp_path, splits=['train'], retries=QUICK)
    assert images(tmp_path) == subset_of(published)


def test_the_time_left_is_that_of_the_images_to_fetch(
        server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """Images that are there already neither count as work nor as speed."""
    card = card_at(server.url, published)
    download_openimages(card, tmp_path, splits=['train'], retries=QUICK)
    gone = sorted(images(tmp_path))[:4]
    for name in gone:
        (tmp_path / 'train' / 'data' / name).unlink()
    monkeypatch.setattr(progress, '_SECONDS_BETWEEN_LINES', 0.0)
    server.seconds = 0.1
    capsys.readouterr()
    download_openimages(card, tmp_path, splits=['train'], connections=1, retries=QUICK)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('train: images:')]
    assert [line.split('images: ')[1].split(' images')[0] for line in lines] == [f'{n} of 4' for n in (1, 2, 3, 4)]
    assert '0 s left' in lines[-1]
    assert float(re.findall(r'([0-9.]+) images/s', lines[0])[0]) <= 10


def test_images_come_through_the_proxy_of_the_environment(
        server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('http_proxy', server.url)
    monkeypatch.setenv('no_proxy', 'localhost')
    card = card_at('http://images.invalid', published)
    download_openimages(card, tmp_path, files=[source.path for source in card.splits['train'].sources],
                        mirror=published.as_uri())  # urllib reads the environment only once in a process
    download_openimages(card, tmp_path, splits=['train'], retries=QUICK)
    assert server.requests == {f'http://images.invalid/train/data/{name}': 1 for name in subset_of(published)}
    server.requests.clear()
    monkeypatch.setenv('no_proxy', '*')
    with (ImageFetcher('http://images.invalid', QUICK, threading.Event()) as fetcher,
          pytest.raises(FetchFailedError)):
        fetcher.fetch('a.jpg')
    assert not server.requests


@pytest.mark.parametrize('kind', ['broken', 'wrong_md5'])
def test_damaged_images_are_not_kept(server: Server, published: Path, tmp_path: Path, kind: str) -> None:
    name = min(subset_of(published))
    getattr(server, kind).add(name)
    with pytest.raises(UserError, match=name):
        download_openimages(card_at(server.url, published), tmp_path, splits=['train'], connections=2, retries=QUICK)
    assert server.requests[f'/train/data/{name}'] == QUICK.attempts
    assert name not in images(tmp_path)
    assert not [found for found in images(tmp_path) if found.endswith('.part')]


def test_a_source_without_the_images_is_not_asked_for_all_of_them(
        server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, '_MOST_NOT_OFFERED', 4)
    card = card_at(server.url, published)
    away = replace(card.splits['train'], image_url=f'{server.url}/nowhere')
    with pytest.raises(UserError, match=r'nowhere: lacks 5 or more of \d+ images .* fetch them with --mirror'):
        download_openimages(replace(card, splits={'train': away}), tmp_path, connections=1, retries=QUICK)
    assert sum(path.startswith('/nowhere') for path in server.requests) == 5


def test_a_missing_image_is_named_and_the_others_are_fetched(server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    mirror = tmp_path / 'mirror'
    for name in subset_of(published) - {min(subset_of(published))}:
        (mirror / 'train' / 'data').mkdir(parents=True, exist_ok=True)
        (mirror / 'train' / 'data' / name).write_bytes((published / 'train' / 'data' / name).read_bytes())
    root = tmp_path / 'root'
    download_openimages(card, root, files=[source.path for source in card.splits['train'].sources], retries=QUICK)
    for source in card.splits['train'].sources:
        (mirror / source.path).parent.mkdir(parents=True, exist_ok=True)
        (mirror / source.path).write_bytes((published / source.path).read_bytes())
    with pytest.raises(UserError, match=f'lacks 1 of .*{min(subset_of(published))}'):
        download_openimages(card, root, splits=['train'], mirror=mirror.as_uri(), retries=QUICK)
    assert images(root) == subset_of(published) - {min(subset_of(published))}


def test_a_changed_published_file_is_refused(server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    download_openimages(card, tmp_path, splits=['val'], retries=QUICK)
    path = tmp_path / 'validation' / 'labels' / 'detections.csv'
    path.unlink()
    (tmp_path / 'downloads' / 'sha256.json').write_text('{"validation/labels/detections.csv": "' + '0' * 64 + '"}')
    with pytest.raises(UserError, match=r'sha256\.json states 0000'):
        download_openimages(card, tmp_path, splits=['val'], retries=QUICK)
    assert not path.exists()


def test_a_file_of_another_size_is_refused(server: Server, published: Path, tmp_path: Path) -> None:
    card = card_at(server.url, published)
    source = card.splits['val'].sources[2]
    split = replace(card.splits['val'], sources=(replace(source, bytes=source.bytes - 1),))
    with pytest.raises(UserError, match='its card states'):
        download_openimages(replace(card, splits={'val': split}), tmp_path, retries=QUICK)


def test_the_command_takes_a_local_tree(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / 'root'
    root.mkdir()
    write_card(root, card_at('https://example.invalid', published))
    words = ['data', 'download', CARD_NAME, '--root', str(root), '--mirror', published.as_uri(), '--connections', '2']
    assert main([*words, '--split', 'val']) == 0
    assert 'images, 0 present' in capsys.readouterr().out
    assert main(words) == 0
    assert images(root) == subset_of(published)
    assert main([*words, '--file', 'train/labels/boxes.csv']) == 2
    assert "has no file 'train/labels/boxes.csv'; did you mean" in capsys.readouterr().err
    assert main([*words, '--split', 'test']) == 2
    assert main(['data', 'prepare', CARD_NAME, '--root', str(root)]) == 0
    assert main(['data', 'verify', CARD_NAME, '--root', str(root)]) == 0


def test_a_generated_dataset_has_nothing_to_download(published: Path, tmp_path: Path) -> None:
    card = load_card(CARD_NAME, published)
    assert isinstance(card, OpenImagesCard)
    with pytest.raises(UserError, match='names no files to download'):
        download_openimages(card, tmp_path)


def test_another_kind_of_address_is_refused(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='must be an http, https or file address'):
        download_openimages(card_at('https://example.invalid', published), tmp_path, mirror='ftp://example.invalid')


def test_an_interrupt_ends_the_download_at_once(server: Server, published: Path, tmp_path: Path) -> None:
    server.seconds = 0.5
    root = tmp_path / 'root'
    root.mkdir()
    write_card(root, card_at('https://example.invalid', published))
    words = ['data', 'download', CARD_NAME, '--root', str(root), '--mirror', server.url, '--split', 'train',
             '--connections', '1']
    process = subprocess.Popen([sys.executable, '-m', 'mlperf_det', *words], stderr=subprocess.PIPE, text=True)
    folder = root / 'train' / 'data'
    while not (folder.is_dir() and any(folder.iterdir())):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, 'mlperf-det: interrupted\n')
    assert 1 <= len(images(root)) < len(subset_of(published)) - 5


def test_what_a_killed_download_left_is_removed(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'train' / 'data'
    folder.mkdir(parents=True)
    old, new = (folder / f'.{number:016x}.jpg.{number}.part' for number in (1, 2))
    for path in (old, new):
        path.write_bytes(b'\xff\xd8\xff')
    os.utime(old, (0, 0))
    download_openimages(card_at('https://example.invalid', published), tmp_path, splits=['train'],
                        mirror=published.as_uri())
    assert images(tmp_path) == subset_of(published) | {new.name}, 'the other may be another download at work'
