"""Logs are found in files, folders and archives, compressed or not, without trusting any of them."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.mllog.collection import collect
from tests.mllog.test_decompress import compress

LOG = (b':::MLLOG {"time_ms": 1, "key": "run_start", "value": null, "metadata": {}}\n'
       b':::MLLOG {"time_ms": 60001, "key": "run_stop", "value": null, "metadata": {"status": "success"}}\n')


def names(*paths: Path) -> list[str]:
    return [log.path.name for log in collect(paths).logs]


def test_damaged_compression_is_a_problem_of_that_log_alone(tmp_path: Path) -> None:
    (tmp_path / 'result_0.txt.gz').write_bytes(gzip.compress(LOG * 1000)[:60])
    (tmp_path / 'result_1.txt.xz').write_bytes(b'no xz at all')
    (tmp_path / 'result_2.txt').write_bytes(LOG)
    first, second, third = collect([tmp_path]).logs
    for log in (first, second):
        assert log.problem or (log.summary is not None and log.summary.forgiven)
    assert third.summary is not None
    assert third.summary.status == 'success'


MEMBERS = {
    'v5.0/Sub/Sys/retinanet/result_10.txt': LOG, 'v5.0/Sub/Sys/retinanet/notes.md': b'x',
    'v5.0/Sub/Sys/retinanet/result_2.txt.gz': gzip.compress(LOG),
    'v5.0/Sub/Sys/system.json': b'{"number_of_nodes": "2", "accelerators_per_node": 8}'}


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a tar archive, compressed by the suffix, or a ZIP archive."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as packed:
            for name, content in members.items():
                packed.writestr(name, content)
        return
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w') as archive:
        for name, inside in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(inside)
            archive.addfile(member, io.BytesIO(inside))
        link = tarfile.TarInfo('v5.0/Sub/Sys/retinanet/result_3.txt')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    path.write_bytes(compress(content.getvalue(), path.suffix))


@pytest.mark.parametrize('kind', ['tar', 'tar.gz', 'tgz', 'tar.xz', 'tar.bz2', 'tar.zst', 'zip'])
def test_archives_are_streamed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f'v5.0.{kind}'
    write_archive(path, MEMBERS)
    for given in (path, tmp_path):
        collection = collect([given])
        assert [log.path.name for log in collection.logs] == ['result_2.txt', 'result_10.txt']
        system = collection.system(collection.logs[0])
        assert system is not None
        assert system.accelerators == 16


@pytest.mark.parametrize('kind', ['tar', 'zip'])
@pytest.mark.parametrize('suffix', ['.gz', '.xz', '.bz2', '.zst'])
def test_compressed_members_of_archives_are_read(tmp_path: Path, kind: str, suffix: str) -> None:
    members = {f'v5.0/S/Y/ssd/result_{number}.txt{suffix}': compress(LOG * 500, suffix) for number in range(3)}
    write_archive(tmp_path / f'a.{kind}', members)
    logs = collect([tmp_path]).logs
    assert [(log.path.name, log.problem) for log in logs] == [(f'result_{number}.txt', '') for number in range(3)]
    assert {log.summary and log.summary.event_count for log in logs} == {1000}


@pytest.mark.parametrize('suffix', ['.gz', '.xz', '.bz2', '.zst'])
def test_a_damaged_member_does_not_stop_the_rest(tmp_path: Path, suffix: str) -> None:
    members = {f'result_0.txt{suffix}': b'not compressed at all', 'result_1.txt': LOG}
    write_archive(tmp_path / 'a.tar', members)
    damaged, good = collect([tmp_path]).logs
    assert damaged.problem or (damaged.summary is not None and damaged.summary.forgiven)
    assert good.summary is not None
    assert good.summary.status == 'success'


def test_an_encrypted_member_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / 'a.zip'
    write_archive(path, {'result_0.txt': LOG})
    content = bytearray(path.read_bytes())
    content[content.index(b'PK\x01\x02') + 8] |= 1    # the flag in the central directory
    path.write_bytes(content)
    log, = collect([path]).logs
    assert 'needs a password' in log.problem


def test_an_archive_beside_logs_is_a_packed_copy(tmp_path: Path) -> None:
    (tmp_path / 'result_0.txt').write_bytes(LOG)
    write_archive(tmp_path / 'copy.tgz', {'result_0.txt': LOG})
    assert len(collect([tmp_path]).logs) == 1
    assert len(collect([tmp_path / 'copy.tgz']).logs) == 1
    out = tmp_path / 'out'
    out.mkdir()
    write_archive(out / 'evidence.zip', {'result_0.txt': LOG})
    assert len(collect([tmp_path]).logs) == 1
    assert len(collect([out / 'evidence.zip']).logs) == 1


def test_a_damaged_archive_is_told_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / 'a.tar.xz').write_bytes(lzma.compress(b'not a tar' * 1000))
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'result_0.txt').write_bytes(LOG)
    by_name = {log.path.name: log for log in collect([tmp_path]).logs}
    assert 'damaged archive' in by_name['a.tar.xz'].problem
    assert by_name['result_0.txt'].summary is not None


def test_a_log_and_its_compressed_copy_are_one_log(tmp_path: Path) -> None:
    (tmp_path / 'result_0.txt').write_bytes(LOG)
    (tmp_path / 'result_0.txt.gz').write_bytes(gzip.compress(LOG))
    assert names(tmp_path) == ['result_0.txt']


def test_a_folder_that_is_of_no_interest_is_left_out(tmp_path: Path) -> None:
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'result_0.txt').write_bytes(LOG)
    assert [log.path.parent.name for log in collect([tmp_path], skip=lambda folder: folder.name == 'a').logs] == ['b']


def test_folders_with_loops_dangling_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'result_0.txt').write_bytes(LOG)
    (tmp_path / 'deep' / 'loop').symlink_to(tmp_path)
    (tmp_path / 'self').symlink_to(tmp_path / 'self')
    (tmp_path / 'result_9.txt').symlink_to(tmp_path / 'nowhere')
    os.mkfifo(tmp_path / 'result_8.txt')
    for name in ('system.json', 'scaling.json', 'run.json'):
        os.mkfifo(tmp_path / 'deep' / name)
    collection = collect([tmp_path])
    logs = collection.logs
    assert [log.path.name for log in logs] == ['result_0.txt', 'result_9.txt']
    assert collection.system(logs[0]) is None
    assert collection.scaling_factor(tmp_path / 'deep') == 1
    assert 'dangling link' in logs[1].problem


def test_partial_copies_are_found_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ('result_0.txt', '.!65506!result_4.txt', 'compliance_result.out', 'slurm.txt', 'my_result_0.txt'):
        (tmp_path / name).write_bytes(LOG)
    assert sorted(names(tmp_path)) == ['.!65506!result_4.txt', 'result_0.txt']
    assert names(tmp_path / 'slurm.txt') == ['slurm.txt']


def test_a_path_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='nowhere: No such file'):
        collect([tmp_path / 'nowhere'])


def test_scaling_factor_falls_back_to_one(tmp_path: Path) -> None:
    for content, factor in ((b'{"scaling_factor": 1.25}', 1.25), (b'{"scaling_factor": "x"}', 1.0), (b'[', 1.0),
                            (b'{"scaling_factor": -2}', 1.0)):
        (tmp_path / 'scaling.json').write_bytes(content)
        (tmp_path / 'result_0.txt').write_bytes(LOG)
        assert collect([tmp_path]).scaling_factor(tmp_path) == factor


def test_a_submission_tree_finds_its_system_descriptions(tmp_path: Path) -> None:
    logs = tmp_path / 'training_results_v3.1' / 'Sub' / 'results' / 'sys1' / 'ssd'
    systems = tmp_path / 'training_results_v3.1' / 'Sub' / 'systems'
    logs.mkdir(parents=True)
    systems.mkdir()
    (logs / 'result_0.txt').write_bytes(LOG)
    (systems / 'sys1.json').write_bytes(b'{"number of nodes": "4", "accelerators_per_node": "8"}')
    for paths in ([tmp_path], [logs], [logs / 'result_0.txt']):
        collection = collect(paths)
        system = collection.system(collection.logs[0])
        assert system is not None
        assert (system.nodes, system.accelerators) == (4, 32)
