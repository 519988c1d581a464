"""Fetching one image: politely, and through the proxy of the environment."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from mlperf_det.data.fetch import Retries
from mlperf_det.data.image_fetch import FetchFailedError, ImageFetcher
from tests.data.openimages.image_server import Server

QUICK = Retries(attempts=3, pause_seconds=0.001)


class Pauses(threading.Event):
    """A stop request that never comes, and notes how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def test_pauses_double_and_are_spread(server: Server) -> None:
    server.busy = 10_000
    firsts = []
    for _ in range(6):
        pauses = Pauses()
        with (ImageFetcher(f'{server.url}/train/data', Retries(attempts=5, pause_seconds=2.0), pauses) as fetcher,
              pytest.raises(FetchFailedError, match='gave up after 5 attempts')):
            fetcher.fetch('a.jpg')
        for number, pause in enumerate(pauses.seconds):
            assert 0.5 <= pause / (2.0 * 2**number) <= 1.5
        assert len(pauses.seconds) == 4
        firsts.append(pauses.seconds[0])
    assert len(set(firsts)) > 1, 'connections that failed together would come back together'


def test_a_servers_wish_counts_up_to_a_limit(server: Server) -> None:
    server.busy, server.retry_after = 10_000, '86400'
    pauses = Pauses()
    with (ImageFetcher(f'{server.url}/train/data', Retries(attempts=2, pause_seconds=1.0), pauses) as fetcher,
          pytest.raises(FetchFailedError)):
        fetcher.fetch('a.jpg')
    assert pauses.seconds == [300.0]


def test_a_proxy_is_asked_for_a_tunnel_to_a_secure_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('https_proxy', server.url.replace('//', '//user:pa%40ss@'))
    monkeypatch.delenv('no_proxy', raising=False)
    with (ImageFetcher('https://images.invalid/train', QUICK, threading.Event()) as fetcher,
          pytest.raises(FetchFailedError, match='Tunnel connection failed: 403')):
        fetcher.fetch('a.jpg')
    assert server.requests == Counter({'CONNECT images.invalid:443 Basic dXNlcjpwYUBzcw==': QUICK.attempts})
