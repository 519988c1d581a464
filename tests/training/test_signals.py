from __future__ import annotations

import multiprocessing
import os
import signal
import time

import torch
from torch.utils.data import DataLoader, Dataset

from mlperf_det.training.prefetch import started
from mlperf_det.training.signals import StopRequest


def test_a_stop_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.received == ''
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.received == 'SIGUSR1'
    assert signal.getsignal(signal.SIGTERM) is before


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> int:
        time.sleep(0.001)
        return index


def test_a_signal_to_all_processes_of_the_job_does_not_kill_the_loaders() -> None:
    batches = started(DataLoader(Numbers(), batch_size=10, num_workers=1))  # type: ignore[arg-type]
    first = next(batches)
    workers = multiprocessing.active_children()
    assert workers
    with StopRequest() as stop:
        for process in [os.getpid(), *(worker.pid for worker in workers)]:
            os.kill(process or 0, signal.SIGTERM)
        rest = list(batches)
        assert stop.received == 'SIGTERM'
    assert torch.equal(torch.cat([first, *rest]), torch.arange(200))
    assert not (signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGUSR1})
