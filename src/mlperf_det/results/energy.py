"""Energy to train, from the power logs that MLPerf Training's power measurement leaves beside the results.

``power/result_3/node_*.txt`` beside ``result_3.txt`` has the power of one node each (events ``power_reading`` in watts
between ``power_measurement_start`` and ``power_measurement_stop``), ``sw_*.txt`` the estimated power of the
interconnect (``interconnect_power_est``); ``conversion_eff`` is a factor for losses of conversion. Each node's mean
power over its measurement is multiplied by the time to train, as mlperf-logging's result summarizer does.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mlperf_det.mllog.events import Event
from mlperf_det.mllog.reader import EventReader
from mlperf_det.results.run import Run
from mlperf_det.results.score import LEAST_RUNS

#: of one node or switch
_MOST_WATTS = 1e9


def energies_of(runs: Iterable[Run]) -> dict[str, float]:
    """Return path of the log -> joules, of the runs whose power was recorded."""
    return {str(run.log): joules for run in runs if (joules := energy_to_train(run)) is not None}


def energy_to_train(run: Run) -> float | None:
    """Return the joules of the whole system from run_start to run_stop.

    None: no power was recorded beside the log, a power log has no start or no reading, or the run did not end.
    """
    if not isinstance(run.log, Path) or run.time_to_train_seconds is None:
        return None
    folder = run.log.parent / 'power' / run.log.stem
    nodes = [_mean_power(path, _node_watts) for path in sorted(folder.glob('node_*.txt'))]
    switches = [_mean_power(path, _interconnect_watts) for path in sorted(folder.glob('sw_*.txt'))]
    watts = [power for power in nodes + switches if power is not None]
    if not nodes or len(watts) < len(nodes) + len(switches):
        return None
    return sum(watts) * run.time_to_train_seconds


def energy_score(runs: Sequence[Run], energies: Mapping[str, float], factor: float = 1.0) -> float | None:
    """Return the mean joules of the runs that make up the MLPerf score, times its scaling factor.

    None: a run of them has no energy, or there are too few runs for a score.
    """
    converged = sorted((run for run in runs if run.converged), key=lambda run: run.time_to_train_seconds or 0.0)
    kept = [energies.get(str(run.log)) for run in converged[1:len(runs) - 1]]
    known = [joules for joules in kept if joules is not None]
    if len(runs) < LEAST_RUNS or len(converged) < len(runs) - 1 or len(known) < len(kept):
        return None
    return statistics.fmean(known) * factor


def _mean_power(path: Path, watts_of: Callable[[Iterable[Event]], float | None]) -> float | None:
    try:
        with path.open('rb', buffering=0) as stream:
            return watts_of(EventReader(stream))
    except OSError:
        return None


def _node_watts(events: Iterable[Event]) -> float | None:
    """Return watts, weighted by the time since the reading before; without a stop the last reading ends it."""
    start = last = stop = None
    watt_ms, efficiency = 0.0, 1.0
    for event in events:
        value = _number(event.value)
        if event.key == 'power_measurement_start':
            start = last = float(event.time_ms)
        elif event.key == 'power_reading' and last is not None and stop is None and value is not None:
            watt_ms += value * (event.time_ms - last)
            last = float(event.time_ms)
        elif event.key == 'power_measurement_stop':
            stop = float(event.time_ms)
        elif event.key == 'conversion_eff' and value is not None:
            efficiency = value
    end = last if stop is None else stop
    if start is None or end is None or end <= start or not watt_ms:
        return None
    return efficiency * watt_ms / (end - start)


def _interconnect_watts(events: Iterable[Event]) -> float | None:
    efficiency = 1.0
    for event in events:
        value = _number(event.value)
        if event.key == 'conversion_eff' and value is not None:
            efficiency = value
        elif event.key == 'interconnect_power_est' and value is not None:
            return efficiency * value
    return None


def _number(value: object) -> float | None:
    """Return a number that a power log can sensibly hold; None for anything else."""
    sensible = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MOST_WATTS
    return float(value) if sensible else None  # type: ignore[arg-type]
