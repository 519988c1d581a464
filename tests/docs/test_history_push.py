"""docs/history_push.py works with a real session of ReFrame and a server that listens, refuses, or is not there."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PUSH = Path(__file__).parents[2] / 'docs' / 'history_push.py'
CHECK = '''
import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import parameter, performance_function, sanity_function, variable
from mlperf_det.rfm.no_silent_pass import NoSilentPass

@rfm.simple_test
class ssd(rfm.RunOnlyRegressionTest, NoSilentPass):
    valid_systems = ['*']
    valid_prog_environs = ['*']
    recipe = parameter(['smoke'])
    benchmark = variable(str, value='ssd', loggable=True)
    reference = {'*': {'time_to_train': (120.0, None, 0.05, 's')}}
    metrics_required = ['time_to_train']
    metrics_without_reference = ['bbox_ap']
    executable = 'echo'
    executable_opts = ['trained in 90.5 s to 0.2313']

    @sanity_function
    def trained(self):
        return sn.assert_found('trained', self.stdout)

    @performance_function('s')
    def time_to_train(self):
        return sn.extractsingle(r'in (\\S+) s', self.stdout, 1, float)

    @performance_function('fraction')
    def bbox_ap(self):
        return sn.extractsingle(r'to (\\S+)', self.stdout, 1, float)

@rfm.simple_test
class broken(ssd):
    executable = 'false'
'''


class Request(NamedTuple):
    """What the server was sent."""

    path: str
    authorization: str | None
    body: Any


class Server(http.server.ThreadingHTTPServer):
    """Answers with the given statuses in turn, then with 200, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests: list[Request] = []
        self.statuses = list(statuses)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_address[1]}'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length']))
        assert self.headers['Content-type'] == 'application/json'
        self.server.requests.append(Request(self.path, self.headers['Authorization'], json.loads(body)))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    listening = Server()
    yield listening
    listening.shutdown()
    listening.server_close()


def session(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / 'check.py').write_text(CHECK)
    return subprocess.run(
        [str(Path(sys.executable).parent / 'reframe'), '-C', str(PUSH), '-c', str(folder / 'check.py'), '-r',
         f'--prefix={folder}', '--perflogdir', str(folder / 'perflogs'), '--nocolor', *words],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **environment})


@pytest.mark.slow
def test_every_case_arrives_with_its_metrics(tmp_path: Path, server: Server) -> None:
    (tmp_path / 'key').write_text('s3cret\n')
    started = time.time()
    done = session(tmp_path, MLPERF_DET_ELASTIC=f'{server.url}/mlperf-det/_doc', MLPERF_DET_SITE='lab',
                   MLPERF_DET_ELASTIC_KEY=str(tmp_path / 'key'), MLPERF_DET_LOKI=f'{server.url}/loki/api/v1/push')
    assert done.returncode == 1, done.stdout    # one case fails
    assert 's3cret' not in done.stdout + done.stderr
    documents = {request.body['check'].partition('_')[0]: request.body for request in server.requests
                 if request.path == '/mlperf-det/_doc'}
    assert {request.authorization for request in server.requests if '_doc' in request.path} == {'ApiKey s3cret'}
    good = documents['ssd']
    assert good['metrics'] == {
        'time_to_train': {'value': 90.5, 'unit': 's', 'reference': 120.0, 'low': None, 'high': 0.05, 'result': 'pass'},
        'bbox_ap': {'value': 0.2313, 'unit': 'fraction', 'reference': 0, 'low': None, 'high': None, 'result': 'pass'}}
    assert (good['result'], good['benchmark'], good['recipe'], good['system'], good['partition'], good['site']) == (
        'pass', 'ssd', 'smoke', 'generic', 'default', 'lab')
    assert good['nodes']
    assert started - 5 < good['time'] < time.time() + 5
    assert good['@timestamp'].startswith('20')
    assert documents['broken']['result'] == 'fail'
    assert 'exit' in documents['broken']['fail_reason']
    entries = [stream for request in server.requests if request.path == '/loki/api/v1/push'
               for stream in request.body['streams']]
    assert sorted(stream['stream']['result'] for stream in entries) == ['fail', 'pass']
    (moment, line), = next(stream for stream in entries if stream['stream']['result'] == 'pass')['values']
    assert {'@timestamp': good['@timestamp'], **json.loads(line)} == good
    assert int(moment) == round(good['time'] * 1e9)
    assert list((tmp_path / 'perflogs').rglob('*.log')), 'the files that the site keeps are still written'


@pytest.mark.slow
def test_a_server_that_refuses_or_is_away_fails_no_case(tmp_path: Path, server: Server) -> None:
    """As history-push.md says, and what it warns of."""
    server.statuses += [503, 503]
    words = ('-n', '^ssd')
    done = session(tmp_path, *words, MLPERF_DET_ELASTIC=f'{server.url}/x')
    assert done.returncode == 0, done.stdout
    assert 'could not log performance data' in done.stdout + done.stderr
    done = session(tmp_path, *words, '--warn-as-error', MLPERF_DET_ELASTIC=f'{server.url}/x')
    assert done.returncode == 1
    assert 'run session stopped: warning as error: could not log' in done.stdout + done.stderr
    server.shutdown()
    server.server_close()
    done = session(tmp_path, *words, MLPERF_DET_ELASTIC=f'{server.url}/x')
    assert done.returncode == 0, done.stdout
    assert 'could not connect to server' in done.stdout + done.stderr
