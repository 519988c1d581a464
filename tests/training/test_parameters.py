from __future__ import annotations

import pytest
import torch
from torch import nn

from mlperf_det.training.parameters import ParameterWatch


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def test_what_stays_is_neither_moved_nor_broken(model: nn.Sequential) -> None:
    watch = ParameterWatch(model.parameters())
    model(torch.randn(2, 3, 8, 8))  # moves the statistics, which are no parameters
    assert watch.finite()
    assert not watch.moved()


def test_the_smallest_change_of_one_value_counts(model: nn.Sequential) -> None:
    watch = ParameterWatch(model.parameters())
    with torch.no_grad():
        value = model[0].weight[2, 1, 0, 2]
        value.copy_(torch.nextafter(value, torch.tensor(9.0)))
    assert watch.moved()
    assert watch.finite()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_one_value_that_is_no_number_counts(model: nn.Sequential, value: float) -> None:
    watch = ParameterWatch(model.parameters())
    with torch.no_grad():
        model[1].bias[3] = value
    assert not watch.finite()
