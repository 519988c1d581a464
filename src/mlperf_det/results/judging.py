"""Read everything below some paths and judge it: what the commands `verdict` and `report` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlperf_det.mllog.collection import Collection, collect
from mlperf_det.results.acceptance import Acceptance, load_acceptance
from mlperf_det.results.convergence_points import check_convergence
from mlperf_det.results.energy import energies_of
from mlperf_det.results.groups import Group, group_runs
from mlperf_det.results.reading import runs_in
from mlperf_det.results.references.table import References, load_references
from mlperf_det.results.rules import rule_findings
from mlperf_det.results.verdict import Verdict, judge, not_run
from mlperf_det.tables import counted


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was read, and what is said of it.

    Attributes:
        groups: of runs.
        verdicts: on the groups in their order, then NOT-RUN for each promise that no run is about. Without any run and
            promise there is one verdict, NOT-RUN.
        findings: path of a log -> breaches of rules; a log that was not checked is not in it.
        energies: path of a log -> joules to train, where power was recorded.
    """

    groups: Sequence[Group]
    verdicts: Sequence[Verdict]
    findings: Mapping[str, Sequence[str]]
    energies: Mapping[str, float] = field(default_factory=dict)


def judge_all(paths: Sequence[Path], references_file: Path | None = None, *, acceptance_file: Path | None = None,
              published_rules: bool = False) -> Judged:
    """Read and judge all runs below ``paths``; no run at all is a verdict too.

    Raises:
        UserError: a path does not exist, or the references or the acceptance file cannot be read.
    """
    references = load_references(references_file) if references_file else None
    acceptance = load_acceptance(acceptance_file) if acceptance_file else None
    collection = collect(paths)
    groups = group_runs(runs_in(collection))
    findings = rule_findings((run for group in groups for run in group.runs), published=published_rules)
    verdicts = [_judged(group, references, acceptance, findings, collection) for group in groups]
    for promise in acceptance.promises if acceptance else ():
        if not any(promise.covers(run) for group in groups for run in group.runs):
            verdicts.append(not_run(f'of {counted(promise.runs, "promised run")} there is none', title=promise.title))
    if not verdicts:
        verdicts = [not_run(f'no run.json and no result_*.txt below {", ".join(map(str, paths))}')]
    energies = energies_of(run for group in groups for run in group.runs)
    return Judged(groups=groups, verdicts=verdicts, findings=findings, energies=energies)


def _judged(group: Group, references: References | None, acceptance: Acceptance | None,
            findings: Mapping[str, Sequence[str]], collection: Collection) -> Verdict:
    """Judge a group. Published scores are normalised as published, our own as the convergence check finds."""
    convergence = check_convergence(group.runs)
    factor = collection.scaling_factor(group.folder)
    if group.runs[0].record is not None and convergence is not None and convergence.passed:
        factor = convergence.factor
    return judge(group, references, acceptance=acceptance, findings=findings, convergence=convergence,
                 scaling_factor=factor)
