"""Drives a headless Chromium over its debugging pipe (the Chrome DevTools Protocol), without any further package."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAMS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


def find() -> str | None:
    """Path of a Chromium program; None without one."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One page in one browser; a context manager that ends it."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        words = [program, '--headless=new', '--no-sandbox', '--disable-gpu', '--remote-debugging-pipe',
                 '--disable-background-networking', '--disable-component-update', '--disable-sync', '--disable-quic',
                 '--no-first-run', f'--user-data-dir={profile}', 'about:blank']
        # The browser reads commands from file descriptor 3 and writes answers to 4.
        self._process = subprocess.Popen(
            ['bash', '-c', f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}', *words],
            pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        os.set_blocking(self._read, False)
        self._buffer, self._number, self._session = b'', 0, ''
        self.events: list[dict[str, Any]] = []
        target = self.command('Target.createTarget', url='about:blank')['targetId']
        self._session = self.command('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.command(f'{domain}.enable')

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._next()
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']
            self.events.append(answer)

    def open(self, page: Path, width: int = 1280) -> None:
        """Load a page and wait until it is there."""
        self.command('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.command('Page.navigate', url=page.as_uri())
        while not any(event.get('method') == 'Page.loadEventFired' for event in self.events):
            self.events.append(self._next())

    def emulate(self, *, media: str = '', dark: bool = False) -> None:
        """Show pages as on paper (``print``), or to somebody who prefers dark ones."""
        self.command('Emulation.setEmulatedMedia', media=media, features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])

    def press(self, key: str) -> None:
        """Press a key on whatever has the focus."""
        for kind in ('keyDown', 'keyUp'):
            self.command('Input.dispatchKeyEvent', type=kind, key=key, code=key, text='\r' if key == 'Enter' else '')

    def pdf_pages(self) -> int:
        """Print the page and count the sheets."""
        found = self.command('Page.printToPDF', preferCSSPageSize=True)
        return base64.b64decode(found['data']).count(b'/Type /Page\n')

    def metrics(self) -> dict[str, float]:
        """Figures of the browser about the page: Nodes, LayoutObjects, ..."""
        self.command('Performance.enable')
        return {each['name']: each['value'] for each in self.command('Performance.getMetrics')['metrics']}

    def evaluate(self, expression: str, *, wait: bool = False) -> Any:
        """Return the value of a JavaScript expression in the page; ``wait``: of the promise that it is."""
        answer = self.command('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=wait)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def complaints(self) -> list[object]:
        """Everything that the console or the log says, and every exception."""
        return [event['params'] for event in self.events if event.get('method') in (
            'Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded')]

    def requests(self) -> list[str]:
        """Address of everything that was asked for."""
        return [event['params']['request']['url'] for event in self.events
                if event.get('method') == 'Network.requestWillBeSent']

    def _next(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b'\0' not in self._buffer:
            assert self._process.poll() is None, 'the browser ended'
            assert time.monotonic() < end, 'the browser does not answer'
            try:
                self._buffer += os.read(self._read, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)
