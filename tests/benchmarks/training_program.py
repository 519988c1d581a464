"""The training program as a process of its own, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def program(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, '-m', 'mlperf_det', *words], stderr=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1', **environment})


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, error = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, error


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    path = folder / 'metrics.jsonl'
    text = path.read_text() if path.exists() else ''
    complete = text[:text.rfind('\n') + 1]
    return [line for line in map(json.loads, complete.splitlines()) if line['kind'] == kind]
