"""A publisher of a small subset."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlperf_det.data.openimages.generate import generate_openimages
from mlperf_det.data.scenes.dataset import GeneratorSettings
from tests.data.openimages.image_server import Server


@pytest.fixture(scope='session')
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the publisher offers: a subset's files and, besides, images that do not belong to it."""
    root = tmp_path_factory.mktemp('published') / 'scenes'
    generate_openimages(GeneratorSettings(train=30, val=10, seed=2), root, workers=1)
    for number in range(5):
        (root / 'train' / 'data' / f'{number:016x}.jpg').write_bytes(b'\xff\xd8\xff not of the subset \xff\xd9')
    return root


@pytest.fixture
def server(published: Path) -> Iterator[Server]:
    running = Server(published)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()
