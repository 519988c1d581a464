"""What mlperf-logging itself says of a group: its score and convergence-point verdict. A referee, not the source."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlperf_det.results.groups import Group
from mlperf_det.results.rules import ruleset_of

COLUMNS = ('library_score', 'library_runs_used', 'library_rcp', 'library_rcp_norm')
#: convergence points exist from this rule set on
_FIRST_WITH_RCPS = 1


def library_columns(group: Group) -> dict[str, Any]:
    """Return the columns ``library_*`` of a group; empty for rounds that the library does not know (v0.5).

    Scores of v0.6 come out 1,000 times too small: the library takes their seconds for milliseconds.

    Args:
        group: its logs must lie uncompressed in one folder on disk; columns of others are empty.
    """
    from mlperf_det.mllog.compliance import rulesets
    ruleset, folder = ruleset_of(group.runs[0]), group.folder
    names = [run.log.name for run in group.runs if isinstance(run.log, Path) and run.log.is_file()]
    if ruleset not in rulesets() or not isinstance(folder, Path) or len(names) != len(group.runs):
        return {}
    if any(not _is_safe(folder / name, ruleset) for name in names):
        return {'library_score': 'error: a submission name that is no name'}
    with _silence():
        return _score(folder, ruleset) | _convergence(folder, ruleset)


def _score(folder: Path, ruleset: str) -> dict[str, Any]:
    from mlperf_logging.result_summarizer import result_summarizer
    try:
        track, _, score, *_ = result_summarizer._compute_strong_score_standalone(
            folder.name, folder.parent.name, False, str(folder), 'training', ruleset, return_full_scores=True)
    except Exception as error:  # noqa: BLE001 - the library raises whatever its rule files run into
        return {'library_score': f'error: {type(error).__name__}', 'library_runs_used': None}
    return {'library_score': 'none' if score is None else score, 'library_runs_used': len(track)}


def _convergence(folder: Path, ruleset: str) -> dict[str, Any]:
    from mlperf_logging.rcp_checker import rcp_checker
    if int(ruleset.partition('.')[0]) < _FIRST_WITH_RCPS:
        return {}
    try:
        passed, message, norm = rcp_checker.check_directory(str(folder), 'training', ruleset, False, False,
                                                            rcp_pass='pruned_rcps')  # noqa: S106 - no password
    except Exception as error:  # noqa: BLE001 - as above
        return {'library_rcp': f'error: {type(error).__name__}({error})'}
    return {'library_rcp': f'{"pass" if passed else "FAIL"}: {message}', 'library_rcp_norm': norm}


def _is_safe(log: Path, ruleset: str) -> bool:
    """Say whether the names in a log are names: the library opens the rule file that they make up, wherever it lies."""
    from mlperf_logging.compliance_checker import mlp_parser
    try:
        lines, _ = mlp_parser.parse_file(str(log), ruleset=ruleset)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return False
    values = [line.value.get('value') if isinstance(line.value, dict) else line.value for line in lines
              if line.key in ('submission_benchmark', 'submission_division')]
    return all(isinstance(value, str) and re.fullmatch('[a-z0-9_]+', value) for value in values)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the library's prints and its use of the root logger to itself."""
    handler, level = logging.NullHandler(), logging.root.level
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
        logging.root.removeHandler(handler)
