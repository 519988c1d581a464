"""Job scripts of checks, as ReFrame would submit them, without submitting anything."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.rfm.session import reframe_command


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """The script of one test case.

    Attributes:
        check: its name as ReFrame shows it.
        partition: ``system:partition``.
        path: the script, in the folder where the job is to run.
    """

    check: str
    partition: str
    path: Path


def render(site: Path, *, checks: Sequence[Path], stage: Path, arguments: Sequence[str] = ()) -> list[JobScript]:
    """Let ReFrame write the job scripts of the selected cases (a dry run), fixtures left out.

    Args:
        site: ReFrame configuration.
        checks: check files.
        stage: folder to keep; each case gets one of its own below it.
        arguments: further arguments of ReFrame: what to select, variables.

    Raises:
        UserError: ReFrame refuses; its last lines are in the message.
    """
    stage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as elsewhere:
        report = Path(elsewhere) / 'report.json'
        command = [reframe_command(), f'--config-file={site}', *(f'--checkpath={path}' for path in checks), '--dry-run',
                   '--keep-stage-files', f'--stage={stage}', f'--output={elsewhere}', f'--perflogdir={elsewhere}',
                   f'--report-file={report}', '--nocolor', '--warn-as-error', *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere)
        cases = json.loads(report.read_text())['runs'][-1]['testcases'] if report.is_file() else []
    if done.returncode or any(case['result'] == 'fail' for case in cases):
        reasons = [' '.join(str(case['fail_reason']).split()) for case in cases if case['result'] == 'fail']
        # ReFrame shows its own command line as well, with options that are called after errors.
        lines = re.findall(r'^.*\berror: .*$', done.stdout + done.stderr, re.IGNORECASE | re.MULTILINE)
        raise UserError(f'{site}: no job script: {"; ".join(reasons or lines[-3:])}')
    return [JobScript(check=case['display_name'], partition=f'{case["system"]}:{case["partition"]}',
                      path=Path(case['stagedir']) / 'rfm_job.sh')
            for case in cases if not case.get('fixture') and case['result'] != 'skip']
