"""What training checks measure: each metric with its unit, its direction, and how it is read from a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mlperf_det.recipes.recipe import Tier
from mlperf_det.results.references.table import Direction
from mlperf_det.results.run import Run
from mlperf_det.results.score import SECONDS_PER_DAY, counted_as_slowest, olympic_mean
from mlperf_det.results.thaisc import whole_job_seconds
from mlperf_det.rfm.constants import Unit

#: Tiers in which the model is trained to a target, so that times to it and accuracies exist.
TO_TARGET = (Tier.SMOKE, Tier.CONVERGENCE)
ALL_TIERS = tuple(Tier)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of a training run.

    Attributes:
        name: as in references, performance logs and reports.
        unit: one of `constants.Unit`.
        better: the direction.
        of_run: reads it from a run; None where the run does not have it.
        tiers: tiers in which a run must have it.
        informative: it may lack a reference, because it explains others or is judged by the quality target.
        of_runs: what several runs of one job amount to: of their values, and the number of all runs, which is larger
            by one where a run did not converge.
    """

    name: str
    unit: str
    better: Direction
    of_run: Callable[[Run], float | None]
    tiers: tuple[Tier, ...] = TO_TARGET
    informative: bool = True
    of_runs: Callable[[Sequence[float], int], float] = lambda values, _: statistics.median(values)

    def measure(self, runs: Sequence[Run]) -> float:
        """Return the figure over all runs of a job; one that MLPerf lets miss the target counts as the slowest.

        Raises:
            LookupError: a run does not have it.
        """
        forgiven = counted_as_slowest(runs)
        judged = [run for run in runs if run is not forgiven]
        values = [self.of_run(run) for run in judged]
        missing = [str(run.source) for run, value in zip(judged, values, strict=True) if value is None]
        if missing or not values:
            raise LookupError(f'{", ".join(missing) or "no run at all"} does not yield {self.name}')
        return self.of_runs([value for value in values if value is not None], len(runs))


def jobs_per_day(seconds: Sequence[float], runs: int) -> float:
    """Return how many runs a day has room for, one after the other, at the mean of `olympic_mean`."""
    return SECONDS_PER_DAY / olympic_mean(seconds, runs)


#: ``run_stop`` minus ``run_start``, as MLPerf counts it.
TIME_TO_TRAIN = Metric(name='time_to_train', unit=Unit.SECONDS, better=Direction.LOWER, informative=False,
                       of_run=lambda run: run.time_to_train_seconds, of_runs=olympic_mean)
#: Training images of all ranks per second of the steps after warm-up, evaluations and checkpoints left out.
IMAGES_PER_SECOND = Metric(name='images_per_second', unit=Unit.IMAGES_PER_SECOND, better=Direction.HIGHER,
                           informative=False, tiers=ALL_TIERS, of_run=lambda run: run.throughput.steady)
#: Mean share of their time in which ranks waited for images.
DATA_WAIT_SHARE = Metric(name='data_wait_share', unit=Unit.FRACTION, better=Direction.LOWER, tiers=ALL_TIERS,
                         of_run=lambda run: run.data_wait_share)
#: Completed epochs when the target was met.
EPOCHS_TO_TARGET = Metric(name='epochs_to_target', unit=Unit.EPOCHS, better=Direction.LOWER,
                          of_run=lambda run: run.epochs_to_target)
#: AP of the last evaluation.
BBOX_AP = Metric(name='bbox_ap', unit=Unit.FRACTION, better=Direction.HIGHER,
                 of_run=lambda run: run.final_metrics.get('bbox'))
SEGM_AP = Metric(name='segm_ap', unit=Unit.FRACTION, better=Direction.HIGHER,
                 of_run=lambda run: run.final_metrics.get('segm'))
#: Seconds of the whole process, as the ``RESULT,OBJECT_DETECTION`` line of the log has them; scored as times to train.
RESULT_SECONDS = Metric(name='result_seconds', unit=Unit.SECONDS, better=Direction.LOWER, of_run=whole_job_seconds,
                        of_runs=olympic_mean)
#: ThaiSC's score, made of the seconds of the whole process.
RESULT_JOBS_PER_DAY = Metric(name='jobs_per_day_by_result', unit=Unit.JOBS_PER_DAY, better=Direction.HIGHER,
                             of_run=whole_job_seconds, of_runs=jobs_per_day)
#: The same made of ``run_stop`` minus ``run_start``, for comparison; nobody scores it.
TRAINING_JOBS_PER_DAY = Metric(name='jobs_per_day_by_time_to_train', unit=Unit.JOBS_PER_DAY, better=Direction.HIGHER,
                               of_run=lambda run: run.time_to_train_seconds, of_runs=jobs_per_day)
#: Mean time of a rank in all evaluations of a run, waiting for scores included.
EVALUATION_SECONDS = Metric(name='evaluation_seconds', unit=Unit.SECONDS, better=Direction.LOWER,
                            of_run=lambda run: run.evaluation_seconds)
#: What ThaiSC's procurement asks of Mask R-CNN: both ways to count the time of a run, each under its own name.
THAISC_METRICS = (RESULT_SECONDS, RESULT_JOBS_PER_DAY, TRAINING_JOBS_PER_DAY)
#: What every check of a training measures.
TRAINING_METRICS = (TIME_TO_TRAIN, IMAGES_PER_SECOND, EPOCHS_TO_TARGET, BBOX_AP, EVALUATION_SECONDS, DATA_WAIT_SHARE)
#: Metrics that are accuracies -> the metric of the recipe's quality target that they are held against.
ACCURACIES: Mapping[str, str] = MappingProxyType({BBOX_AP.name: 'bbox', SEGM_AP.name: 'segm'})
