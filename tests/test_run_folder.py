"""run.json: written whole, read back equal, refused with the file and the field named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.run_folder import Attempt, Outcome, RunRecord, read_record, write_atomically, write_record


def record() -> RunRecord:
    return RunRecord(
        benchmark='ssd', recipe={'name': 'smoke', 'decay_epochs': [40, 50]}, log='result_0.txt', seed=7,
        hosts=({'name': 'n1', 'ranks': [0]},), software={'torch': '2.14.1'}, runtime={'precision': 'bf16'},
        dataset={'card': 'generated-coco', 'fingerprint': 'ab'}, backbone=None, image=None,
        attempts=(Attempt(started=1.0, ended=2.5, reason='done'),), outcome=Outcome.CONVERGED, reason='bbox 0.31')


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    write_record(tmp_path, record())
    assert read_record(tmp_path) == record()
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda text: text[:40], 'run.json'),
    (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), 'schema_version is 99'),
    (lambda text: text.replace('"seed": 7', '"seed": "x"'), 'seed'),
    (lambda text: json.dumps([]), 'run.json'),
])
def test_a_damaged_record_is_named(tmp_path: Path, damage, message: str) -> None:
    write_record(tmp_path, record())
    path = tmp_path / 'run.json'
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        read_record(tmp_path)
    assert str(path) in str(caught.value)


def test_a_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is this a run folder'):
        read_record(tmp_path)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'f'
    write_atomically(path, b'old')

    def full(_fd: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space'):
        write_atomically(path, b'new')
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]
