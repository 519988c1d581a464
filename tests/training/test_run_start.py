"""MLPerf's clock: nothing of the data, annotations included, is touched before ``run_start`` is in the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlperf_det.cli import main

#: Trains, and notes for each file below the dataset's root whether the log had its run_start when it was opened.
AUDITED = """
import json, sys
from pathlib import Path

root, log, notes, *arguments = sys.argv[1:]
opened = []

def note(event, details):
    if event == 'open' and str(details[0]).startswith(root):
        started = Path(log).exists() and 'run_start' in Path(log).read_text()
        opened.append((str(Path(str(details[0])).relative_to(root)), started))

sys.addaudithook(note)
from mlperf_det.cli import main
status = main(arguments)
Path(notes).write_text(json.dumps({'status': status, 'opened': opened}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(('benchmark', 'card'), [
    ('ssd', 'generated-coco'), ('maskrcnn', 'generated-coco'), ('retinanet', 'generated-openimages')])
def test_no_data_is_opened_before_run_start(tmp_path: Path, benchmark: str, card: str) -> None:
    root = tmp_path / 'data'
    where = [card, '--root', str(root)]
    assert main(['data', 'generate', *where, '--train', '6', '--val', '3', '--workers', '1']) == 0
    assert main(['data', 'prepare', *where]) == 0
    assert main(['data', 'verify', *where]) == 0
    arguments = ['train', benchmark, '--recipe', 'smoke', '--data', str(root), '--output', str(tmp_path / 'run'),
                 '--device', 'cpu', '--seed', '1']
    settings = ['epochs=2', 'local_batch_size=3', 'runtime.loader_workers=0', 'runtime.precision=fp32']
    settings += {'ssd': ['evaluation_interval=1', 'decay_epochs=[1,2]'],
                 'maskrcnn': ['min_image_size=96', 'max_image_size=128']}.get(benchmark, [])
    done = subprocess.run(
        [sys.executable, '-c', AUDITED, root, tmp_path / 'run' / 'result_0.txt', tmp_path / 'notes.json', *arguments,
         *(word for setting in settings for word in ('--set', setting))],
        env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, check=False, timeout=200)
    assert (tmp_path / 'notes.json').exists(), done.stderr[-2000:]
    notes = json.loads((tmp_path / 'notes.json').read_text())
    assert notes['status'] in (0, 3), done.stderr[-2000:]
    before = {path for path, started in notes['opened'] if not started}
    after = {path for path, started in notes['opened'] if started}
    assert before == {'dataset.json'}
    assert any(path.endswith('.json') for path in after)
    assert any(path.endswith('.jpg') for path in after)
