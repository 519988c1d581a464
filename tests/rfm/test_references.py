"""References in ReFrame's form."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import reframe.utility.sanity as sn
from reframe.core.exceptions import SanityError

from mlperf_det.recipes.load import find_recipe
from mlperf_det.rfm.metrics import BBOX_AP, IMAGES_PER_SECOND, TIME_TO_TRAIN
from mlperf_det.rfm.references import Place, find

CONTENT = '''
ssd:
  H100-SXM5-80GB:
    1:
      bf16:
        time_to_train: {value: 500.0, unit: s, direction: lower, n: 5, spread: 4.0, date: 2026-03-01,
                        source: {kind: measured, runs: [a]}}
        images_per_second: {value: 9000.0, unit: images/s, direction: higher, n: 0, tolerance: 0.1, date: 2026-03-01,
                            source: {kind: promised, document: contract}}
'''
METRICS = [TIME_TO_TRAIN, IMAGES_PER_SECOND, BBOX_AP]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / 'references.yaml').write_text(CONTENT)
    return Place(file=tmp_path / 'references.yaml', accelerator='H100-SXM5-80GB', nodes=1, precision='bf16')


def holds(value: float, bounds: tuple) -> bool:
    try:
        return bool(sn.evaluate(sn.assert_reference(value, *bounds[:3])))
    except SanityError:
        return False


def test_bounds_open_towards_better_and_close_towards_worse(place: Place) -> None:
    found = find(find_recipe('ssd', 'smoke'), METRICS, place)
    assert found.missing == ''
    time, rate, ap = (found.bounds[metric.name] for metric in METRICS)
    # One further run at 99 %: 500 + t(0.99, 4) * 4 * sqrt(1.2) = 500 + 3.747 * 4.382
    assert holds(516.4, time)
    assert not holds(516.5, time)
    assert holds(1.0, time)
    assert holds(8100.1, rate)
    assert not holds(8099.0, rate)
    assert holds(99999.0, rate)
    assert ap == (find_recipe('ssd', 'smoke').quality_target['bbox'], 0.0, None, 'fraction')
    assert not holds(0.27, ap)


def test_an_unknown_precision_takes_any(place: Place) -> None:
    anything = Place(file=place.file, accelerator=place.accelerator, nodes=1)
    assert find(find_recipe('ssd', 'smoke'), METRICS, anything).missing == ''


@pytest.mark.parametrize(('change', 'cause'), [
    ({'nodes': 2}, 'nodes 2 is missing'), ({'accelerator': 'cpu'}, 'accelerator cpu is missing'),
    ({'precision': 'fp32'}, 'precision fp32 is missing'), ({'file': None}, r'no references\.yaml')])
def test_what_is_missing_is_said(place: Place, change: dict, cause: str) -> None:
    found = find(find_recipe('ssd', 'smoke'), METRICS, dataclasses.replace(place, **change))
    assert re.search(cause, found.missing)
    assert list(found.bounds) == ['bbox_ap']
