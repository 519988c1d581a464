from __future__ import annotations

import fcntl
import hashlib
import stat
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.data.archive import extract_zip
from mlperf_det.data.cards import Card, Member, RemoteFile, SplitCard, write_card
from mlperf_det.data.download import download
from mlperf_det.data.fetch import Retries, digest_check, fetch
from mlperf_det.errors import UserError

QUICK = Retries(attempts=3, pause_seconds=0.001)
CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut_after` ends each answer early, `statuses` are answered first, `ranges` can be refused."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.cut_after: int | None = None
        self.statuses: list[int] = []
        self.ranges = True
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get('Range')
        self.server.requests.append((self.path, wanted))
        if self.server.statuses:
            return self.send_error(self.server.statuses.pop(0))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix('bytes=').rstrip('-')) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][:self.server.cut_after])
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def check_of(content: bytes = CONTENT):
    return digest_check('sha256', hashlib.sha256(content).hexdigest(), len(content))


# Fetching one file.

def test_fetch_then_nothing_to_do(server, tmp_path):
    server.files['/a'] = CONTENT
    assert fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT
    assert not fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert len(server.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize('size', [len(CONTENT), None])
def test_a_connection_that_keeps_breaking_is_resumed(server, tmp_path, size):
    server.files['/a'] = CONTENT
    server.cut_after = 300_000
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=size, retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, 'bytes=300000-', 'bytes=600000-', 'bytes=900000-']


def test_an_earlier_call_is_continued(server, tmp_path):
    server.files['/a'] = CONTENT
    (tmp_path / 'a.part').write_bytes(CONTENT[:1000])
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT
    assert server.requests == [('/a', 'bytes=1000-')]


def test_a_complete_part_needs_no_request(server, tmp_path):
    (tmp_path / 'a.part').write_bytes(CONTENT)
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT
    assert not server.requests


def test_a_complete_part_of_unknown_size(server, tmp_path):
    server.files['/a'] = CONTENT
    (tmp_path / 'a.part').write_bytes(CONTENT)
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), retries=QUICK)  # the server answers 416
    assert (tmp_path / 'a').read_bytes() == CONTENT


@pytest.mark.parametrize('left', [b'x' * 1000, b'x' * (len(CONTENT) + 5)])
def test_a_part_of_another_version_is_replaced(server, tmp_path, left):
    server.files['/a'] = CONTENT
    (tmp_path / 'a.part').write_bytes(left)
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT


def test_a_server_without_ranges(server, tmp_path):
    server.files['/a'] = CONTENT
    server.ranges = False
    (tmp_path / 'a.part').write_bytes(CONTENT[:1000])
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT


def test_server_errors_that_pass(server, tmp_path):
    server.files['/a'] = CONTENT
    server.statuses = [503, 429]
    fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert len(server.requests) == 3


def test_server_errors_that_stay_are_bounded_and_the_part_is_kept(server, tmp_path):
    server.files['/a'] = CONTENT
    server.statuses = [503] * 99
    (tmp_path / 'a.part').write_bytes(CONTENT[:1000])
    with pytest.raises(UserError, match=r'503.*gave up after 3 attempts'):
        fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert len(server.requests) == 3
    assert (tmp_path / 'a.part').read_bytes() == CONTENT[:1000]


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(UserError, match='404'):
        fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), retries=QUICK)
    assert len(server.requests) == 1


def test_nobody_listens(tmp_path):
    with pytest.raises(UserError, match=r'refused.*gave up'):
        fetch('http://127.0.0.1:9/a', tmp_path / 'a', check=check_of(), retries=QUICK)


@pytest.mark.parametrize(('served', 'words'), [
    (b'!' + CONTENT[1:], 'sha256 is'),
    (CONTENT + b'more', 'bytes, its card states'),
])
def test_wrong_content_is_discarded(server, tmp_path, served, words):
    server.files['/a'] = served
    with pytest.raises(UserError, match=words):
        fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert not list(tmp_path.iterdir())


def test_two_downloads_of_one_file(server, tmp_path):
    with (tmp_path / 'a.part').open('wb') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match='another download'):
            fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), retries=QUICK)


def test_file_addresses(tmp_path):
    (tmp_path / 'source').write_bytes(CONTENT)
    (tmp_path / 'a.part').write_bytes(CONTENT[:70_000])
    fetch((tmp_path / 'source').as_uri(), tmp_path / 'a', check=check_of(), size=len(CONTENT), retries=QUICK)
    assert (tmp_path / 'a').read_bytes() == CONTENT
    with pytest.raises(UserError, match='none'):
        fetch((tmp_path / 'none').as_uri(), tmp_path / 'b', check=check_of(), retries=QUICK)
    with pytest.raises(UserError, match='must be an http'):
        fetch('ftp://127.0.0.1/a', tmp_path / 'b', check=check_of(), retries=QUICK)


def test_no_room(server, tmp_path):
    with pytest.raises(UserError, match='GB are free'):
        fetch(f'{server.url}/a', tmp_path / 'a', check=check_of(), size=10**18, retries=QUICK)


# Unpacking.

def test_a_disk_that_fills_up_or_cannot_be_written_is_named(server, tmp_path):
    server.files['/f'] = CONTENT
    (tmp_path / 'f.part').symlink_to('/dev/full')
    with pytest.raises(UserError, match=r'/f: cannot be written \(No space left on device\).*it continues'):
        fetch(f'{server.url}/f', tmp_path / 'f', check=check_of(), retries=QUICK)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'file/f: cannot be written \(File exists\)'):
        fetch(f'{server.url}/f', tmp_path / 'file' / 'f', check=check_of(), retries=QUICK)


def test_a_folder_that_cannot_be_made_is_a_line_and_no_traceback(tmp_path, capsys):
    (tmp_path / 'file').touch()
    source = tmp_path / 'weights.pth'
    source.touch()
    assert main(['data', 'backbone', 'resnet34', '--from', str(source), '--output', str(tmp_path / 'file')]) == 2
    error = capsys.readouterr().err
    assert f'mlperf-det: error: {tmp_path}/file: File exists; is the folder one that can be written' in error


def make_zip(path: Path, members: dict[str, bytes], *, link: str | None = None) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFLNK | 0o777 if name == link else stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return path


def test_unpack_what_is_wanted(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/1.jpg': b'one', 'd/2.jpg': b'two', 'x/list.json': b'{}', 'x/other': b''})
    (tmp_path / 'out').mkdir()
    assert extract_zip(archive, tmp_path / 'out', wanted=['d/', 'x/list.json'], bytes_limit=8) == 3
    files = {p.relative_to(tmp_path / 'out').as_posix(): p.read_bytes()
             for p in (tmp_path / 'out').rglob('*') if p.is_file()}
    assert files == {'d/1.jpg': b'one', 'd/2.jpg': b'two', 'x/list.json': b'{}'}


def test_unpacking_continues_where_it_stopped(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/1': b'one', 'd/2': b'two'})
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd/1').write_bytes(b'ONE')     # complete: has the right size
    (tmp_path / 'd/2').write_bytes(b't')       # not complete
    extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=6)
    assert ((tmp_path / 'd/1').read_bytes(), (tmp_path / 'd/2').read_bytes()) == (b'ONE', b'two')


@pytest.mark.parametrize(('name', 'words'), [
    ('../evil', 'outside'), ('d/../../evil', 'outside'), ('/tmp/evil', 'outside'), ('d\\..\\evil', 'outside'),
    ('C:evil', 'outside'), ('d/link', 'link'),
])
def test_dangerous_members_stop_everything(tmp_path, name, words):
    archive = make_zip(tmp_path / 'a.zip', {'d/good': b'good', name: b'/etc/passwd'}, link='d/link')
    root = tmp_path / 'deep/root'
    root.mkdir(parents=True)
    with pytest.raises(UserError, match=words):
        extract_zip(archive, root, wanted=['d/'], bytes_limit=10**6)
    assert not list(root.iterdir())
    assert not (tmp_path / 'evil').exists()


def test_a_name_with_a_zero_byte(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/good': b'good', 'd/XXevil': b'x'})
    archive.write_bytes(archive.read_bytes().replace(b'd/XXevil', b'd/X\0evil'))
    with pytest.raises(UserError, match=r'outside|damaged'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=10**6)


def test_repeated_members(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/1': b'one', 'd/2': b'two'})
    archive.write_bytes(archive.read_bytes().replace(b'd/2', b'd/1'))
    with pytest.raises(UserError, match='more than once'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=10**6)


def test_more_than_announced(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/zeros': bytes(1_000_000)})
    assert archive.stat().st_size < 5_000
    with pytest.raises(UserError, match='1,000,000 bytes, its card allows 999,999'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=999_999)
    with pytest.raises(UserError, match="'d/zeros' has 1,000,000 bytes, its card states 7"):
        extract_zip(archive, tmp_path, wanted=['d/zeros'], bytes_limit=10**7, members={'d/zeros': Member(bytes=7)})
    assert not (tmp_path / 'd').exists()


def test_a_header_that_understates_the_size(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/zeros': bytes(1_000_000)})
    true, false = (1_000_000).to_bytes(4, 'little'), (1_000).to_bytes(4, 'little')
    archive.write_bytes(archive.read_bytes().replace(true, false))
    with pytest.raises(UserError, match='damaged'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=10_000)
    assert not list((tmp_path / 'd').iterdir())


def test_damaged_and_wrong_archives(tmp_path):
    archive = make_zip(tmp_path / 'a.zip', {'d/1': bytes(range(256)) * 99})
    with pytest.raises(UserError, match="no member 'e/'"):
        extract_zip(archive, tmp_path, wanted=['e/'], bytes_limit=10**6)
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xff
    archive.write_bytes(content)
    with pytest.raises(UserError, match='damaged'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=10**6)
    assert not list((tmp_path / 'd').iterdir())
    archive.write_bytes(content[:200])
    with pytest.raises(UserError, match='damaged'):
        extract_zip(archive, tmp_path, wanted=['d/'], bytes_limit=10**6)


# Downloading a dataset.

@pytest.fixture
def remote(tmp_path, server) -> tuple[Card, Path]:
    """A dataset of two archives, served over HTTP and lying in a folder."""
    mirror = tmp_path / 'mirror'
    mirror.mkdir()
    boxes = make_zip(mirror / 'boxes.zip', {'annotations/train.json': b'{"a": 1}', 'annotations/other.json': b'no'})
    images = make_zip(mirror / 'images.zip', {'train/1.jpg': b'one', 'train/2.jpg': b'two'})
    server.files = {f'/{path.name}': path.read_bytes() for path in (boxes, images)}
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (boxes, images)}
    files = tuple(RemoteFile(
        name=path.name, url=f'{server.url}/{path.name}', bytes=path.stat().st_size, sha256=digests[path.name],
        splits=splits, extract=extract, unpacked_bytes_limit=8)
        for path, splits, extract in ((boxes, ('train', 'val'), ('annotations/train.json',)),
                                      (images, ('train',), ('train/',))))
    split = SplitCard(images='train', annotations='annotations/train.json', image_count=2, annotated_image_count=0,
                      annotation_count=0)
    card = Card(name='remote', kind='coco', title='', licence={}, categories=1, splits={'train': split, 'val': split},
                files=files)
    return card, mirror


def unpacked(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob('*') if path.is_file()}


NOTES = {'downloads/boxes.zip.unpacked', 'downloads/images.zip.unpacked'}
FILES = {'annotations/train.json', 'train/1.jpg', 'train/2.jpg'}


def test_download_everything_once(remote, server, tmp_path):
    card, _ = remote
    lines: list[str] = []
    download(card, tmp_path / 'root', report=lines.append, retries=QUICK)
    assert unpacked(tmp_path / 'root') == FILES | NOTES
    assert lines == ['boxes.zip: fetched, sha256 as its card states', 'boxes.zip: unpacked 1 files',
                     'images.zip: fetched, sha256 as its card states', 'images.zip: unpacked 2 files']
    download(card, tmp_path / 'root', report=lines.append, retries=QUICK)
    assert lines[4:] == ['boxes.zip: unpacked already', 'images.zip: unpacked already']
    assert len(server.requests) == 2


def test_what_was_deleted_is_fetched_again(remote, server, tmp_path):
    card, _ = remote
    download(card, tmp_path / 'root', retries=QUICK)
    (tmp_path / 'root/annotations/train.json').unlink()
    download(card, tmp_path / 'root', retries=QUICK)
    assert unpacked(tmp_path / 'root') == FILES | NOTES
    assert [path for path, _ in server.requests] == ['/boxes.zip', '/images.zip', '/boxes.zip']


def test_one_split_from_a_mirror(remote, server, tmp_path):
    card, mirror = remote
    download(card, tmp_path / 'root', splits=['val'], mirror=mirror.as_uri(), keep_archives=True)
    assert unpacked(tmp_path / 'root') == {'annotations/train.json', 'downloads/boxes.zip',
                                           'downloads/boxes.zip.unpacked'}
    assert not server.requests


def test_md5_serves_where_no_sha256_is_known(remote, tmp_path):
    card, mirror = remote
    md5 = hashlib.md5((mirror / 'boxes.zip').read_bytes(), usedforsecurity=False).hexdigest()
    download(replace(card, files=(replace(card.files[0], sha256=None, md5=md5),)), tmp_path / 'root')
    with pytest.raises(UserError, match='md5 is'):
        download(replace(card, files=(replace(card.files[0], sha256=None, md5='0' * 32),)), tmp_path / 'bad')


def test_a_corrupt_archive_never_reaches_the_dataset(remote, tmp_path):
    card, mirror = remote
    (mirror / 'boxes.zip').write_bytes((mirror / 'boxes.zip').read_bytes()[:-1] + b'!')
    with pytest.raises(UserError, match=r'boxes.zip: the sha256 is .*, its card states'):
        download(card, tmp_path / 'root', mirror=mirror.as_uri())
    assert not unpacked(tmp_path / 'root')


def test_unknown_names(remote, tmp_path):
    card, _ = remote
    with pytest.raises(UserError, match="no split 'vall'; did you mean 'val'"):
        download(card, tmp_path, splits=['vall'])
    with pytest.raises(UserError, match=r"no file 'box\.zip'; did you mean 'boxes\.zip'"):
        download(card, tmp_path, files=['box.zip'])
    with pytest.raises(UserError, match='no files to download'):
        download(replace(card, files=()), tmp_path)


def test_command(remote, tmp_path, capsys):
    card, mirror = remote
    root = tmp_path / 'root'
    root.mkdir()
    write_card(root, card)
    assert main(['data', 'download', 'remote', '--root', str(root), '--mirror', mirror.as_uri(), '--split', 'val']) == 0
    assert 'boxes.zip: unpacked 1 files' in capsys.readouterr().out
    assert main(['data', 'download', 'remote', '--root', str(root), '--file', 'nothing']) == 2
    assert "no file 'nothing'" in capsys.readouterr().err
