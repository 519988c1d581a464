"""The verdict on a group of runs: one of seven states, a sentence that says why, and an exit code.

==============  =========  =============================================================================================
state           exit code  meaning
==============  =========  =============================================================================================
PASS            0          quality reached; performance as good as its references, where there are any
PASS-SLOW       10         quality reached; slower than the reference, within its limit
UNSTABLE        11         the runs disagree or are fewer than planned: more are needed before anything can be said
FAIL-QUALITY    12         the quality target was missed, or the rules of the round were broken
FAIL-PERF       13         quality reached; performance beyond the limit of a reference
FAIL-INFRA      14         a run died, left no readable log, contradicts itself, or lacks a reference to judge it by
NOT-RUN         15         there is no run
==============  =========  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from mlperf_det.recipes.recipe import Tier
from mlperf_det.results.acceptance import Acceptance, Promise
from mlperf_det.results.convergence_points import ConvergenceCheck
from mlperf_det.results.groups import Group
from mlperf_det.results.performance import CONFIDENCE, JUDGED, Judgement, Standing, amount_text, judge_metric
from mlperf_det.results.references.table import Direction, Lookup, Reference, References
from mlperf_det.results.run import Run, RunStatus
from mlperf_det.results.score import (
    LEAST_RUNS,
    Score,
    counted_as_slowest,
    missed_target,
    score_runs,
    to_convergence,
)
from mlperf_det.run_folder import Outcome
from mlperf_det.tables import counted


class State(str, Enum):
    """What a verdict says."""

    PASS = 'PASS'  # noqa: S105 - no password
    PASS_SLOW = 'PASS-SLOW'  # noqa: S105
    UNSTABLE = 'UNSTABLE'
    FAIL_QUALITY = 'FAIL-QUALITY'
    FAIL_PERF = 'FAIL-PERF'
    FAIL_INFRA = 'FAIL-INFRA'
    NOT_RUN = 'NOT-RUN'


EXIT_CODES: Mapping[State, int] = MappingProxyType({
    State.PASS: 0, State.PASS_SLOW: 10, State.UNSTABLE: 11, State.FAIL_QUALITY: 12, State.FAIL_PERF: 13,
    State.FAIL_INFRA: 14, State.NOT_RUN: 15,
})
#: from best to worst: of several verdicts the worst is that of the whole
SEVERITY = (State.PASS, State.PASS_SLOW, State.UNSTABLE, State.NOT_RUN, State.FAIL_PERF, State.FAIL_QUALITY,
            State.FAIL_INFRA)
_DIED = (RunStatus.INCOMPLETE, RunStatus.UNREADABLE)
#: seconds or images/s; a measured figure is not below it
_LEAST = 1e-3
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one group.

    Attributes:
        title: of the group.
        state: what is said.
        cause: why, in one sentence.
        marks: what sets the runs apart from a closed MLPerf run; they are part of the verdict.
        notes: what the reader should know besides.
        score: None without runs.
        judgements: each judged metric against its reference.
        convergence: epochs against the reference convergence points; None where these rules do not apply.
    """

    title: str
    state: State
    cause: str
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    score: Score | None = None
    judgements: tuple[Judgement, ...] = ()
    convergence: ConvergenceCheck | None = None

    @property
    def line(self) -> str:
        """The verdict in one line, marks included."""
        marks = f' [{", ".join(self.marks)}]' if self.marks else ''
        return f'{self.state.value}{marks} {self.title}: {self.cause}'


def not_run(cause: str, title: str = 'no run') -> Verdict:
    """Return the verdict for nothing."""
    return Verdict(title=title, state=State.NOT_RUN, cause=cause)


def overall(verdicts: Sequence[Verdict]) -> State:
    """Return the worst state; NOT-RUN for none."""
    return max((verdict.state for verdict in verdicts), key=SEVERITY.index, default=State.NOT_RUN)


def judge(group: Group, references: References | None = None, *, acceptance: Acceptance | None = None,
          scaling_factor: float = 1.0, convergence: ConvergenceCheck | None = None,
          findings: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Verdict:
    """Judge a group of runs.

    Args:
        group: the runs.
        references: what performance is held against; None: performance is not judged, and the cause says so.
        acceptance: what the contract promises; a promised metric is held against the promise alone.
        scaling_factor: of the group's ``scaling.json``.
        convergence: a rejection fails the group.
        findings: path of a log -> breaches of the rules of its round; they fail a closed run.
    """
    runs = group.runs
    score = score_runs(runs, scaling_factor)
    promise = acceptance.promise_for(runs[0]) if acceptance and runs else None
    judgements = _judgements(runs, references, promise, acceptance.confidence if acceptance else CONFIDENCE)
    state, cause = (
        _infrastructure(runs) or _quality(runs, score) or _promised_quality(runs, promise)
        or _rules(runs, findings, convergence) or _performance(runs, judgements, promise, _summary(runs, score)))
    if state in (State.PASS, State.PASS_SLOW) and promise and (beyond := _score_beyond(score, judgements)):
        state, cause = State.UNSTABLE, f'{_summary(runs, score)}; {beyond}'
    notes = [f'{run.source.name}: {run.status.value}, {run.reason}' for run in runs
             if not (run.converged or run.finished_steps or f'{run.source.name}: {run.reason}' in cause)]
    notes += [judgement.sentence for judgement in judgements]
    if convergence is not None:
        notes.append(convergence.sentence)
    if acceptance and runs and promise is None:
        notes.append(f'{acceptance.path.name} promises nothing of these runs')
    return Verdict(title=group.title, state=state, cause=cause, marks=_marks(runs), score=score,
                   notes=tuple(note for note in notes if note not in cause),
                   judgements=judgements, convergence=convergence)


def _infrastructure(runs: Sequence[Run]) -> tuple[State, str] | None:
    if not runs:
        return State.NOT_RUN, 'there is no run to judge'
    died = [run for run in runs if run.status in _DIED]
    if died:
        return State.FAIL_INFRA, (f'{len(died)} of {counted(len(runs), "run")} did not end properly: '
                                  f'{died[0].source.name}: {died[0].reason}')
    contradicting = [run for run in runs if _contradicts_itself(run)]
    if contradicting:
        return State.FAIL_INFRA, f'{contradicting[0].source.name}: {contradicting[0].reason}'
    return None


def _contradicts_itself(run: Run) -> bool:
    """Say whether log and run.json tell different stories of a run that ended."""
    if run.record is None or run.summary is None or run.status is not RunStatus.ABORTED:
        return False
    log_converged = run.summary.status == 'success' and run.summary.target_reached
    return log_converged or (run.record.outcome is Outcome.CONVERGED and run.summary.status != 'success')


def _quality(runs: Sequence[Run], score: Score) -> tuple[State, str] | None:
    """Judge the quality target. MLPerf lets one of N runs to convergence miss it; other tiers are no MLPerf runs."""
    missed = [run for run in runs if missed_target(run)]
    if not missed or counted_as_slowest(runs):
        return None
    first = f'{missed[0].source.name}: {missed[0].status.value}, {missed[0].reason}'
    if len(missed) == 1 and score.converged and to_convergence(runs):
        return State.UNSTABLE, (f'1 of {len(runs)} runs missed the target ({first}); '
                                f'{counted(LEAST_RUNS - len(runs), "more run")} would settle it')
    return State.FAIL_QUALITY, f'{len(missed)} of {counted(len(runs), "run")} missed the quality target: {first}'


def _promised_quality(runs: Sequence[Run], promise: Promise | None) -> tuple[State, str] | None:
    for run in runs if promise else ():
        for metric, least in promise.quality.items() if promise and run.converged else ():
            value = run.final_metrics.get(metric)
            if value is None or not value >= least:
                reached = 'no value' if value is None else f'{value:.4f}'
                return State.FAIL_QUALITY, f'{run.source.name}: {metric} AP is {reached}, {least:g} is promised'
    return None


def _rules(runs: Sequence[Run], findings: Mapping[str, Sequence[str]],
           convergence: ConvergenceCheck | None) -> tuple[State, str] | None:
    for run in runs:
        breaches = findings.get(str(run.log), ())
        if breaches and run.division == 'closed' and run.converged:
            return State.FAIL_QUALITY, f'{run.source.name} breaks the closed-division rules: {breaches[0]}'
    if convergence is not None and convergence.passed is False:
        return State.FAIL_QUALITY, convergence.sentence
    return None


def _performance(runs: Sequence[Run], judgements: Sequence[Judgement], promise: Promise | None,
                 quality: str) -> tuple[State, str]:
    by_standing = {judgement.standing: judgement for judgement in reversed(judgements)}
    unmeasured = set(promise.references() if promise else ()) - {judgement.metric for judgement in judgements}
    if unmeasured:
        return State.FAIL_INFRA, f'{", ".join(sorted(unmeasured))} is promised, but no run yields it'
    missing = _missing_runs(runs, promise)
    beyond = by_standing.get(Standing.BEYOND)
    if beyond and not (missing and beyond.n == 1):
        return State.FAIL_PERF, f'{quality}; {beyond.sentence}'
    if missing:
        return State.UNSTABLE, f'{quality}; {missing}'
    if undecided := by_standing.get(Standing.UNDECIDED):
        return State.UNSTABLE, f'{quality}; {undecided.sentence}'
    if not judgements:
        return State.PASS, f'{quality}; performance is not judged (no references)'
    if poor := by_standing.get(Standing.NO_LIMIT):
        return State.FAIL_INFRA, poor.sentence
    judged = [judgement for judgement in judgements if judgement.standing is not Standing.NO_REFERENCE]
    if not judged:
        return State.FAIL_INFRA, judgements[0].sentence
    if slow := by_standing.get(Standing.SLOW):
        return State.PASS_SLOW, f'{quality}; {slow.sentence}'
    return State.PASS, f'{quality}; {judged[0].sentence}'


def _missing_runs(runs: Sequence[Run], promise: Promise | None) -> str:
    """Say that there are fewer runs than the recipe or the contract asks for; empty where there are enough."""
    planned = max((count for run in runs if run.record is not None
                   and isinstance(count := run.record.recipe.get('experiments'), int)), default=1)
    promised = promise.runs if promise else 1
    if len(runs) >= max(planned, promised):
        return ''
    who = 'the contract' if promised >= planned else 'the recipe'
    return (f'{len(runs)} of the {max(planned, promised)} runs that {who} asks for; '
            f'{max(planned, promised) - len(runs)} are missing')


def _score_beyond(score: Score, judgements: Sequence[Judgement]) -> str:
    """Say that the MLPerf score misses the limit of a time although the mean keeps it; empty where it does not."""
    for judgement in judgements:
        if judgement.metric == 'time_to_train' and judgement.limit and score.minutes is not None \
                and score.minutes * 60 > judgement.limit * (1 + _ROUNDING):
            return (f'the MLPerf score {amount_text(judgement.metric, score.minutes * 60)} is beyond the limit '
                    f'{amount_text(judgement.metric, judgement.limit)}, though '
                    f'the mean of the runs is within it; {counted(score.runs, "more run")} would show which holds')
    return ''


def _judgements(runs: Sequence[Run], references: References | None, promise: Promise | None,
                confidence: float) -> tuple[Judgement, ...]:
    if not runs:
        return ()
    place, found = runs[0].geometry, []
    promised = promise.references() if promise else {}
    for metric, value_of in JUDGED.items():
        values = [max(value, _LEAST) for run in runs
                  if run.converged or (run.finished_steps and metric != 'time_to_train')
                  if (value := value_of(run)) is not None]
        if not values:
            continue
        if metric in promised:
            lookup = _as_lookup(promised[metric])
        elif references is not None:
            lookup = references.lookup(runs[0].benchmark, place.accelerator, place.nodes or 0,
                                       runs[0].precision or 'mixed', metric)
            if lookup.reference is None and runs[0].tier == Tier.SMOKE:
                continue    # minutes of a toy model: its check needs no reference either
        else:
            continue
        found.append(judge_metric(metric, values, lookup, confidence=confidence))
    return tuple(found)


def _as_lookup(promise: Reference) -> Lookup:
    lower_is_better = promise.direction is Direction.LOWER
    return Lookup(reference=promise, upper=promise.limit() if lower_is_better else None,
                  lower=None if lower_is_better else promise.limit())


def _summary(runs: Sequence[Run], score: Score) -> str:
    """Say in a few words what the runs reached."""
    if all(run.finished_steps for run in runs):
        return f'{counted(len(runs), "run")} did the steps asked for'
    who = f'{score.converged} of {score.runs} runs' if score.runs > 1 else 'the run'
    worst = min((run for run in runs if run.converged), key=lambda run: tuple(run.final_metrics.values()))
    accuracy = ', '.join(f'{metric} AP {value:.4f} >= {worst.target.get(metric, 0):.4g}'
                         for metric, value in worst.final_metrics.items() if metric in worst.target)
    time = f' in {score.minutes:.2f} min (MLPerf score)' if score.minutes is not None else (
        f' in {score.mean:.2f} min' if score.mean is not None else '')
    return f'{who} reached the target ({accuracy}){time}'


def _marks(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the marks of any run, in their order of first occurrence."""
    return tuple(dict.fromkeys(mark for run in runs for mark in run.deviations))
