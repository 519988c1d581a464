"""Starts a run, and brings it to an orderly end on every path: outcome in run.json, traceback, exit status."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from mlperf_det.errors import UserError
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.run_folder import Outcome, write_atomically
from mlperf_det.training import watch
from mlperf_det.training.attempt import AgreedError, RunningAttempt, RunOptions
from mlperf_det.training.control import Control
from mlperf_det.training.device import pick_device
from mlperf_det.training.distributed import World, join, leave, meet, read_world
from mlperf_det.training.exit_codes import ExitCode
from mlperf_det.training.run_state import RecordKeeper
from mlperf_det.training.signals import StopRequest
from mlperf_det.training.task import Task


def run_training(build_task: Callable[[Recipe], Task], recipe: Recipe, options: RunOptions) -> ExitCode:
    """Run one training to its end and return the exit status.

    With several ranks a failure ends the process itself (`os._exit`) once it is reported: other threads may hang in
    collective operations for ever.

    Raises:
        UserError: on a single process; nothing has been started.
    """
    world = read_world(os.environ)
    device = pick_device(options.device, world.local_rank)
    keeper = RecordKeeper(options.output, rank=world.rank)
    if world.size == 1:
        try:
            with StopRequest() as stop:
                return RunningAttempt(build_task, recipe, options, world, device, Control(), keeper, stop).run()
        except BaseException as error:
            expected = isinstance(error, UserError) or not isinstance(error, Exception)
            with suppress(OSError):  # a full disk must not hide what went wrong
                if not expected:
                    _report(options.output, world, ''.join(traceback.format_exception(error)))
                keeper.close(Outcome.FAILED, _cause(world, error))
            if expected:
                raise
            return ExitCode.FAILED
        finally:
            _end_helpers()
    return _run_with_others(build_task, recipe, options, world, device, keeper)


def _run_with_others(build_task: Callable[[Recipe], Task], recipe: Recipe, options: RunOptions, world: World,
                     device: torch.device, keeper: RecordKeeper) -> ExitCode:
    store = meet(world, timedelta(seconds=options.meeting_timeout))
    timeout = timedelta(seconds=options.rank_timeout)
    guard = watch.Watch(
        rank=world.rank, size=world.size, rhythm=options.rhythm, log=_rank_log(options.output, world.rank),
        store=watch.connect(world.address, world.port, timedelta(seconds=options.meeting_timeout)),
        on_forced_exit=lambda cause: keeper.close(Outcome.FAILED, cause))
    # Stop signals are noted to the very end: torchrun sends SIGTERM to the survivors, who must still report the loss.
    with guard, StopRequest() as stop:
        try:
            backend = 'nccl' if device.type == 'cuda' and options.backend != 'gloo' else 'gloo'
            group = join(world, store, backend=backend, device=device, timeout=timeout)
            control = Control(world.rank, world.size, group, timeout)
            code = RunningAttempt(build_task, recipe, options, world, device, control, keeper, stop,
                                  guard.note).run()
            guard.note('ending')
            control.barrier()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the other ranks must learn of it
            _bring_down(error, options, world, guard, keeper)
    leave()
    _end_helpers()
    return code


def _bring_down(error: BaseException, options: RunOptions, world: World, guard: watch.Watch,
                keeper: RecordKeeper) -> NoReturn:
    """Report a failure to the user, to run.json and to the other ranks, and end the process."""
    try:
        lost = _is_lost_connection(error)
        cause = guard.find_cause() if lost else ''
        cause = cause or guard.publish(_cause(world, error) + (f' ({guard.whereabouts()})' if lost else ''))
        with suppress(OSError):
            keeper.close(Outcome.FAILED, cause)
        if not isinstance(error, UserError):
            text = ''.join(traceback.format_exception(error))
            _report(options.output, world, f'{text}\nThe job was brought down because {cause}\n')
        elif world.rank == 0 or not isinstance(error, AgreedError):
            sys.stderr.write(f'mlperf-det: error: {error}\n')
        _end_helpers()
        sys.stdout.flush()
        sys.stderr.flush()
        if world.rank == 0:
            # Rank 0 may serve the store: the others read the cause from it first.
            time.sleep(3 * options.rhythm.beat)
    finally:
        # Whatever cannot be reported, e.g. on a full disk: a rank that stays would keep the others waiting.
        os._exit(ExitCode.USAGE if isinstance(error, UserError) else ExitCode.FAILED)


def _cause(world: World, error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [''])[0]
    if isinstance(error, KeyboardInterrupt):
        line = 'interrupted from the keyboard; continue with --resume'
    plain = isinstance(error, UserError | KeyboardInterrupt)
    text = line if plain else f'{type(error).__name__}: {line}'
    return text if world.size == 1 else f'rank {world.rank} on {socket.gethostname()} failed: {text}'


def _is_lost_connection(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and 'gloo' in str(error))


def _report(folder: Path, world: World, text: str) -> None:
    sys.stderr.write(f'mlperf-det: rank {world.rank} on {socket.gethostname()} failed:\n{text}')
    path = _rank_log(folder, world.rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def _rank_log(folder: Path, rank: int) -> Path:
    return folder / f'rank_{rank}.log'


def _end_helpers() -> None:
    # Helpers ignore SIGTERM by design, and multiprocessing would wait for them at exit.
    for child in multiprocessing.active_children():
        child.kill()
