"""The yardstick holds the values of the published runs, and only a lost run falls under half of it."""

from __future__ import annotations

import pytest

from mlperf_det.recipes.maskrcnn_yardstick import expected_box_ap, hopeless


@pytest.mark.parametrize(('epoch', 'batch', 'box_ap'), [
    (1, 128, 0.155), (10, 128, 0.353), (14, 128, 0.377), (1, 48, 0.189), (9, 48, 0.303), (12, 256, 0.308),
    (17, 256, 0.378), (1, 96, 0.155), (1, 272, 0.090), (1, 8, 0.189), (20, 128, 0.377), (0, 128, 0.0)])
def test_values_of_the_published_runs(epoch: int, batch: int, box_ap: float) -> None:
    assert expected_box_ap(epoch, batch) == pytest.approx(box_ap)


def test_between_two_epochs_on_record() -> None:
    assert expected_box_ap(5, 48) == pytest.approx((0.189 + 0.303) / 2)
    for batch in (48, 64, 128, 256):
        curve = [expected_box_ap(epoch, batch) for epoch in range(20)]
        assert curve == sorted(curve)


def test_a_run_is_hopeless_under_half() -> None:
    assert hopeless(4, 128, 0.129) is None
    reason = hopeless(4, 128, 0.1289)
    assert reason is not None
    assert reason.startswith('box AP 0.1289 after epoch 4 is under 0.1290, half of')


@pytest.mark.parametrize('batch', [48, 96, 128, 256])
def test_runs_with_the_spread_of_the_published_ones_go_on(batch: int) -> None:
    for epoch in range(1, 18):
        assert hopeless(epoch, batch, expected_box_ap(epoch, batch) - 0.012) is None
