"""Breaches of the MLPerf rules in logs, by mlperf-logging's checker with the rule set of the round."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlperf_det.errors import UserError
from mlperf_det.results.run import Run

#: The checker takes a log into memory as a whole; the largest published one has some 10 MB.
LARGEST_CHECKED_BYTES = 256 << 20


def ruleset_of(run: Run) -> str:
    """Return the version of the rules that a run follows, e.g. ``1.1.0``; empty where nothing tells."""
    if run.record is not None:
        ruleset = run.record.recipe.get('ruleset')
        return ruleset if isinstance(ruleset, str) else ''
    return f'{run.round.removeprefix("v")}.0' if run.round else ''


def rule_findings(runs: Iterable[Run], *, published: bool = False) -> dict[str, tuple[str, ...]]:
    """Check the logs of runs that ended in success, and return path -> breaches; a checked log without any has none.

    Args:
        runs: logs inside archives are not checked.
        published: also check logs that are not our own; about a tenth of a second to a second each.
    """
    from mlperf_det.mllog.compliance import check_log, rulesets
    known = rulesets()
    found: dict[str, tuple[str, ...]] = {}
    for run in runs:
        ruleset = ruleset_of(run)
        if not run.converged or ruleset not in known or not isinstance(run.log, Path) or not run.log.is_file():
            continue
        if run.record is None and not published:
            continue
        if run.log.stat().st_size > LARGEST_CHECKED_BYTES:
            found[str(run.log)] = (f'is larger than {LARGEST_CHECKED_BYTES >> 20} MiB: no training log, not checked',)
            continue
        try:
            found[str(run.log)] = check_log(run.log, ruleset).findings
        except UserError as error:
            found[str(run.log)] = (str(error),)
    return found
