"""What a group was checked for and how each check came out: the engineer's way to the cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mlperf_det.results.groups import Group
from mlperf_det.results.judging import Judged
from mlperf_det.results.performance import Judgement, Standing
from mlperf_det.results.report.charts import run_name
from mlperf_det.results.report.figures import percent_text
from mlperf_det.results.report.html import Markup, join, table, tag
from mlperf_det.results.report.references_section import METRIC_NAMES, sureness
from mlperf_det.results.report.spread import suspect_sentences
from mlperf_det.results.rules import ruleset_of
from mlperf_det.results.run import Run
from mlperf_det.results.verdict import Verdict
from mlperf_det.tables import counted

#: tone of the page -> sign that needs no colour
SIGNS: Mapping[str, str] = MappingProxyType({'good': '✓', 'warn': '!', 'bad': '✕', 'none': '–'})
_TONES: Mapping[Standing, str] = MappingProxyType({
    Standing.GOOD: 'good', Standing.SLOW: 'warn', Standing.UNDECIDED: 'warn', Standing.BEYOND: 'bad',
    Standing.NO_LIMIT: 'bad', Standing.NO_REFERENCE: 'bad'})
#: breaches of a group that are listed; the rest is in summary.json
_MOST_FINDINGS = 40
#: suspects in words; the tables have all
_MOST_SUSPECTS = 4

Check = tuple[str, str, str]


def checks_table(group: Group, verdict: Verdict, judged: Judged, *, terse: bool) -> Markup | None:
    """Return a table of checks: tone, what was checked, outcome in words. ``terse`` leaves out what was not done."""
    runs = group.runs
    if all(run.summary is None for run in runs):
        return None    # the verdict says why there is nothing to check
    rows = [_quality(runs), _rules(runs, judged.findings), _convergence(verdict)]
    rows += map(_performance, verdict.judgements)
    if not verdict.judgements:
        rows.append(('none', 'Performance', 'is not judged: there is no reference and no promise for these runs'))
    rows += [('warn', 'Nodes and ranks', sentence) for sentence in suspect_sentences(runs)[:_MOST_SUSPECTS]]
    if terse:
        rows = [row for row in rows[1:] if row[0] != 'none']
    if not rows:
        return None
    return table(['check', 'outcome'], [
        [tag('span', tag('span', f'{SIGNS[tone]} {name}', class_='state'), class_=tone), words]
        for tone, name, words in rows], caption='What was checked', narrow=(0,), titles=(1,), stacked=True)


def _quality(runs: Sequence[Run]) -> Check:
    reached = sum(run.converged for run in runs)
    if runs and all(run.finished_steps for run in runs):
        return 'none', 'Quality target', 'no target is tried by runs of a fixed number of steps'
    target = ', '.join(f'{metric} AP {least:g}' for metric, least in runs[0].target.items()) or 'unknown target'
    tone = 'good' if reached == len(runs) else 'warn' if reached and reached == len(runs) - 1 else 'bad'
    return tone, 'Quality target', f'{reached} of {counted(len(runs), "run")} reached {target} in the last evaluation'


def _rules(runs: Sequence[Run], findings: Mapping[str, Sequence[str]]) -> Check:
    checked = [run for run in runs if str(run.log) in findings]
    if not checked:
        return 'none', 'MLPerf rules', f'not checked: {_why_unchecked(runs)}'
    ruleset, broken = ruleset_of(checked[0]), sum(bool(findings[str(run.log)]) for run in checked)
    if not broken:
        return 'good', 'MLPerf rules', f'{len(checked)} of {len(runs)} logs checked: all keep rule set {ruleset}'
    words = f'{broken} of {len(checked)} checked logs break rule set {ruleset}'
    if all(run.division == 'closed' for run in checked):
        return 'bad', 'MLPerf rules', f'{words}; see the findings below'
    return 'none', 'MLPerf rules', f'{words}, which is allowed in the open division; see the findings below'


def _why_unchecked(runs: Sequence[Run]) -> str:
    if not any(run.converged for run in runs):
        return 'no run converged'
    if not any(isinstance(run.log, Path) and run.log.is_file() for run in runs):
        return 'the logs lie in an archive'
    if all(run.record is None for run in runs):
        return 'the logs are published ones, which are checked with --rules'
    return f'the rule set {ruleset_of(runs[0]) or "of the recipe"} is not known'


def _convergence(verdict: Verdict) -> Check:
    check = verdict.convergence
    if check is None:
        return 'none', 'Convergence points', 'do not apply outside the closed division and to reduced runs'
    tone = {True: 'good', False: 'bad', None: 'none'}[check.passed]
    return tone, 'Convergence points', check.sentence


def _performance(judgement: Judgement) -> Check:
    """Return the outcome in short: the figures stand in the table of references."""
    tone, name = _TONES[judgement.standing], METRIC_NAMES[judgement.metric]
    reference = judgement.reference
    if reference is None or judgement.limit is None:
        return tone, name, judgement.sentence
    words = [f'{percent_text(judgement.mean / reference.value - 1)} to the {reference.source.kind.value} reference',
             f'{sure[0]} sure to be {sure[1]} its limit' if (sure := sureness(judgement)) else
             'one run, so no confidence can be stated']
    if judgement.more_runs is not None:
        words.append(f'{counted(judgement.more_runs, "further run")} would settle it')
    return tone, name, '; '.join(words)


def rest_of_notes(verdict: Verdict) -> Markup | None:
    """Return the notes of a verdict that are not in the table of checks."""
    told = {judgement.sentence for judgement in verdict.judgements}
    if verdict.convergence is not None:
        told.add(verdict.convergence.sentence)
    rest = [note for note in verdict.notes if note not in told]
    return tag('ul', join(tag('li', note) for note in rest), class_='notes') if rest else None


def findings_list(runs: Sequence[Run], findings: Mapping[str, Sequence[str]]) -> Markup | None:
    """Return the breaches of rules, each with the runs that it occurs in; None without any."""
    where: dict[str, list[str]] = {}
    for run in runs:
        for finding in findings.get(str(run.log), ()):
            where.setdefault(finding, []).append(run_name(run))
    if not where:
        return None
    items = [tag('li', f'{_who(names, len(runs))}: {finding}') for finding, names in where.items()]
    rest = [tag('li', f'and {len(items) - _MOST_FINDINGS} more in summary.json')] if len(items) > _MOST_FINDINGS else []
    # Runs of the open division, smoke runs among them, need not keep the rules: no alarm.
    tone = 'bad' if any(run.division == 'closed' for run in runs) else 'none'
    return tag('div', tag('h3', 'Rule findings'), tag('ul', join(items[:_MOST_FINDINGS] + rest)),
               class_=f'findings {tone}')


def _who(names: Sequence[str], runs: int) -> str:
    return f'all {runs} runs' if len(names) == runs > 1 else ', '.join(names)
