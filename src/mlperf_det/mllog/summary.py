"""The facts of one MLPerf log, gathered in one pass over its events."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from mlperf_det.mllog.accuracy import LoggedAccuracy, as_number, is_usable, read_accuracy
from mlperf_det.mllog.events import Event, Form
from mlperf_det.mllog.intervals import EpochIntervals
from mlperf_det.mllog.reader import EventReader
from mlperf_det.mllog.rounds import benchmark_of, images_of, model_of, round_in, target_of

_ROUND_OF_FORM = {Form.V05: 'v0.5', Form.V06: 'v0.6'}
#: a logged rate between these multiples of the measured one has the same unit (published logs: 0.93 to 1.21)
_SAME_UNIT = (0.67, 1.5)


#: a rank says run_start at most so long before the one whose line comes first
_RANKS_APART_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class LogSummary:
    """What one log says. Times are Unix milliseconds, accuracies fractions; None: the log does not say.

    Attributes:
        evaluations: ``eval_accuracy`` events up to ``run_stop``, in file order; the last one decides.
        status: ``success``, ``aborted`` or ``none`` (no ``run_stop``); `status_raw` as logged.
        init_starts: how many ``init_start`` events there are: one a rank in most GPU submissions.
        epoch_base: number that the log gives to the first completed epoch: 0 or 1.
        images: images of one epoch by the rules; not the logged ``train_samples`` (see `images_of`).
        train_seconds, train_epochs: time and number of the closed epoch (or block) intervals up to the last evaluation.
        losses: (Unix ms, step, loss), rates: (Unix ms, samples/s) as the program tracked them.
        runs_in_file: runs found one after another in the file; the last one is described.
    """

    path: PurePath
    forms: frozenset[Form]
    round: str
    benchmark: str
    model: str
    hyperparameters: Mapping[str, Any]
    evaluations: tuple[LoggedAccuracy, ...]
    evaluations_after_stop: int
    target: Mapping[str, float]
    init_start_ms: float | None
    init_starts: int
    init_stop_ms: float | None
    run_start_ms: float | None
    run_stop_ms: float | None
    status: str
    status_raw: Any
    run_stop_throughput: float | None
    epoch_base: int
    images: int | None
    seeds: tuple[Any, ...]
    seed_count: int
    train_seconds: float | None
    train_epochs: float
    train_interval: str
    losses: tuple[tuple[float, float, float], ...]
    rates: tuple[tuple[float, float], ...]
    event_count: int
    runs_in_file: int
    forgiven: tuple[str, ...]

    @property
    def batch(self) -> Any:
        """The logged global batch size."""
        return self.hyperparameters.get('global_batch_size')

    @property
    def seconds(self) -> float | None:
        """Time to train: run_stop - run_start. None without both, or where the clock runs backwards."""
        if self.run_start_ms is None or self.run_stop_ms is None or self.run_stop_ms < self.run_start_ms:
            return None
        return (self.run_stop_ms - self.run_start_ms) / 1000

    @property
    def init_seconds(self) -> float | None:
        """Initialisation: init_stop - earliest init_start of any rank."""
        if self.init_start_ms is None or self.init_stop_ms is None:
            return None
        return (self.init_stop_ms - self.init_start_ms) / 1000

    @property
    def final(self) -> LoggedAccuracy | None:
        """The last evaluation before run_stop."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def target_reached(self) -> bool:
        """Say whether the last evaluation before run_stop reaches the target in every metric."""
        return self.final is not None and self.final.reaches(self.target)

    @property
    def epochs(self) -> float | None:
        """Completed epochs at the last evaluation."""
        if self.final is None or self.final.epoch is None:
            return None
        return self.final.epoch + 1 - self.epoch_base

    @property
    def samples(self) -> float | None:
        """Images trained on up to the last evaluation."""
        return None if self.epochs is None or self.images is None else self.epochs * self.images

    @property
    def throughput(self) -> float | None:
        """Samples per second of the whole run, evaluation included."""
        return self.samples / self.seconds if self.samples and self.seconds else None

    @property
    def throughput_train_only(self) -> float | None:
        """Samples per second inside the closed epoch or block intervals."""
        if not self.train_seconds or self.images is None:
            return None
        return self.train_epochs * self.images / self.train_seconds

    @property
    def throughput_logged_median(self) -> float | None:
        """Median of the rates as the program logged them; its unit differs (`throughput_scope`)."""
        return statistics.median(rate for _, rate in self.rates) if self.rates else None

    def throughput_scope(self, accelerators: int | None) -> str:
        """Say what the logged rate counts: ``total``, ``per_accelerator``, ``other``; empty without a rate."""
        logged, measured = self.throughput_logged_median, self.throughput_train_only
        if logged is None or not measured:
            return ''
        for scope, factor in (('total', 1), ('per_accelerator', accelerators or 0)):
            if _SAME_UNIT[0] <= logged * factor / measured <= _SAME_UNIT[1]:
                return scope
        return 'other'


@dataclass
class _Gathering:
    """The mutable state of one pass."""

    hyperparameters: dict[str, Any] = field(default_factory=dict)
    evaluations: list[LoggedAccuracy] = field(default_factory=list)
    after_stop: int = 0
    init_start: float | None = None
    init_starts: int = 0
    init_stop: float | None = None
    run_start: float | None = None
    run_stop: Event | None = None
    statuses: list[Any] = field(default_factory=list)
    seeds: dict[Any, None] = field(default_factory=dict)
    intervals: EpochIntervals = field(default_factory=EpochIntervals)
    losses: list[tuple[float, float, float]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    v05_benchmark: str = ''


def summarize(reader: EventReader, path: PurePath) -> LogSummary:
    """Read a log to its end and return its facts. ``path`` names it and tells the round; nothing is opened."""
    state = _Gathering()
    events = 0
    runs = 1
    for event in reader:
        events += 1
        if event.key == 'run_start' and _begins_anew(state, event):
            runs += 1
            reader.forgiven.note('several runs in one file, the last one counts', event.line)
            state = _next_run(state)
        take = _TAKE.get(event.key)
        if take is None:
            state.hyperparameters.setdefault(event.key, event.value)
        else:
            take(state, event)
    return _finish(state, reader, path, events, runs)


def _begins_anew(state: _Gathering, event: Event) -> bool:
    """Say whether a run_start begins another run: not where the line of one rank comes late in a run under way."""
    if state.run_stop is not None:
        return True
    if state.run_start is None or not (state.evaluations or state.intervals.closed):
        return False
    first = state.evaluations[0].time_ms if state.evaluations else math.inf
    return not state.run_start - _RANKS_APART_MS <= event.time_ms < first


def _next_run(before: _Gathering) -> _Gathering:
    """Return the state for another run in the same file: what was logged before run_start still holds."""
    return _Gathering(hyperparameters=before.hyperparameters, seeds=before.seeds,
                      init_start=before.init_start, init_starts=before.init_starts, init_stop=before.init_stop,
                      v05_benchmark=before.v05_benchmark)


def _take_accuracy(state: _Gathering, event: Event) -> None:
    if state.run_stop is not None:
        state.after_stop += 1
    else:
        state.evaluations.append(read_accuracy(event))


def _take_init_start(state: _Gathering, event: Event) -> None:
    state.init_starts += 1
    state.init_start = event.time_ms if state.init_start is None else min(state.init_start, event.time_ms)


def _take_init_stop(state: _Gathering, event: Event) -> None:
    state.init_stop = event.time_ms if state.init_stop is None else state.init_stop


def _take_run_start(state: _Gathering, event: Event) -> None:
    state.run_start = event.time_ms if state.run_start is None else min(state.run_start, event.time_ms)
    state.v05_benchmark = str(event.meta('benchmark') or '')


def _take_run_stop(state: _Gathering, event: Event) -> None:
    state.run_stop = state.run_stop or event
    state.statuses.append(event.meta('status') if event.meta('status') is not None else event.value)


def _take_seed(state: _Gathering, event: Event) -> None:
    if (seed := as_number(event.value)) is not None:
        state.seeds[seed] = None


def _take_interval(state: _Gathering, event: Event) -> None:
    state.intervals.take(event, running=state.run_stop is None)


def _take_stats(state: _Gathering, event: Event) -> None:
    if not isinstance(event.value, dict):
        return
    rate = event.value.get('throughput', event.value.get('imgs_sec'))
    if is_usable(rate):
        state.rates.append((event.time_ms, rate))
    loss = event.value.get('loss')
    step = event.meta('step')
    if isinstance(step, list) and step:
        step = step[-1]
    if is_usable(loss):
        state.losses.append((event.time_ms, float(as_number(step) or len(state.losses)), loss))


#: key -> what an event of this key adds; every other key is a hyperparameter, whose first value counts
_TAKE: Mapping[str, Callable[[_Gathering, Event], None]] = {
    'tracked_stats': _take_stats, 'eval_accuracy': _take_accuracy, 'init_start': _take_init_start,
    'init_stop': _take_init_stop, 'run_start': _take_run_start, 'run_stop': _take_run_stop, 'seed': _take_seed,
    **dict.fromkeys(EpochIntervals.KEYS, _take_interval)}


def _finish(state: _Gathering, reader: EventReader, path: PurePath, events: int, runs: int) -> LogSummary:
    round_name = next((name for form, name in _ROUND_OF_FORM.items() if form in reader.forms), round_in(path))
    named = state.hyperparameters.get('submission_benchmark') or state.v05_benchmark or path.parent.name
    model = model_of(benchmark_of(named), state.hyperparameters.keys(), round_name)
    stop = state.run_stop
    rate = None if stop is None else as_number(stop.meta('throughput'))
    return LogSummary(
        path=path, forms=frozenset(reader.forms), round=round_name, benchmark=benchmark_of(named), model=model,
        hyperparameters=state.hyperparameters, evaluations=tuple(state.evaluations),
        evaluations_after_stop=state.after_stop, target=target_of(model, round_name),
        init_start_ms=state.init_start, init_starts=state.init_starts, init_stop_ms=state.init_stop,
        run_start_ms=state.run_start,
        run_stop_ms=None if stop is None else stop.time_ms, status=_status(state.statuses),
        status_raw=state.statuses[0] if state.statuses else None,
        run_stop_throughput=None if rate is None else float(rate),
        epoch_base=state.intervals.epoch_base,
        images=images_of(model, state.hyperparameters.get('train_samples')),
        seeds=tuple(state.seeds)[:1], seed_count=len(state.seeds),
        **state.intervals.closed_until(state.evaluations[-1] if state.evaluations else None)._asdict(),
        losses=tuple(state.losses), rates=tuple(state.rates), event_count=events, runs_in_file=runs,
        forgiven=reader.forgiven.lines())


def _status(logged: Iterable[Any]) -> str:
    """Return ``success`` only when every run_stop of the run says so."""
    words = {_status_word(value) for value in logged}
    if not words:
        return 'none'
    return 'success' if words == {'success'} else 'aborted'


def _status_word(value: Any) -> str:
    if isinstance(value, dict):
        value = 'success' if str(value.get('success')).lower() == 'true' else 'aborted'
    return 'success' if isinstance(value, str) and value.lower() == 'success' else 'aborted'
