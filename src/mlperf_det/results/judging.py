"""Read everything below some paths and judge it: what the commands `verdict` and `report` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.mllog.collection import collect
from mlperf_det.results.groups import Group, group_runs
from mlperf_det.results.reading import runs_in
from mlperf_det.results.references import load_references
from mlperf_det.results.rules import rule_findings
from mlperf_det.results.verdict import Verdict, judge, not_run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Groups with their verdicts in the same order, and the breaches of rules by log.

    Without any run there is no group and one verdict, NOT-RUN.
    """

    groups: Sequence[Group]
    verdicts: Sequence[Verdict]
    findings: Mapping[str, Sequence[str]]


def judge_all(paths: Sequence[Path], references_file: Path | None, *, published_rules: bool) -> Judged:
    """Read and judge all runs below ``paths``; no run at all is a verdict too."""
    references = load_references(references_file) if references_file else None
    collection = collect(paths)
    groups = group_runs(runs_in(collection))
    findings = rule_findings((run for group in groups for run in group.runs), published=published_rules)
    verdicts = [judge(group, references, scaling_factor=collection.scaling_factor(group.folder), findings=findings)
                for group in groups]
    if not groups:
        verdicts = [not_run(f'no run.json and no result_*.txt below {", ".join(map(str, paths))}')]
    return Judged(groups=groups, verdicts=verdicts, findings=findings)
