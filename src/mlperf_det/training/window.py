"""Loss and throughput over the steps between two log lines, kept on the device until the window closes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mlperf_det.training.clock import Stopwatch
from mlperf_det.training.control import Control


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """A closed window, the same on all ranks.

    Attributes:
        steps: optimiser steps.
        images: images over all ranks.
        loss: mean over steps and ranks.
        finite: no loss was NaN or infinite on any rank.
        seconds: mean over ranks.
        data_wait: seconds of waiting for data, mean over ranks.
    """

    steps: int
    images: int
    loss: float
    finite: bool
    seconds: float
    data_wait: float

    @property
    def images_per_second(self) -> float:
        """Images of all ranks per second."""
        return self.images / self.seconds

    @property
    def data_wait_share(self) -> float:
        """Part of the time spent waiting for data, 0 to 1."""
        return self.data_wait / self.seconds


class Window:
    """Adds up losses on the device. Reading them, in `close`, is the only time the host waits for the device."""

    def __init__(self, device: torch.device, control: Control, clock: Stopwatch) -> None:
        self._control, self._clock = control, clock
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self.open()

    def open(self) -> None:
        """Start a window now."""
        self._loss_sum.zero_()
        self._finite.fill_(True)
        self.steps = self._images = 0
        self._started = time.perf_counter()
        self._waited = self._clock.seconds['data_wait']

    def add(self, loss: Tensor, images: int) -> None:
        """Add a step: its scalar loss, still on the device, and this rank's images."""
        self._loss_sum += loss.detach()
        self._finite &= torch.isfinite(loss.detach())
        self.steps += 1
        self._images += images

    def close(self) -> WindowResult:
        """Read the window, agree with the other ranks, and open the next one. Collective; needs at least one step."""
        loss_sum, finite = torch.stack((self._loss_sum, self._finite.double())).tolist()
        self._clock.settle()
        seconds = time.perf_counter() - self._started
        waited = self._clock.seconds['data_wait'] - self._waited
        loss, everywhere, images, mean_seconds, mean_wait = self._control.mean(
            [loss_sum / self.steps, finite, self._images, seconds, waited])
        result = WindowResult(steps=self.steps, images=round(images * self._control.size), loss=loss,
                              finite=everywhere == 1.0, seconds=mean_seconds, data_wait=mean_wait)
        self.open()
        return result
