"""The line with which the run scripts of MLPerf submissions end a log, and which ThaiSC scores.

``RESULT,OBJECT_DETECTION,,9253,org,2020-06-24 11:25:06 PM``: whole seconds from the start of the process, imports and
initialisation included, to its end. MLPerf's own time, run_stop - run_start, is 20 to 60 s shorter.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

#: Benchmark -> its name in the line; others have no such line here.
_NAMES: Mapping[str, str] = MappingProxyType({'maskrcnn': 'OBJECT_DETECTION'})
_RESULT = re.compile(rb'RESULT,OBJECT_DETECTION,,(\d+(?:\.\d+)?),')


def append_result_line(log: Path, benchmark: str, *, org: str, started: float, ended: float) -> None:
    """Append the line to a finished log; nothing for a benchmark that has none.

    Args:
        log: of the run.
        benchmark: name of the benchmark.
        org: who ran it; commas, which separate the fields, become blanks.
        started: Unix seconds at which the process of the first attempt began.
        ended: Unix seconds of now.
    """
    name = _NAMES.get(benchmark)
    if name is None:
        return
    began = time.strftime('%Y-%m-%d %I:%M:%S %p', time.localtime(started))
    with log.open('a', encoding='utf-8') as stream:
        stream.write(f'RESULT,{name},,{math.ceil(ended - started)},{" ".join(org.replace(",", " ").split())},{began}\n')


def result_seconds(log: bytes) -> float | None:
    """Return the seconds of the last ``RESULT,OBJECT_DETECTION,,<seconds>,`` line; None without one."""
    found = _RESULT.findall(log)
    return float(found[-1]) if found else None


def process_start() -> float:
    """Return when this process began, in Unix seconds: before Python itself was loaded (Linux, proc(5))."""
    fields = Path('/proc/self/stat').read_text(encoding='utf-8', errors='replace').rpartition(')')[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf('SC_CLK_TCK')
    return time.time() - age
