"""A server of images that counts what it is asked for, and can misbehave."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Server(ThreadingHTTPServer):
    """Serves a folder and counts; `busy` answers come first, `broken` paths are cut, `tag` adds what S3 states."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.folder = folder
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self.busy = 0
        self.retry_after = '0'
        self.broken: set[str] = set()
        self.wrong_md5: set[str] = set()
        self.lock = threading.Lock()
        self.active = self.most_active = 0
        self.seconds = 0.0
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = 'HTTP/1.1'

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.requests[self.path] += 1
            server.active += 1
            server.most_active = max(server.most_active, server.active)
            busy = server.busy > 0
            server.busy -= busy
        time.sleep(server.seconds)
        with server.lock:
            server.active -= 1
        path = server.folder / urlsplit(self.path).path.lstrip('/')  # a proxy is asked for whole addresses
        if busy or not path.is_file():
            self.send_response(503 if busy else 404)
            self.send_header('Retry-After', server.retry_after)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        content = path.read_bytes()
        self.send_response(200)
        if path.suffix == '.jpg':
            served = b'' if path.name in server.wrong_md5 else content
            tag = hashlib.md5(served, usedforsecurity=False).hexdigest()
            self.send_header('ETag', f'"{tag}"')
            self.send_header('x-amz-request-id', '1')
        if path.name in server.broken:
            content = content[:len(content) // 2]
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_CONNECT(self) -> None:
        self.server.requests[f'CONNECT {self.path} {self.headers.get("Proxy-Authorization")}'] += 1
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        pass
