"""Columns beside the annotation file: equal to what the file says, never stale, safe with many processes at once."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pickle
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from mlperf_det.data import annotation_cache
from mlperf_det.data.annotation_cache import MappedAnnotations, columns_path, read_cached, write_columns
from mlperf_det.data.annotations import Annotations, read_annotations
from mlperf_det.data.layout import file_hash
from mlperf_det.errors import UserError


def write_truth(path: Path, images: int = 40, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    boxes = [{'id': number, 'image_id': int(rng.integers(1, images + 1)), 'category_id': int(rng.integers(3)),
              'bbox': rng.uniform(1, 50, 4).tolist(), 'area': float(rng.uniform(1, 9)), 'iscrowd': int(rng.integers(2))}
             for number in range(1, 200)]
    boxes[5]['bbox'][2] = 0.0
    path.write_text(json.dumps({
        'images': [{'id': number, 'file_name': 'é' * (number % 3) + f'{number}.jpg', 'height': 60, 'width': number + 50}
                   for number in range(1, images + 1)],
        'annotations': boxes, 'categories': [{'id': number, 'name': name} for number, name in enumerate('abc')]}))
    return path


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_truth(tmp_path / 'truth.json')


def assert_same(found: Annotations, expected: Annotations) -> None:
    for field in fields(Annotations):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert mine.dtype == theirs.dtype
            assert np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == 'f'), field.name
        else:
            assert mine == theirs, field.name


def forbid_json(path: Path) -> Annotations:
    raise AssertionError(f'{path} was read')


def test_the_columns_say_what_the_file_says(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_annotations(truth)
    assert expected.degenerate == 1
    assert_same(read_cached(truth), expected)
    monkeypatch.setattr(annotation_cache, 'read_annotations', forbid_json)
    found = read_cached(truth)
    assert isinstance(found, MappedAnnotations)
    assert_same(found, expected)
    assert (found.file_names[-1], found.file_names[1], len(found.file_names)) == ('é40.jpg', 'éé2.jpg', 40)
    assert list(found.file_names[3:5]) == ['é4.jpg', 'éé5.jpg']
    assert sorted(path.name for path in truth.parent.iterdir() if not path.name.endswith('.lock')) == [
        'truth.json', 'truth.json.columns.safetensors']


def test_a_changed_file_makes_new_columns_even_with_its_old_time_and_size(truth: Path) -> None:
    read_cached(truth)
    before = truth.stat()
    truth.write_text(truth.read_text().replace('"category_id": 1', '"category_id": 2'))
    os.utime(truth, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert truth.stat().st_size == before.st_size
    assert_same(read_cached(truth), read_annotations(truth))
    assert (read_cached(truth).labels != 1).all()


def test_columns_follow_a_copied_dataset(truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_cached(truth)
    copy = tmp_path / 'elsewhere' / 'truth.json'
    copy.parent.mkdir()
    for path in (truth, columns_path(truth)):
        (copy.parent / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(annotation_cache, 'read_annotations', forbid_json)
    assert read_cached(copy).path == copy


@pytest.mark.parametrize('damage', [
    b'', b'\xff' * 8, (5).to_bytes(8, 'little') + b'{"a"}', (2).to_bytes(8, 'little') + b'{}'])
def test_damaged_columns_are_made_anew(truth: Path, damage: bytes) -> None:
    columns_path(truth).write_bytes(damage)
    assert_same(read_cached(truth), read_annotations(truth))


def test_cut_columns_are_made_anew(truth: Path) -> None:
    read_cached(truth)
    content = columns_path(truth).read_bytes()
    columns_path(truth).write_bytes(content[:len(content) // 2])
    assert_same(read_cached(truth), read_annotations(truth))


def test_columns_of_another_program_version_are_made_anew(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, '_VERSION', '0')
    read_cached(truth)
    monkeypatch.undo()
    read_cached(truth)
    assert b'"version":"1"' in columns_path(truth).read_bytes()


def test_a_worker_process_gets_the_path_not_the_arrays(truth: Path) -> None:
    read_cached(truth)
    found = read_cached(truth)
    sent = pickle.dumps(found)
    assert len(sent) < 1000
    assert_same(pickle.loads(sent), found)  # noqa: S301 - our own bytes


def test_where_the_disk_is_full_the_file_is_read(truth: Path) -> None:
    expected, limits = read_annotations(truth), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        found = read_cached(truth)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_same(found, expected)
    assert not columns_path(truth).exists()
    assert not list(truth.parent.glob('.*.part'))


@pytest.fixture
def others() -> Iterator[Path]:
    """An annotation file in a folder that other users may read and not write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield write_truth(Path(folder) / 'truth.json')
        Path(folder).chmod(0o755)


def as_another_user(path: Path, function: Callable[[Path], None]) -> multiprocessing.Process:
    """Start a process that may read the folder of a file and not write it."""
    def run() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        function(path)

    for each in path.parent.iterdir():
        each.chmod(each.stat().st_mode & ~0o222)
    path.parent.chmod(0o555)
    process = multiprocessing.get_context('fork').Process(target=run, daemon=True)
    process.start()
    return process


def test_columns_can_be_read_by_other_users(others: Path) -> None:
    def read(path: Path) -> None:
        annotation_cache.read_annotations = forbid_json
        assert isinstance(read_cached(path), MappedAnnotations)

    umask = os.umask(0o022)
    try:
        read_cached(others)
    finally:
        os.umask(umask)
    process = as_another_user(others, read)
    process.join(60)
    assert process.exitcode == 0


def test_in_a_folder_of_another_user_the_file_is_read(others: Path) -> None:
    def read(path: Path) -> None:
        assert_same(read_cached(path), read_annotations(path))

    process = as_another_user(others, read)
    process.join(60)
    assert process.exitcode == 0
    assert [path.name for path in others.parent.iterdir()] == ['truth.json']


def test_the_lock_of_another_user_is_waited_for(others: Path) -> None:
    def read(path: Path) -> None:
        annotation_cache.read_annotations = forbid_json
        read_cached(path)

    lock = others.with_name(f'.{columns_path(others).name}.lock')
    with lock.open('wb') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = as_another_user(others, read)
        process.join(1)
        assert process.is_alive(), 'it waits for the columns'
        others.parent.chmod(0o755)
        write_columns(read_annotations(others), file_hash(others, 'sha256'))
        columns_path(others).chmod(0o644)
        fcntl.flock(held, fcntl.LOCK_UN)  # to close it is not enough: the other process has inherited it
    process.join(60)
    assert process.exitcode == 0


def test_a_wrong_file_is_refused_with_its_own_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be read'):
        read_cached(tmp_path / 'absent.json')
    (tmp_path / 'cut.json').write_text('{"images": [')
    with pytest.raises(UserError, match='not valid JSON'):
        read_cached(tmp_path / 'cut.json')
    assert not columns_path(tmp_path / 'cut.json').exists()


def read_and_count(path: Path, started: multiprocessing.Barrier, readings: Path) -> None:
    """In a process of its own: start together with the others; leave a file if the JSON was read."""
    original = annotation_cache.read_annotations

    def counted(source: Path) -> Annotations:
        (readings / str(os.getpid())).touch()
        return original(source)

    annotation_cache.read_annotations = counted
    started.wait()
    found = read_cached(path)
    assert len(found) == 3000
    assert int(found.offsets[-1]) == len(found.boxes) == 198


def test_many_processes_at_once_read_the_file_once(tmp_path: Path) -> None:
    path = write_truth(tmp_path / 'truth.json', images=3000)
    readings = tmp_path / 'readings'
    readings.mkdir()
    context = multiprocessing.get_context('fork')
    started = context.Barrier(12)
    processes = [context.Process(target=read_and_count, args=(path, started, readings)) for _ in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 12
    assert len(list(readings.iterdir())) == 1
    assert not [found.name for found in tmp_path.iterdir() if found.name.endswith('.part')]


def test_the_digest_can_be_given(truth: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_columns(read_annotations(truth), file_hash(truth, 'sha256'))
    digest = file_hash(truth, 'sha256')
    monkeypatch.setattr(annotation_cache, 'file_hash', None)
    monkeypatch.setattr(annotation_cache, 'read_annotations', forbid_json)
    assert len(read_cached(truth, digest)) == 40
