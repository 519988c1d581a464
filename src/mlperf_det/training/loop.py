"""The one training loop. Read `Trainer.run` and `Trainer.train_epoch` first: they are the whole story."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.recipes.load import to_mapping
from mlperf_det.run_folder import Outcome
from mlperf_det.training.checkpoint import Checkpoint, CheckpointStore, Position, random_state
from mlperf_det.training.clock import Stopwatch
from mlperf_det.training.control import Control
from mlperf_det.training.device import ResolvedRuntime
from mlperf_det.training.evaluating import Evaluator, Verdict
from mlperf_det.training.metrics import MetricsFile
from mlperf_det.training.parameters import ParameterWatch
from mlperf_det.training.prefetch import started, to_device
from mlperf_det.training.progress import TrainingProgress
from mlperf_det.training.reporting import Reporter
from mlperf_det.training.run_log import RunLog
from mlperf_det.training.signals import StopRequest
from mlperf_det.training.step_graph import (
    WARMUP_STEPS,
    WARMUP_STEPS_DISTRIBUTED,
    CudaRecorder,
    GraphedStep,
    set_rate,
)
from mlperf_det.training.task import Task
from mlperf_det.training.window import Window

#: seconds a run that was told to stop waits for a score under way (Slurm kills 30 s after SIGTERM)
STOP_GRACE = 15.0
#: steps after which parameters must have moved; the first may have rate 0, and fp16 skips some to find its loss scale
_STEPS_TO_MOVE, _STEPS_TO_MOVE_SCALED = 2, 25


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the loop ended, and why in words."""

    outcome: Outcome
    reason: str


@dataclass(kw_only=True)
class Trainer:
    """A run under way: its parts, put together by `training.run`, and its position.

    Attributes:
        model: the bare module, which evaluates and is saved.
        training_model: what computes losses: ``model``, in DDP on several ranks, compiled where asked.
        note: told what this rank does next, for the watch over the ranks.
        rank_timeout: most seconds to wait for a score.
    """

    task: Task
    control: Control
    runtime: ResolvedRuntime
    device: torch.device
    model: nn.Module
    training_model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    log: RunLog
    metrics: MetricsFile
    checkpoints: CheckpointStore
    evaluator: Evaluator
    stop: StopRequest
    progress: TrainingProgress
    note: Callable[[str], None]
    seed: int
    rank_timeout: float

    def __post_init__(self) -> None:
        self.recipe = self.task.recipe
        self.clock = Stopwatch(self.device)
        self.window = Window(self.device, self.control, self.clock)
        self.do_step = self.train_step if not self.runtime.cuda_graph else GraphedStep(
            self.train_step, self.optimizer, CudaRecorder(self.device), images=self.recipe.local_batch_size,
            warmup_steps=WARMUP_STEPS if self.control.size == 1 else WARMUP_STEPS_DISTRIBUTED)
        self.report = Reporter(self.recipe, self.task.steps_per_epoch(), self.control, self.clock, self.log,
                               self.metrics, self.progress)
        self.remark = ''
        self.move_to(Position())

    def move_to(self, position: Position) -> None:
        """Take a position, before `run`."""
        self.step, self.epoch, self.iteration = position.step, position.epoch, position.iteration
        self.evaluation_due = position.evaluation_due
        self.report.start(position.step)

    @property
    def position(self) -> Position:
        """How far the run is."""
        return Position(step=self.step, epoch=self.epoch, iteration=self.iteration,
                        evaluation_due=self.evaluation_due)

    def run(self) -> Ending:
        """Train until the target is met, the epochs or steps are used up, a loss is not finite, or a stop is asked."""
        evaluates = self.recipe.max_steps is None
        self.parameters, self.first_step = ParameterWatch(self.model.parameters()), self.step
        if evaluates:
            self.evaluator.start()
        if self.evaluation_due:
            self.evaluate()
        ending = None
        while ending is None and not (evaluates and self.epoch >= self.recipe.epochs):
            ending = self.train_epoch() or self.finish_epoch()
        if ending is None:
            ending = self.collect_score() or Ending(
                outcome=Outcome.ABORTED, reason=f'target {_targets(self.recipe.quality_target)} not met in '
                                                f'{self.recipe.epochs} epochs{self.remark}')
        self.end(ending)
        return ending

    def train_epoch(self) -> Ending | None:
        """Train one epoch, or what is left of it."""
        if self.iteration == 0:
            self.log.start_epoch(self.epoch)
        self.report.start_epoch()
        self.window.open()
        batches = self.batches()
        while self.iteration < self.task.steps_per_epoch():
            self.set_learning_rates()
            self.note(f'waiting for the data of step {self.step + 1}')
            with self.clock.fetching():
                batch = next(batches, None)
            if batch is None:
                raise RuntimeError(f'epoch {self.epoch + 1} ended after {self.iteration} batches on rank '
                                   f'{self.control.rank}, the task promised {self.task.steps_per_epoch()}')
            self.note(f'in step {self.step + 1}')
            with self.clock.stepping():
                loss = self.do_step(batch)
            self.window.add(loss, len(batch))
            self.step += 1
            self.iteration += 1
            ending = self.look_up()
            if ending is not None:
                return ending
        return None

    def finish_epoch(self) -> Ending | None:
        """After an epoch: collect the score under way, write a checkpoint, evaluate if it is time to."""
        self.epoch += 1
        self.report.stop_epoch(self.epoch)
        self.iteration = 0
        self.evaluation_due = self.recipe.max_steps is None and self.task.evaluates_after(self.epoch)
        ending = self.collect_score() or self.check_parameters()
        if ending is not None:
            return ending
        self.save_checkpoint()
        if self.control.any(bool(self.stop.received))[0]:
            return self.interrupted()
        if self.evaluation_due:
            self.evaluate()
        if self.epoch == self.recipe.epochs:
            ending = self.collect_score()
        self.report.end_epoch(self.position)
        return ending

    def batches(self) -> Iterator[Batch]:
        """Return this rank's remaining batches of the epoch, on the device."""
        batches = self.task.train_batches(epoch=self.epoch, skip=self.iteration, rank=self.control.rank,
                                          world_size=self.control.size, seed=self.seed)
        return to_device(started(batches), self.device, self.runtime.torch_memory_format)

    def set_learning_rates(self) -> None:
        """Give each parameter group the rate of this step."""
        for group, rate in zip(self.optimizer.param_groups, self.task.learning_rates(self.step), strict=True):
            set_rate(group, rate)

    def train_step(self, batch: Batch) -> Tensor:
        """Do one optimiser step; return the loss, on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.runtime.autocast():
            losses = self.training_model(batch)
            loss: Tensor = torch.stack([part.float() for part in losses.values()]).sum()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def look_up(self) -> Ending | None:
        """After a step: close the window, look for a score or a stop request, where it is time to."""
        at_epoch_end = self.iteration == self.task.steps_per_epoch()
        at_last_step = self.step == self.recipe.max_steps
        if (self.step % self.recipe.runtime.log_interval == 0 or at_epoch_end or at_last_step
                or self.step == self.report.warm_until):
            ending = self.close_window()
            if ending is not None:
                return ending
        if at_last_step:
            return self.check_parameters() or Ending(
                outcome=Outcome.FINISHED, reason=f'did the {self.step} steps it was asked for')
        # At the end of an epoch, finish_epoch looks, in its own order.
        return None if at_epoch_end or self.step % self.recipe.runtime.poll_interval else self.poll()

    def poll(self) -> Ending | None:
        """Let the ranks agree on what has happened beside the training: a score has come, a stop is asked."""
        scored = self.evaluator.poll()
        has_score, stop = self.control.any(scored is not None, bool(self.stop.received))
        if has_score and (ending := self.judge(self.evaluator.settle(scored))) is not None:
            return ending
        if not stop:
            return None
        ending = self.collect_score() or (self.close_window() if self.window.steps else None) or self.check_parameters()
        if ending is not None:
            return ending
        self.evaluation_due = False
        self.save_checkpoint()
        return self.interrupted()

    def close_window(self) -> Ending | None:
        """Write the line of the steps since the last one; end the run where a loss was not finite."""
        window = self.window.close()
        self.report.window(window, self.position, float(self.optimizer.param_groups[0]['lr']))
        if window.finite:
            return None
        return Ending(outcome=Outcome.DIVERGED,
                      reason=f'a loss was not finite between steps {self.step - window.steps + 1} and {self.step}')

    def evaluate(self) -> None:
        """Infer, and leave the scoring to the process beside."""
        self.note(f'evaluating after epoch {self.epoch}')
        with self.clock.measure('evaluation'):
            self.evaluator.evaluate(self.epoch, self.model)
        self.evaluation_due = False

    def collect_score(self) -> Ending | None:
        """Wait for the score under way, if any; a run that is told to stop does not wait for long."""
        epoch = self.evaluator.pending
        if epoch is None:
            return None
        self.note(f'waiting for the score of epoch {epoch}')
        with self.clock.measure('score_wait'):
            verdict = self.evaluator.collect(lambda: bool(self.stop.received), timeout=self.rank_timeout,
                                             grace=STOP_GRACE)
        # Without one: its weights are those of the last checkpoint, so resuming there loses no evaluation.
        return self.judge(verdict) if verdict else self.interrupted(f'score of epoch {epoch} still pending')

    def judge(self, verdict: Verdict) -> Ending | None:
        """End the run when all targets are met in one evaluation, or the benchmark gives it up."""
        scores = ', '.join(f'{name} {value:.4f}' for name, value in verdict.metrics.items())
        self.remark = '' if verdict.detections else '; the last evaluation had not a single detection'
        self.progress.say(f'epoch {verdict.epoch}: {scores} (target {_targets(self.recipe.quality_target)})'
                          f'{self.remark}')
        if not verdict.target_met:
            hopeless = self.task.gives_up(verdict.epoch, verdict.metrics)
            return Ending(outcome=Outcome.ABORTED, reason=hopeless) if hopeless else None
        return Ending(outcome=Outcome.CONVERGED, reason=f'target met after epoch {verdict.epoch}: {scores}')

    def check_parameters(self) -> Ending | None:
        """End a run whose parameters are not finite, which the loss shows only a step later, or do not move."""
        steps = self.step - self.first_step
        enough = steps >= (_STEPS_TO_MOVE_SCALED if self.scaler.is_enabled() else _STEPS_TO_MOVE)
        broken, stuck = self.control.any(not self.parameters.finite(), enough and not self.parameters.moved())
        if broken:
            return Ending(outcome=Outcome.DIVERGED, reason=f'a parameter was not finite after step {self.step}')
        if stuck:
            return Ending(outcome=Outcome.ABORTED, reason=f'no parameter changed in {steps} steps: the learning rate '
                                                          'is 0, or everything is frozen')
        return None

    def save_checkpoint(self) -> None:
        """Write the state of all ranks; rank 0 does the writing."""
        started_at = time.perf_counter()
        self.note(f'writing the checkpoint of step {self.step}')
        with self.clock.measure('checkpoint'):
            # Batch-norm statistics differ between ranks until an evaluation averages them.
            state = self.model.state_dict()
            buffers = {name: state[name].cpu() for name, _ in self.model.named_buffers() if name in state}
            states = self.control.to_first({'random': random_state(self.device), 'buffers': buffers})
            if states is not None:
                path = self.checkpoints.save(Checkpoint(
                    position=self.position, seed=self.seed, model=state,
                    optimizer=self.optimizer.state_dict(),
                    scaler=self.scaler.state_dict(), rank_states=states, log_offset=self.log.offset(),
                    metrics_offset=self.metrics.offset(), recipe=to_mapping(self.recipe),
                    dataset_fingerprint=str(self.task.dataset_record().get('fingerprint', ''))))
                self.metrics.write('checkpoint', step=self.step, epoch=self.epoch, bytes=path.stat().st_size,
                                   seconds=time.perf_counter() - started_at)

    def interrupted(self, remark: str = '') -> Ending:
        """Return the ending of a run that was told to stop."""
        names = sorted({name for name in self.control.everyone(self.stop.received) if name})
        return Ending(outcome=Outcome.INTERRUPTED, reason=f'{", ".join(names)} received at step {self.step}'
                                                          f'{"; " + remark if remark else ""}; continue with --resume')

    def end(self, ending: Ending) -> None:
        """Stop the clock of the log, unless the run goes on later, and write the last lines."""
        if ending.outcome is not Outcome.INTERRUPTED:
            self.log.stop_run(success=ending.outcome is Outcome.CONVERGED, reason=ending.reason)
        self.report.end(self.position)
        self.evaluator.close()


def _targets(target: Mapping[str, float]) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in target.items())
