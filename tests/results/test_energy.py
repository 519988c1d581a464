"""Energy from power logs, held against mlperf-logging's result summarizer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mlperf_logging.result_summarizer.result_summarizer import _compute_total_power

from mlperf_det.cli import main
from mlperf_det.results.energy import energies_of, energy_score, energy_to_train
from mlperf_det.results.reading import read_runs
from mlperf_det.results.report.figures import energy_text
from tests.results.conftest import event, log_text


def power_log(watts: list[float], *, efficiency: float | None = 0.94, stop: bool = True) -> str:
    lines = [event('power_measurement_start')]
    if efficiency is not None:
        lines.append(event('conversion_eff', efficiency))
    lines += [event('power_reading', value, seconds=number + 1.0) for number, value in enumerate(watts)]
    return '\n'.join(lines + [event('power_measurement_stop', seconds=len(watts) + 0.5)] * stop) + '\n'


def results(tmp_path: Path, seconds: tuple[float, ...] = (90.0, 96.0, 99.0)) -> Path:
    folder = tmp_path / 'v1.1' / 'Sub' / 'results' / 'box' / 'ssd'
    generator = random.Random(7)
    for number, each in enumerate(seconds):
        power = folder / 'power' / f'result_{number}'
        power.mkdir(parents=True)
        (folder / f'result_{number}.txt').write_text(log_text((0.1, 0.24), epoch_seconds=each / 2, division='closed'))
        for node in range(3):
            (power / f'node_{node}.txt').write_text(power_log(
                [generator.uniform(400, 900) for _ in range(60)], stop=node != 1))
        (power / 'sw_0.txt').write_text(event('interconnect_power_est', 120.0) + '\n')
    return folder


def test_joules_are_those_of_the_summarizer(tmp_path: Path) -> None:
    folder = results(tmp_path)
    runs = read_runs([tmp_path])
    assert len(runs) == 3
    for run in runs:
        assert run.log is not None
        assert run.time_to_train_seconds is not None
        theirs = _compute_total_power(str(folder), str(run.log), run.time_to_train_seconds * 1000, '1.1.0')
        assert energy_to_train(run) == pytest.approx(theirs, rel=1e-12)


def test_the_score_drops_fastest_and_slowest_run(tmp_path: Path) -> None:
    results(tmp_path)
    runs = read_runs([tmp_path])
    energies = energies_of(runs)
    assert energy_score(runs, energies) == energies[str(runs[1].log)]
    assert energy_score(runs, energies, 1.5) == 1.5 * energies[str(runs[1].log)]
    assert energy_score(runs[:2], energies) is None
    assert energy_score(runs, {}) is None


@pytest.mark.parametrize('content', ['', 'noise\n', power_log([]), event('power_reading', 5.0) + '\n',
                                     event('power_measurement_start') + '\n' + event('power_reading', 'much') + '\n'])
def test_a_power_log_that_says_nothing_gives_no_energy(tmp_path: Path, content: str) -> None:
    folder = results(tmp_path)
    (folder / 'power' / 'result_0' / 'node_2.txt').write_text(content)
    first, second, _ = read_runs([tmp_path])
    assert energy_to_train(first) is None    # never a sum that lacks a node
    assert energy_to_train(second) is not None


def test_the_report_shows_energy(tmp_path: Path) -> None:
    results(tmp_path)
    energies = energies_of(read_runs([tmp_path]))
    assert main(['report', str(tmp_path / 'v1.1'), '-o', str(tmp_path / 'out')]) == 0
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert 'Energy to train' in page
    shown = [' '.join(energy_text(joules)) for joules in energies.values()]
    assert all(f'>{each}<' in page for each in shown)
    assert 'energy_joules' in (tmp_path / 'out' / 'runs.csv').read_text().splitlines()[0]


def test_energies_have_units_people_read() -> None:
    assert energy_text(3_600) == ('1', 'Wh')
    assert energy_text(3.6e6 * 12.34) == ('12.34', 'kWh')
