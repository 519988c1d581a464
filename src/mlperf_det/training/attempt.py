"""One start of the program on one rank: puts the parts of a run together and hands them to the loop."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from mlperf_det import __version__
from mlperf_det.errors import UserError
from mlperf_det.mllog.result_line import append_result_line, process_start
from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.recipes.rules_table import rules_table
from mlperf_det.run_folder import METRICS_JSONL, Attempt, Outcome, RunRecord, log_name
from mlperf_det.training import facts
from mlperf_det.training.checkpoint import (
    Checkpoint,
    CheckpointStore,
    check_resumable,
    read_checkpoint,
    recipe_digest,
    restore_random_state,
)
from mlperf_det.training.control import Control
from mlperf_det.training.device import ResolvedRuntime, prepare_model, resolve, training_model
from mlperf_det.training.distributed import World
from mlperf_det.training.evaluating import Evaluator
from mlperf_det.training.exit_codes import EXIT_CODES, ExitCode
from mlperf_det.training.loop import Ending, Trainer
from mlperf_det.training.metrics import MetricsFile
from mlperf_det.training.progress import TrainingProgress
from mlperf_det.training.run_log import RunLog, Submission, open_run
from mlperf_det.training.run_state import RecordKeeper, Start, open_folder
from mlperf_det.training.signals import StopRequest
from mlperf_det.training.task import Task
from mlperf_det.training.watch import Rhythm

T = TypeVar('T')


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is asked of one run besides its recipe.

    Attributes:
        output: the run folder.
        experiment: number n of ``result_<n>.txt``.
        seed: None draws one.
        resume: continue the run in ``output``.
        device, backend: ``auto`` takes what is found.
        cache_cleared: somebody has cleared the caches just before (``cache_clear`` is logged).
        submission: names for the log.
        meeting_timeout: seconds for all ranks to come.
        rank_timeout: most seconds one rank waits for another, or all for a score.
        rhythm: of the watch over the ranks.
        command: the command line, for run.json.
    """

    output: Path
    experiment: int = 0
    seed: int | None = None
    resume: bool = False
    device: Literal['auto', 'cpu', 'cuda'] = 'auto'
    backend: Literal['auto', 'gloo', 'nccl'] = 'auto'
    cache_cleared: bool = False
    submission: Submission = field(default_factory=Submission)
    meeting_timeout: float = 300.0
    rank_timeout: float = 600.0
    rhythm: Rhythm = field(default_factory=Rhythm)
    command: tuple[str, ...] = ()


class AgreedError(UserError):
    """A user error that every rank knows of: one of them reports it."""


class RunningAttempt:
    """Set-up in the order of the MLPerf log: ranks, folder, ``init``, task, model, run record, ``run_start``, loop."""

    def __init__(self, build_task: Callable[[Recipe], Task], recipe: Recipe, options: RunOptions, world: World,
                 device: torch.device, control: Control, keeper: RecordKeeper, stop: StopRequest,
                 note: Callable[[str], None] = lambda activity: None) -> None:
        self.build_task, self.recipe, self.options = build_task, recipe, options
        self.world, self.device, self.control, self.keeper, self.stop = world, device, control, keeper, stop
        self.note = note
        self.progress = TrainingProgress(rank=world.rank)

    def run(self) -> ExitCode:
        """Set up, train, and write down how it ended."""
        with ExitStack() as stack:
            stack.enter_context(self.progress)
            ranks = self.compare_ranks()
            start = self.control.from_first(self.together(self.open_folder))
            for notice in start.notices:
                self.progress.say(notice)
            stack.callback(self.discard_unless_recorded, start)
            ending = self.train(start, ranks, stack)
            self.keeper.close(ending.outcome, ending.reason)
            self.state_whole_job(start, ending)
        self.progress.say(f'{ending.outcome.value}: {ending.reason}')
        return EXIT_CODES[ending.outcome]

    def train(self, start: Start, ranks: list[dict[str, Any]], stack: ExitStack) -> Ending:
        """Build all parts and run the loop."""
        options, control = self.options, self.control
        checkpoint = self.together(lambda: read_checkpoint(start.checkpoint) if start.checkpoint else None)
        mllog = stack.enter_context(MLPerfLog(options.output / log_name(options.experiment), rank=control.rank))
        metrics = MetricsFile(options.output, rank=control.rank, attempt=start.attempt)
        stack.callback(metrics.close)
        metrics.write('attempt', resumed_from_step=checkpoint.position.step if checkpoint else None)
        if checkpoint is None:
            open_run(mllog, self.recipe, options.submission, cache_cleared=options.cache_cleared)
        task = self.together(lambda: self.build_task(self.recipe))
        if checkpoint is not None:
            self.together(lambda: check_resumable(checkpoint, self.recipe, control.size, _fingerprint(task)))
        runtime = resolve(self.recipe.runtime, self.device, backend=options.backend, world_size=control.size,
                          ranks_on_host=sum(rank['host'] == socket.gethostname() for rank in ranks))
        runtime.apply()
        self.keeper.open(self.record(task, runtime, start, ranks, checkpoint))
        trainer = self.build_trainer(task, runtime, RunLog(mllog, task), metrics, start.seed)
        stack.callback(trainer.evaluator.close)
        if checkpoint is not None:
            restore(trainer, checkpoint)
            trainer.log.resume(checkpoint.position.step, start.attempt)
        else:
            trainer.log.describe(self.recipe, start.seed, task.initialized_tensors(trainer.model))
            # All have done with init before the clock starts; nobody reads data before it has.
            control.barrier()
            trainer.log.start_run()
            control.barrier()
        return trainer.run()

    def state_whole_job(self, start: Start, ending: Ending) -> None:
        """End the log of a run that tried its target with the seconds since the first attempt began."""
        if self.world.rank == 0 and ending.outcome in (Outcome.CONVERGED, Outcome.ABORTED):
            append_result_line(
                self.options.output / log_name(self.options.experiment), self.recipe.benchmark,
                org=self.options.submission.org, ended=time.time(),
                started=start.earlier[0].started if start.earlier else process_start())

    def discard_unless_recorded(self, start: Start) -> None:
        """Empty the folder of a first attempt that failed before run.json was written: there is nothing to resume."""
        if self.world.rank == 0 and not self.keeper.opened and start.attempt == 0:
            for name in (log_name(self.options.experiment), METRICS_JSONL):
                (self.options.output / name).unlink(missing_ok=True)

    def compare_ranks(self) -> list[dict[str, Any]]:
        """Tell the ranks' facts to all, and refuse ranks that would train different things.

        Raises:
            UserError: the geometry is not the recipe's, ranks have different recipes or versions, or share a GPU.
        """
        self.progress.say(str(self.world))
        self.progress.say(rules_table(self.recipe))
        if self.recipe.world_size != self.control.size:
            raise AgreedError(
                f'recipe {self.recipe.name}: is for {self.recipe.nodes} nodes x '
                f'{self.recipe.accelerators_per_node} accelerators, but {self.control.size} ranks were started; start '
                f'{self.recipe.world_size}, or --set nodes=... --set accelerators_per_node=...')
        mine = {**facts.describe_rank(self.world.rank, self.device), 'recipe digest': recipe_digest(self.recipe),
                'mlperf-det version': __version__, 'torch version': str(torch.__version__),
                'device type': self.device.type}
        ranks = self.control.everyone(mine)
        for name in ('recipe digest', 'mlperf-det version', 'torch version', 'device type'):
            for other in ranks[1:]:
                if other[name] != ranks[0][name]:
                    raise AgreedError(f'rank {other["rank"]} on {other["host"]}: {name} is {other[name]}, on rank 0 '
                                      f'({ranks[0]["host"]}) it is {ranks[0][name]}; start all ranks alike')
        for first, second in facts.duplicate_devices(ranks):
            raise AgreedError(f'ranks {first} and {second} hold the same GPU ({ranks[first]["device"]} on '
                              f'{ranks[first]["host"]}); bind one GPU to each task (srun --gpus-per-task=1)')
        return ranks

    def open_folder(self) -> Start | None:
        """Make the run folder ready, on rank 0."""
        options = self.options
        if self.world.rank != 0:
            return None
        return open_folder(options.output, resume=options.resume, experiment=options.experiment, seed=options.seed)

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; a user error on one of them becomes the same error on all."""
        result, problem = None, ''
        try:
            result = work()
        except UserError as error:
            problem = str(error)
        for rank, text in enumerate(self.control.everyone(problem)):
            if text:
                raise AgreedError(text if self.control.size == 1 else f'rank {rank}: {text}')
        return result  # type: ignore[return-value]

    def record(self, task: Task, runtime: ResolvedRuntime, start: Start, ranks: list[dict[str, Any]],
               checkpoint: Checkpoint | None) -> RunRecord:
        """Return the content of run.json at the start of this attempt."""
        return RunRecord(
            benchmark=self.recipe.benchmark, recipe=to_mapping(self.recipe),
            log=log_name(self.options.experiment), seed=start.seed, hosts=facts.merge_hosts(ranks),
            software=facts.software_versions(self.device), runtime=runtime.as_record(),
            dataset=task.dataset_record(), backbone=task.backbone_record(),
            image=facts.container_image(os.environ), environment=facts.relevant_environment(os.environ),
            command=self.options.command,
            attempts=(*start.earlier, Attempt(
                started=process_start(), resumed_from_step=checkpoint.position.step if checkpoint else None)))

    def build_trainer(self, task: Task, runtime: ResolvedRuntime, log: RunLog, metrics: MetricsFile,
                      seed: int) -> Trainer:
        """Build model, optimiser and the rest; all ranks start from the same parameters."""
        torch.manual_seed(seed)
        model = prepare_model(self.together(task.build_model), runtime, self.device)
        optimizer = task.build_optimizer(model, runtime.optimizer_arguments)
        # From here on ranks may draw different numbers.
        torch.manual_seed((seed + self.world.rank) % 2**32)
        np.random.seed((seed + self.world.rank) % 2**32)
        return Trainer(
            task=task, control=self.control, runtime=runtime, device=self.device, model=model, optimizer=optimizer,
            training_model=training_model(model, runtime, self.device, distributed=self.control.size > 1,
                                          static_graph=task.static_graph,
                                          static_shapes=self.recipe.static_shapes),
            scaler=runtime.grad_scaler(), log=log, metrics=metrics, checkpoints=CheckpointStore(self.options.output),
            evaluator=Evaluator(task=task, control=self.control, runtime=runtime, device=self.device, log=log,
                                metrics=metrics),
            stop=self.stop, progress=self.progress, note=self.note, seed=seed,
            rank_timeout=0.9 * self.options.rank_timeout)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Set a trainer to where the checkpoint was written."""
    mine = checkpoint.rank_states[trainer.control.rank]
    trainer.model.load_state_dict({**checkpoint.model, **mine['buffers']})
    trainer.optimizer.load_state_dict(dict(checkpoint.optimizer))
    trainer.scaler.load_state_dict(dict(checkpoint.scaler))
    trainer.move_to(checkpoint.position)
    restore_random_state(mine['random'], trainer.device)


def _fingerprint(task: Task) -> str:
    return str(task.dataset_record().get('fingerprint', ''))
