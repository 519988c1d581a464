"""What must hold of a run before a check may call it good. Each problem is one line that begins with its cause.

How a run ended is judged where all stations judge it (`results.run`), from its MLPerf log, run.json and losses
together. Here the run is compared with what the check asked for: the recipe, the devices, the data, the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from mlperf_det.errors import UserError
from mlperf_det.mllog.compliance import check_log
from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.recipe import Division, Recipe, Tier
from mlperf_det.results.reading import read_runs
from mlperf_det.results.run import Run, RunStatus
from mlperf_det.results.score import LEAST_RUNS, counted_as_slowest
from mlperf_det.run_folder import METRICS_JSONL, Outcome, RunRecord, read_record

_OUTCOMES: Mapping[Outcome, str] = MappingProxyType({
    Outcome.RUNNING: 'the training process ended without a word (killed? out of memory?), run.json says running',
    Outcome.ABORTED: 'training ended below the quality target',
    Outcome.DIVERGED: 'training diverged',
    Outcome.INTERRUPTED: 'training was interrupted before its end',
    Outcome.FAILED: 'the training program failed',
    Outcome.FINISHED: 'training did a fixed number of steps, where the quality target was asked for',
    Outcome.CONVERGED: 'training went to the quality target, where a fixed number of steps was asked for',
})
_MISSED = (Outcome.ABORTED, Outcome.DIVERGED)
#: The official checker's words for a log without ``cache_clear``.
_CACHES_NOT_CLEARED = "Required AT_LEAST_ONE occurrence of 'cache_clear' but found 0"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the check asked for.

    Attributes:
        recipe: the recipe with all overrides applied.
        device_type: 'cuda' where GPUs were asked for (CUDA and ROCm), else 'cpu'.
        dataset_fingerprint: fingerprint of the verified dataset.
        evaluation_images: images of its validation split.
        negative_control: what the dataset declares as spoilt on purpose; empty: nothing.
    """

    recipe: Recipe
    device_type: str
    dataset_fingerprint: str
    evaluation_images: int
    negative_control: str = ''

    @property
    def to_target(self) -> bool:
        """Whether the run was to reach the quality target; else it was to do a fixed number of steps."""
        return self.recipe.tier is not Tier.THROUGHPUT


def read_run(folder: Path) -> Run:
    """Return the one run of a run folder.

    Raises:
        UserError: run.json is missing or unreadable, or the folder holds several runs.
    """
    read_record(folder)
    runs = read_runs([folder])
    if len(runs) != 1:
        raise UserError(f'{folder}: holds {len(runs)} runs instead of one')
    return runs[0]


def stated_reason(folders: Sequence[Path]) -> str:
    """Return why the first run that went wrong says that it did; empty where none says anything."""
    for folder in folders:
        try:
            record = read_record(folder)
        except UserError:
            continue
        if record.outcome not in (Outcome.CONVERGED, Outcome.FINISHED):
            return _OUTCOMES[record.outcome] + (f': {record.reason}' if record.reason else '')
    return ''


def negative_control_remark(spoilt: str) -> str:
    """Return in words what a dataset declares of itself."""
    return f'the dataset declares itself a negative control: {spoilt}'


def problems(runs: Sequence[Run], expected: Expected) -> list[str]:
    """Return everything that keeps the runs of a job from being good, the likeliest cause first; empty for good ones.

    Of the one run that MLPerf lets miss the target, only what does not depend on reaching it is asked.
    """
    forgiven = counted_as_slowest(runs) if may_miss(expected.recipe) else None
    found: list[str] = []
    for run in runs:
        if run.record is None:
            found.append(f'{run.source}: {run.reason}')
            continue
        well_missed = run is forgiven and run.record.outcome in _MISSED
        for requirement in OF_WHAT_RAN if well_missed else (*OF_REACHING_THE_TARGET, *OF_WHAT_RAN):
            found += [f'{problem} ({Path(run.source).name})' for problem in requirement(run, run.record, expected)]
    return found


def may_miss(recipe: Recipe) -> bool:
    """Say whether one run of a job may miss the target: among at least three that MLPerf's rules apply to."""
    return recipe.tier is Tier.CONVERGENCE and recipe.experiments >= LEAST_RUNS


def ended_well(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """The log, run.json and the losses agree that the run did what it was asked for."""
    wanted = Outcome.CONVERGED if expected.to_target else Outcome.FINISHED
    if record.outcome is not wanted:
        yield f'{_OUTCOMES[record.outcome]}: {record.reason or run.reason}'
    elif not (run.status is RunStatus.CONVERGED if expected.to_target else run.finished_steps):
        yield f'the run is {run.status.value}: {run.reason}'


def loss_is_sound(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Losses were recorded, all are finite, and in a run of a fixed number of steps they fall."""
    losses = [(point.step, point.loss) for point in run.track]
    if not losses:
        yield f'{METRICS_JSONL} has no loss: nothing shows that the model was trained'
    finite = [loss for _, loss in losses if loss is not None and math.isfinite(loss)]
    if len(finite) < len(losses):
        yield f'the loss is not finite at step {next(step for step, loss in losses if loss is None):g}'
    elif losses and not expected.to_target:
        tenth = max(1, len(finite) // 10)
        first, last = sum(finite[:tenth]) / tenth, sum(finite[-tenth:]) / tenth
        if not last < first:
            yield f'the loss does not fall: {first:.4g} in the first tenth of the run, {last:.4g} in the last'


def recipe_is_the_one_asked_for(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Every field of the recipe that ran equals that of the recipe asked for."""
    # Through JSON, as the run's own copy: tuples become lists.
    asked = msgspec.json.decode(msgspec.json.encode(to_mapping(expected.recipe)))
    for name, value in asked.items():
        if record.recipe.get(name) != value:
            yield f'another recipe ran: {name} is {record.recipe.get(name)!r}, {value!r} was asked for'


def devices_are_those_asked_for(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Nodes, ranks and devices are as many, and of the kind, that the recipe names."""
    recipe = expected.recipe
    if len(record.hosts) != recipe.nodes:
        yield f'{len(record.hosts)} node(s) trained, {recipe.nodes} were asked for'
    for host in record.hosts:
        for key, what in (('ranks', 'rank(s)'), ('devices', 'accelerator(s)')):
            count = len(host.get(key) or ())
            if count != recipe.accelerators_per_node and not (key == 'devices' and expected.device_type == 'cpu'):
                yield f'{host.get("name")}: {count} {what} trained, {recipe.accelerators_per_node} were asked for'
    device = str(record.runtime.get('device'))
    if device.partition(':')[0] != expected.device_type:
        yield f'training ran on {device!r}, {expected.device_type!r} was asked for'


def dataset_is_the_verified_one(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """The run read the dataset whose fingerprint was verified for this check."""
    found = record.dataset.get('fingerprint')
    if found != expected.dataset_fingerprint:
        yield f'another dataset was read: its fingerprint is {found}, verified was {expected.dataset_fingerprint}'


def dataset_is_to_learn_from(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Nothing about the dataset was spoilt on purpose, by its manifest or by what the run read."""
    spoilt = expected.negative_control or record.dataset.get('negative_control')
    if spoilt:
        yield f'{negative_control_remark(str(spoilt))}; no result on it counts'


def evaluation_is_whole(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Every evaluation scored all images of the validation split, and the last one found something."""
    if not expected.to_target:
        return
    wanted = expected.evaluation_images
    logged = run.summary.hyperparameters.get('eval_samples') if run.summary else None
    if logged != wanted:
        yield f'{record.log} states eval_samples {logged}, the validation split has {wanted} images'
    evaluations = read_lines(Path(run.source) / METRICS_JSONL, 'evaluation')
    if not evaluations:
        yield f'{METRICS_JSONL} has no evaluation: nothing shows what the score was computed on'
    for line in evaluations:
        if line.get('images') != wanted:
            yield (f'the evaluation after epoch {line.get("epoch")} scored {line.get("images")} images, '
                   f'the validation split has {wanted}')
    if evaluations and not evaluations[-1].get('detections'):
        yield f'the evaluation after epoch {evaluations[-1].get("epoch")} had not a single detection'


def target_is_met(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """The last accuracy in the MLPerf log reaches the target of the recipe asked for, in every metric."""
    for metric, target in expected.recipe.quality_target.items() if expected.to_target else ():
        reached = run.final_metrics.get(metric, math.nan)
        if reached > 1:
            yield f'{metric} AP {reached:.4f} at the end is no fraction: is it in percent?'
        elif not reached >= target:
            yield f'quality target missed: {metric} AP {reached:.4f} at the end, {target:.4f} is required'


def backbone_is_declared(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """Published weights where the recipe says so; random ones only in the smoke tier, and marked."""
    recipe = expected.recipe
    if record.backbone:
        return
    if recipe.pretrained_backbone:
        yield 'the backbone was initialised at random, the recipe asks for the published weights'
    if recipe.tier is not Tier.SMOKE:
        yield f'the backbone was initialised at random, which only the smoke tier may (this is {recipe.tier.value})'
    if 'random backbone' not in run.deviations:
        yield f'nothing in {record.log} marks that the backbone was initialised at random'


def log_keeps_the_rules(run: Run, record: RunRecord, expected: Expected) -> Iterator[str]:
    """The MLPerf log passes the official compliance checker, but for what an open run declares."""
    recipe = expected.recipe
    if not expected.to_target:
        return
    result = check_log(Path(run.source) / record.log, recipe.ruleset, benchmark=recipe.submission_benchmark,
                       division=recipe.division.value)
    findings = [finding for finding in result.findings if not is_declared(finding, recipe)]
    if findings:
        more = f' (and {len(findings) - 1} more)' if len(findings) > 1 else ''
        yield f'{record.log} breaks the rules of round {recipe.ruleset}: {findings[0]}{more}'


Requirement = Callable[[Run, RunRecord, Expected], Iterator[str]]
OF_REACHING_THE_TARGET: tuple[Requirement, ...] = (
    ended_well, loss_is_sound, evaluation_is_whole, target_is_met, log_keeps_the_rules)
OF_WHAT_RAN: tuple[Requirement, ...] = (
    recipe_is_the_one_asked_for, devices_are_those_asked_for, dataset_is_the_verified_one, dataset_is_to_learn_from,
    backbone_is_declared)


def is_declared(finding: str, recipe: Recipe) -> bool:
    """Say whether a finding is a deviation that an open run declares.

    It may not have cleared the caches, which needs root: its log then has no ``cache_clear``, and the verdict says
    'caches not cleared'. It may have a quality target of its own, which `target_is_met` holds it to: only round v0.7
    holds open runs to the closed target.
    """
    own_target = finding.startswith('Failed checks for eval_accuracy') and '>=' in finding
    return recipe.division is Division.OPEN and (own_target or finding == _CACHES_NOT_CLEARED)


def read_lines(path: Path, kind: str) -> list[Mapping[str, Any]]:
    """Return the lines of one kind in metrics.jsonl; lines that are not JSON are left out.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    found: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            continue
    return [line for line in found if line.get('kind') == kind]
