"""Score evaluations in a process beside the training, which goes on meanwhile.

The worker reads the annotation file while the first epoch trains and keeps it; detections reach it through a pipe that
a thread feeds, so `AsyncScorer.submit` never waits for a scoring under way. The worker does not import torch.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from mlperf_det.errors import UserError
from mlperf_det.evaluation.coco import CocoSummary, Engine, Scorer
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import DetectionRows, pack, unpack

#: seconds an idle worker gets to end by itself
_GRACE = 5.0


class ScorerError(RuntimeError):
    """The scoring process failed or died; the message has its traceback or exit status."""


@dataclass(frozen=True, kw_only=True)
class ScoredEvaluation:
    """The score of one evaluation.

    Attributes:
        epoch: as given to `AsyncScorer.submit`.
        summaries: metric (``bbox``, ``segm``) -> numbers.
        seconds: wall-clock time of the scoring in the worker, without the wait for earlier ones.
    """

    epoch: int
    summaries: Mapping[str, CocoSummary]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the worker is told once."""

    annotations: Path
    iou_types: tuple[str, ...]
    category_ids: tuple[int, ...]
    engine: Engine
    niceness: int
    threads: int


class AsyncScorer:
    """Owns the scoring process. Use as a context manager, or call `start` and `close`."""

    def __init__(self, annotations: Path, iou_types: Sequence[str], category_ids: Sequence[int], *,
                 engine: Engine = 'hotcoco', niceness: int = 0, threads: int = 1) -> None:
        """Describe the worker; nothing is started yet.

        Args:
            annotations: COCO annotation file of the evaluation split.
            iou_types: metrics to score.
            category_ids: of the recipe's dataset; the worker checks that the annotation file knows them all.
            engine: see `evaluation.coco`.
            niceness: added to the worker's, so that data loading and launches come first.
            threads: of the engine; more than one gains little.
        """
        self._job = _Job(annotations=annotations, iou_types=tuple(iou_types), category_ids=tuple(category_ids),
                         engine=engine, niceness=niceness, threads=threads)
        self._outbox: queue.SimpleQueue[tuple[int, DetectionRows] | None] = queue.SimpleQueue()
        self._pending = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._feeder: threading.Thread | None = None

    def start(self) -> None:
        """Start the worker, which begins to read the annotation file. Returns at once."""
        if self._process is not None:
            raise RuntimeError('the scorer has been started already')
        # Spawned, not forked: the parent may hold a CUDA context and threads.
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe(duplex=True)
        self._process = context.Process(target=_work, args=(theirs, self._job), name='coco-scorer', daemon=True)
        self._process.start()
        theirs.close()
        self._feeder = threading.Thread(
            target=self._feed, args=(self._connection,), name='coco-scorer-feed', daemon=True)
        self._feeder.start()
        # Runs before multiprocessing's own exit handler, which would wait for a worker that ignores SIGTERM.
        atexit.register(self._kill)

    def submit(self, epoch: int, rows: DetectionRows) -> None:
        """Hand over an evaluation and return at once; the rows must not be changed afterwards."""
        self._live_connection()
        self._pending += 1
        self._outbox.put((epoch, rows))

    @property
    def pending(self) -> int:
        """Evaluations handed over whose score has not been collected."""
        return self._pending

    def poll(self) -> ScoredEvaluation | None:
        """Return the next score, in order of submission, or None when there is none yet.

        Raises:
            ScorerError: the worker failed or died.
            UserError: the annotation file or the detections are wrong.
        """
        return self._receive(0.0)

    def wait(self, timeout: float) -> ScoredEvaluation:
        """Return the next score, waiting up to ``timeout`` seconds for it.

        Raises:
            TimeoutError: no score in time.
            ScorerError: the worker failed or died, or nothing was submitted.
            UserError: the annotation file or the detections are wrong.
        """
        if not self._pending:
            raise ScorerError('no evaluation has been submitted that could be waited for')
        scored = self._receive(timeout)
        if scored is None:
            raise TimeoutError(f'no score within {timeout:g} s; {self._pending} evaluations pending')
        return scored

    def close(self) -> None:
        """End the worker; scores that were not collected are lost. May be called twice."""
        if self._process is None:
            return
        if self._pending == 0:
            self._outbox.put(None)
            self._process.join(_GRACE)
        self._kill()

    def __enter__(self) -> AsyncScorer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _live_connection(self) -> Connection:
        if self._connection is None:
            raise RuntimeError('the scorer is not running: call start() first')
        return self._connection

    def _receive(self, timeout: float) -> ScoredEvaluation | None:
        connection = self._live_connection()
        try:
            if not connection.poll(timeout):
                return None
            answer = connection.recv()
        except (EOFError, ConnectionError) as error:
            assert self._process is not None
            self._process.join(_GRACE)
            raise ScorerError(f'the scoring process died (exit status {self._process.exitcode}) with {self._pending} '
                              'evaluations pending; was it killed for memory?') from error
        if isinstance(answer, ScoredEvaluation):
            self._pending -= 1
            return answer
        kind, text = answer
        raise UserError(text) if kind == 'user' else ScorerError(f'the scoring process failed:\n{text}')

    def _feed(self, connection: Connection) -> None:
        # A worker that has gone shows at the other end, in _receive, where it is reported.
        with contextlib.suppress(ConnectionError, OSError):
            while (item := self._outbox.get()) is not None:
                epoch, rows = item
                connection.send_bytes(epoch.to_bytes(8, 'little', signed=True))
                connection.send_bytes(pack(rows))
            connection.send_bytes(b'')

    def _kill(self) -> None:
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is None:
            return
        self._outbox.put(None)
        process.kill()
        process.join(_GRACE)
        if connection is not None and self._feeder is not None:
            # It may be sending to the worker that has just been killed; the connection is closed behind it.
            self._feeder.join(_GRACE)
            connection.close()
        atexit.unregister(self._kill)


def _work(connection: Connection, job: _Job) -> None:
    """Score what arrives until the other side ends (the worker's main function)."""
    # The parent decides what an interrupt or a scheduler's signal means; the worker ends with its pipe.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.nice(job.niceness)
    os.environ['RAYON_NUM_THREADS'] = str(job.threads)
    try:
        ground_truth = read_ground_truth(job.annotations)
        unknown = sorted(set(job.category_ids) - set(ground_truth.category_names))
        if unknown:
            raise UserError(f'{job.annotations}: {len(unknown)} category ids of the dataset are not in it, first '
                            f'{unknown[0]}; is it the annotation file of this dataset?')
        scorer = Scorer(ground_truth, job.engine)
        while (evaluation := _next_evaluation(connection)) is not None:
            epoch, data = evaluation
            started = time.perf_counter()
            summaries = scorer.score(unpack(data), job.iou_types)
            connection.send(ScoredEvaluation(epoch=epoch, summaries=summaries, seconds=time.perf_counter() - started))
    except ConnectionError:
        pass  # The training has ended, so nobody waits for the score.
    except UserError as error:
        connection.send(('user', str(error)))
    except BaseException:  # noqa: BLE001 - whatever it was, the parent raises it with this traceback
        connection.send(('failed', traceback.format_exc()))


def _next_evaluation(connection: Connection) -> tuple[int, bytes] | None:
    """Wait for what `AsyncScorer._feed` sends: epoch and packed rows; None when the training needs no more or ended."""
    try:
        epoch = connection.recv_bytes()
        return (int.from_bytes(epoch, 'little', signed=True), connection.recv_bytes()) if epoch else None
    except (EOFError, OSError):
        return None
