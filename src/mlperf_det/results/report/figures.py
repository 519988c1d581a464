"""How a report writes numbers."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence

from mlperf_det.results.run import Run
from mlperf_det.results.score import Score


def figure_text(value: float | None) -> str:
    """Return a number with at most two decimals; nothing for None."""
    return '' if value is None else f'{value:.2f}'.rstrip('0').rstrip('.')


def fixed_text(value: float | None) -> str:
    """Return minutes with two decimals, for columns; nothing for None."""
    return '' if value is None else f'{value:.2f}'


def column_texts(values: Sequence[float | None]) -> list[str]:
    """Return the numbers of a column with the same decimals, at most two: their points stand under each other."""
    decimals = max((len(figure_text(value).partition('.')[2]) for value in values), default=0)
    return ['' if value is None else f'{value:,.{decimals}f}' for value in values]


def accuracy_text(value: float | None) -> str:
    """Return an AP as published results state it; nothing for None."""
    return '' if value is None else f'{value:.4f}'


def rate_text(rate: float | None) -> str:
    """Return images per second: whole numbers from a hundred on; nothing for None."""
    if rate is None:
        return ''
    return f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'


def epochs_of(score: Score, runs: Sequence[Run]) -> float | None:
    """Return the epochs of a score; without a score the mean of the runs that converged."""
    known = [run.epochs_to_target for run in runs if run.converged and run.epochs_to_target]
    return score.epochs or (statistics.fmean(known) if known else None)


def energy_text(joules: float) -> tuple[str, str]:
    """Return an energy and its unit, Wh up to a kilowatt hour."""
    watt_hours = joules / 3600
    return (f'{watt_hours:.4g}', 'Wh') if watt_hours < 1000 else (f'{watt_hours / 1000:,.4g}', 'kWh')


def percent_text(share: float) -> str:
    """Return a share with its sign; what rounds to zero has none."""
    text = f'{100 * share:+.1f}'.replace('-', '−')
    return '±0.0 %' if text in ('+0.0', '−0.0') else f'{text} %'


def day_text(seconds: float) -> str:
    """Return the day of a Unix time, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date().isoformat()
