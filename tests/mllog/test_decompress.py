"""Compressed logs are read like plain ones, damage is told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from pathlib import Path

import pytest
from backports import zstd

from mlperf_det.mllog.collection import collect
from mlperf_det.mllog.decompress import decompressed, open_stream

LOG = (b':::MLLOG {"time_ms": 1, "key": "run_start", "value": null, "metadata": {}}\n'
       b':::MLLOG {"time_ms": 60001, "key": "run_stop", "value": null, "metadata": {"status": "success"}}\n')
SUFFIXES = ['', '.gz', '.xz', '.bz2', '.zst']


def compress(content: bytes, suffix: str) -> bytes:
    """Compress by the suffix."""
    return {'.gz': gzip.compress, '.tgz': gzip.compress, '.xz': lzma.compress, '.bz2': bz2.compress,
            '.zst': zstd.compress, '.tzst': zstd.compress}.get(suffix, bytes)(content)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_compressed_logs_are_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f'result_0.txt{suffix}').write_bytes(compress(LOG, suffix))
    for paths in ([tmp_path / f'result_0.txt{suffix}'], [tmp_path]):
        log, = collect(paths).logs
        assert log.path.name == 'result_0.txt'
        assert log.summary is not None
        assert log.summary.seconds == 60


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_several_compressed_parts_in_a_row_are_one_file(suffix: str) -> None:
    with decompressed(io.BytesIO(compress(LOG, suffix) * 3), f'x{suffix}') as stream:
        assert stream.read() == LOG * 3


def test_zstandard_is_read_whole_and_in_part(tmp_path: Path) -> None:
    path = tmp_path / 'x.zst'
    content = bytes(range(256)) * 40_000
    path.write_bytes(compress(content, '.zst'))
    with open_stream(path) as stream:
        assert b''.join(iter(lambda: stream.read(100_000), b'')) == content
    with open_stream(path) as stream:    # left before its end
        assert stream.read(10) == content[:10]


@pytest.mark.parametrize('cut', [0.5, 0.0])
def test_damaged_zstandard_is_told(tmp_path: Path, cut: float) -> None:
    whole = compress(LOG * 1000, '.zst')
    (tmp_path / 'result_0.txt.zst').write_bytes(whole[:round(len(whole) * cut)] if cut else b'no frame' * 100)
    log, = collect([tmp_path]).logs
    assert log.problem or (log.summary is not None and any('cannot be read' in line for line in log.summary.forgiven))
