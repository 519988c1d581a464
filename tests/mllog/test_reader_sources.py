"""Logs are found in files, folders and archives, compressed or not, without trusting any of them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.mllog import sources
from mlperf_det.mllog.collection import collect
from mlperf_det.mllog.systems import SystemDescription, accelerator_class, parse_system

LOG = (b':::MLLOG {"time_ms": 1, "key": "run_start", "value": null, "metadata": {}}\n'
       b':::MLLOG {"time_ms": 60001, "key": "run_stop", "value": null, "metadata": {"status": "success"}}\n')


def names(*paths: Path) -> list[str]:
    return [log.path.name for log in collect(paths).logs]


@pytest.mark.parametrize('suffix', ['', '.gz', '.xz', '.bz2', '.zst'])
def test_compressed_logs_are_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'result_0.txt{suffix}'
    if suffix == '.zst':
        if shutil.which('zstd') is None:
            pytest.skip('the program zstd makes the file of this test')
        path.write_bytes(subprocess.run(['zstd', '-c'], input=LOG, capture_output=True, check=True).stdout)
    else:
        path.write_bytes({'': bytes, '.gz': gzip.compress, '.xz': lzma.compress, '.bz2': bz2.compress}[suffix](LOG))
    for paths in ([path], [tmp_path]):
        logs = collect(paths).logs
        assert [log.path.name for log in logs] == ['result_0.txt']
        assert logs[0].summary is not None
        assert logs[0].summary.seconds == 60


def test_zstandard_without_any_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'result_0.txt.zst'
    path.write_bytes(b'')
    monkeypatch.setattr(sources.shutil, 'which', lambda _: None)
    monkeypatch.setattr(sources.importlib, 'import_module', _no_module)
    with pytest.raises(UserError, match='zstandard or the program zstd'):
        collect([path])


def _no_module(name: str) -> None:
    raise ImportError(name)


def test_damaged_compression_is_a_problem_of_that_log_alone(tmp_path: Path) -> None:
    (tmp_path / 'result_0.txt.gz').write_bytes(gzip.compress(LOG * 1000)[:60])
    (tmp_path / 'result_1.txt.xz').write_bytes(b'no xz at all')
    (tmp_path / 'result_2.txt').write_bytes(LOG)
    first, second, third = collect([tmp_path]).logs
    for log in (first, second):
        assert log.problem or (log.summary is not None and log.summary.forgiven)
    assert third.summary is not None
    assert third.summary.status == 'success'


@pytest.mark.parametrize('kind', ['tar', 'tar.gz', 'tar.xz'])
def test_archives_are_streamed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f'v5.0.{kind}'
    mode = {'tar': 'w', 'tar.gz': 'w:gz', 'tar.xz': 'w:xz'}[kind]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in (('v5.0/Sub/Sys/retinanet/result_10.txt', LOG), ('v5.0/Sub/Sys/retinanet/notes.md', b'x'),
                              ('v5.0/Sub/Sys/retinanet/result_2.txt.gz', gzip.compress(LOG)),
                              ('v5.0/Sub/Sys/system.json', b'{"number_of_nodes": "2", "accelerators_per_node": 8}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo('v5.0/Sub/Sys/retinanet/result_3.txt')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        archive.addfile(link)
    collection = collect([path])
    assert [log.path.name for log in collection.logs] == ['result_2.txt', 'result_10.txt']
    system = collection.system(collection.logs[0])
    assert system is not None
    assert system.accelerators == 16


def test_a_damaged_archive_is_told_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    (tmp_path / 'a.tar.xz').write_bytes(lzma.compress(b'not a tar' * 1000))
    (tmp_path / 'result_0.txt').write_bytes(LOG)
    by_name = {log.path.name: log for log in collect([tmp_path]).logs}
    assert 'damaged archive' in by_name['a.tar.xz'].problem
    assert by_name['result_0.txt'].summary is not None


def test_folders_with_loops_dangling_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / 'deep').mkdir()
    (tmp_path / 'deep' / 'result_0.txt').write_bytes(LOG)
    (tmp_path / 'deep' / 'loop').symlink_to(tmp_path)
    (tmp_path / 'self').symlink_to(tmp_path / 'self')
    (tmp_path / 'result_9.txt').symlink_to(tmp_path / 'nowhere')
    os.mkfifo(tmp_path / 'result_8.txt')
    logs = collect([tmp_path]).logs
    assert [log.path.name for log in logs] == ['result_0.txt', 'result_9.txt']
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


def test_descriptions_of_v06_nest_python_in_json() -> None:
    entry = {'hardware': 'DGX-2H', 'framework': 'PyTorch', 'nodes': "{'num_nodes': '30', 'num_accelerators': '16'}"}
    text = f'org: {json.dumps({"value": "N"})}\nentry: {json.dumps({"value": str(entry)})}\n'
    system = parse_system(text.encode())
    assert system is not None
    assert (system.submitter, system.system_name, system.nodes, system.accelerators) == ('N', 'DGX-2H', 30, 480)


@pytest.mark.parametrize('content', [b'', b'[]', b'{', b'entry: {"value": "__import__(0)"}', b'\xff',
                                     b'[' * 100_000])
def test_rubbish_is_no_description_and_nothing_is_executed(content: bytes) -> None:
    assert parse_system(content) is None


def test_a_log_with_fewer_ranks_than_accelerators_used_a_part() -> None:
    system = SystemDescription(nodes=30, accelerators_per_node=16)
    assert system.used_by(240).accelerators == 240
    assert system.used_by(1).accelerators == 480      # only rank 0 logs
    assert system.used_by(481).accelerators == 480


@pytest.mark.parametrize(('name', 'expected'), [
    ('NVIDIA H100 80GB HBM3', 'H100-SXM5-80GB'), ('NVIDIA A100-PCIE-40GB (250W)', 'A100-PCIe-40GB'),
    ('Tesla V100-SXM3-32GB-H', 'V100-SXM3-32GB'), ('Nvidia Tesla V100S-PCIe-32GB', 'V100S-PCIe-32GB'),
    ('AMD Instinct MI300X', 'AMD Instinct MI300X'), ('NVIDIA GH200 480GB', 'GH200')])
def test_one_spelling_a_product(name: str, expected: str) -> None:
    assert accelerator_class(name) == expected
