"""ThaiSC's scoring of October 2020 and the tables that its procurement asks for.

Jobs per day are 86,400 s divided by the mean time of the runs without the fastest and the slowest; a run that did not
converge counts as the slowest. The seconds are those of the job (the ``RESULT,OBJECT_DETECTION`` line) where the logs
have it, else MLPerf's time to train, and the table says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.mllog.result_line import result_seconds
from mlperf_det.results.groups import Group
from mlperf_det.results.run import Run
from mlperf_det.results.score import jobs_per_day
from mlperf_det.tables import printable

#: the RESULT line is written at the very end of a log
_TAIL_BYTES = 4 << 20
CONFIGURATION_ROWS = ('Benchmark', 'Testcase', 'Compiler', 'Compiler flags', 'MPI library', 'BLAS library',
                      'FFT library', 'Other software', 'Run parameters')


@dataclass(frozen=True, kw_only=True)
class ThaiscScore:
    """A group by ThaiSC's rule.

    Attributes:
        seconds: mean of the remaining runs; jobs: 86,400 divided by it.
        basis: ``RESULT seconds`` or ``time to train``.
        train_seconds: mean time to train by the same rule, which is shorter than the job.
        nodes: of the proof of concept.
        runs, converged: how many there are; the fastest and the slowest do not count.
    """

    title: str
    seconds: float
    jobs: float
    basis: str
    train_seconds: float
    nodes: int
    runs: int
    converged: int

    @property
    def per_node(self) -> float:
        """Jobs per day and node."""
        return self.jobs / self.nodes

    def projected(self, nodes: int) -> float:
        """Jobs per day on the proposed number of nodes: linear in nodes, as ThaiSC projects."""
        return self.per_node * nodes


def thaisc_score(group: Group) -> ThaiscScore | None:
    """Score a group; None where its runs allow no score (fewer than three, two not converged) or nodes are unknown."""
    nodes = group.runs[0].geometry.nodes
    whole_jobs = [whole_job_seconds(run) for run in group.runs]
    complete = all(seconds is not None for run, seconds in zip(group.runs, whole_jobs, strict=True) if run.converged)
    to_train = [run.time_to_train_seconds if run.converged else None for run in group.runs]
    by_train = jobs_per_day(to_train)
    found = by_train
    if complete:
        found = jobs_per_day([seconds if run.converged else None
                              for run, seconds in zip(group.runs, whole_jobs, strict=True)])
    if found is None or by_train is None or not nodes:
        return None
    return ThaiscScore(title=group.title, seconds=found.seconds, jobs=found.jobs_per_day, nodes=nodes,
                       basis='RESULT seconds' if complete else 'time to train', train_seconds=by_train.seconds,
                       runs=len(group.runs), converged=sum(run.converged for run in group.runs))


def benchmark_result(scores: Sequence[ThaiscScore]) -> str:
    """Return the content of benchmark_result.txt."""
    return ''.join(f'# {printable(score.title)} ({score.basis})\nBenchmark performance = {score.jobs:10.3f} jobs/day\n'
                   for score in scores)


def configuration_table(run: Run) -> list[tuple[str, str]]:
    """Return the rows of the configuration table that bidders hand in; ``-`` where there is none."""
    record = run.record
    software = dict(record.software) if record else {}
    backend = str(record.runtime.get('backend') or '-') if record else '-'
    command = ' '.join(record.command) if record else '-'
    values = ('Object Detection', f'{run.benchmark} {record.recipe.get("name", "") if record else run.system}'.strip(),
              '-', '-', backend, software.pop('mkl', '-'), '-',
              ', '.join(f'{name} {version}' for name, version in software.items()) or '-', command or '-')
    return list(zip(CONFIGURATION_ROWS, values, strict=True))


def whole_job_seconds(run: Run) -> float | None:
    """Return the seconds of the RESULT line of an uncompressed log on disk; None without one."""
    if not isinstance(run.log, Path) or not run.log.is_file():
        return None
    with run.log.open('rb') as stream:
        stream.seek(max(0, run.log.stat().st_size - _TAIL_BYTES))
        return result_seconds(stream.read(_TAIL_BYTES))
