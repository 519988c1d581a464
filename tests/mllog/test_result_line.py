from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from mlperf_det.mllog.result_line import append_result_line, process_start, result_seconds


def test_the_line_closes_the_log_and_is_read_back(tmp_path: Path) -> None:
    log = tmp_path / 'result_0.txt'
    log.write_text(':::MLLOG {}\n')
    append_result_line(log, 'maskrcnn', org='ACME, Inc.', started=1_000_000.0, ended=1_009_252.2)
    first, last = log.read_text().splitlines()
    assert first == ':::MLLOG {}'
    assert last.startswith('RESULT,OBJECT_DETECTION,,9253,ACME Inc.,1970-01-')
    assert last.count(',') == 5
    assert result_seconds(log.read_bytes()) == 9253


def test_other_benchmarks_have_no_such_line(tmp_path: Path) -> None:
    log = tmp_path / 'result_0.txt'
    log.write_text('')
    append_result_line(log, 'retinanet', org='x', started=0.0, ended=1.0)
    assert log.read_text() == ''


def test_the_last_of_the_lines_that_ranks_print_counts() -> None:
    log = b'RESULT,OBJECT_DETECTION,,407,nvidia,2018\n7: RESULT,OBJECT_DETECTION,,409.5,nvidia,2018\n'
    assert result_seconds(log) == 409.5
    assert result_seconds(b'RESULT,OTHER,,1,x') is None


def test_a_process_begins_before_its_imports() -> None:
    program = ('import time; time.sleep(0.3); from mlperf_det.mllog.result_line import process_start; '
               'print(process_start())')
    before = time.time()
    found = float(subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True).stdout)
    assert before - 0.02 <= found <= time.time() - 0.3
    assert abs(process_start() - process_start()) < 0.01
