"""A watch ends its process in the end, whatever else fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from torch.distributed import HashStore
from mlperf_det.training.watch import Rhythm, Watch

def close_record(cause):
    print('closing:', cause, flush=True)
    if sys.argv[2] == 'full':
        raise OSError('no space left on device')

watch = Watch(rank=0, size=1, store=HashStore(), on_forced_exit=close_record, log=Path(sys.argv[1]) / 'rank_0.log',
              rhythm=Rhythm(beat=0.05, silence=5.0, grace=0.3))
with watch:
    watch.publish('the test says so')
    time.sleep(100)
"""


@pytest.mark.parametrize('disk', ['free', 'full'])
def test_a_rank_that_hangs_is_ended_even_where_nothing_can_be_written(tmp_path: Path, disk: str) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, '-c', PROGRAM, str(tmp_path / 'run'), disk], capture_output=True, text=True,
                          check=False, timeout=90)
    assert done.returncode == 1
    assert time.monotonic() - started < 80
    assert done.stdout == 'closing: the test says so\n'
    assert 'rank 0: ended because the test says so' in done.stderr
    log = tmp_path / 'run' / 'rank_0.log'  # the folder comes to be for it
    assert log.exists() == (disk == 'free')
    assert disk == 'full' or 'Thread MainThread:' in log.read_text()
