"""The course of published runs: quantiles by epoch, and the band that a report draws of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.published_courses import course_rows, published_course
from mlperf_det.results.reading import read_runs
from tests.results.conftest import event, log_text


def test_the_table_knows_the_benchmarks_at_their_usual_batch_sizes() -> None:
    course = published_course('retinanet', 'bbox', 256)
    assert course is not None
    assert (course.least_batch, course.most_batch, course.runs) == (240, 288, 370)
    assert [epoch for epoch, *_ in course.points] == [1, 2, 3, 4]
    _, low, median, high = course.points[-1]
    assert 0.34 <= low <= median <= high < 0.36
    assert published_course('maskrcnn', 'segm', 96) is not None
    assert published_course('ssd300', 'bbox', 912) is not None
    assert published_course('ssd300', 'bbox', 100_000) is None
    assert all(published_course('ssd300', 'bbox', batch) is None for batch in (None, 0, -1, float('inf')))


def test_bounds_are_in_order_and_epochs_rise() -> None:
    for model, batches in (('ssd300', (256, 456, 1024, 1536, 2048)), ('maskrcnn', (48, 64, 96, 128, 192, 256)),
                           ('retinanet', (64, 96, 128, 160, 256, 320, 512, 768, 1024, 2048))):
        for batch in batches:
            course = published_course(model, 'bbox', batch)
            assert course is not None, (model, batch)
            assert all(low <= median <= high for _, low, median, high in course.points)
            epochs = [epoch for epoch, *_ in course.points]
            assert epochs == sorted(set(epochs))


def test_rows_leave_out_epochs_that_only_slow_runs_reach_and_count_a_run_once(tmp_path: Path) -> None:
    for number in range(6):
        accuracies = (0.1 + number / 100, 0.2 + number / 100, *(0.21,) * (number == 5), 0.24)
        shift = f'"time_ms": 176000{number}'    # another start: another run
        folder = tmp_path / 'v1.1' / 'Sub' / 'results' / f'box{number}' / 'ssd'
        folder.mkdir(parents=True)
        for copy in range(2):
            (folder / f'result_{copy}.txt').write_text(log_text(accuracies, batch=912).replace(
                '"time_ms": 1760000', shift))
    rows = course_rows(read_runs([tmp_path]))
    assert [(row['epoch'], row['evaluated'], row['runs']) for row in rows] == [('1', 6, 6), ('2', 6, 6), ('3', 6, 6)]
    assert (rows[0]['low'], rows[0]['median'], rows[0]['high']) == ('0.1050', '0.1250', '0.1450')


def test_the_report_draws_the_band_over_epochs_and_at_the_runs_own_pace(tmp_path: Path) -> None:
    folder = tmp_path / 'v3.1' / 'Sub' / 'results' / 'box' / 'ssd'
    folder.mkdir(parents=True)
    for number in range(3):
        text = log_text((0.24, 0.29, 0.33, 0.345), division='closed', batch=256, epoch_seconds=600, seed=number)
        (folder / f'result_{number}.txt').write_text(re.sub('.*model_bn_span.*\n', event(
            'opt_learning_rate_warmup_epochs', 1) + '\n', text))
    assert main(['report', str(tmp_path), '-o', str(tmp_path / 'out')]) == 0
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert page.count('class="band"') == 2
    assert 'the middle 80 % of 370 published runs with batch 240 to 288, at the pace of these runs' in page
    over_time, over_epochs = re.findall('class="band" d="([^"]*)"', page)
    # Equal epochs at an equal pace: both axes end at the fourth epoch, so that the shapes are the same.
    assert over_time == over_epochs
    assert main(['report', str(tmp_path / 'v3.1'), '-o', str(tmp_path / 'vendor'), '--theme', 'vendor', '--vendor',
                 'Sub']) == 0
    assert 'class="band"' not in (tmp_path / 'vendor' / 'report.html').read_text()


@pytest.mark.shared
@pytest.mark.slow
def test_the_table_is_made_from_the_published_logs(shared_data: Path,
                                                   capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from mlperf_det.results import published_courses
    assert published_courses.main([str(shared_data / 'mlperf-logs')]) == 0
    shipped = Path(published_courses.__file__).with_suffix('.csv').read_bytes()
    assert capfdbinary.readouterr().out == shipped
