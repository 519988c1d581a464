"""The plugin for checks that are jobs of Slurm: binding, what happens to an interrupted job, nodes to leave out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import reframe as rfm
import reframe.utility.typecheck as typ
from reframe.core.builtins import run_before, variable
from reframe.core.exceptions import ReframeError

from mlperf_det.rfm import launch
from mlperf_det.rfm.constants import Extra
from mlperf_det.rfm.start_rank import NUMA

#: Seconds before the time limit at which ranks are told to write a checkpoint and end.
SIGNAL_SECONDS = 180


class SlurmJob(rfm.RegressionTestPlugin):
    """Options of ``sbatch`` and ``srun`` that make a job end in a way that can be judged.

    A lost node ends the job, because ReFrame takes a requeued one for ended and clears up behind it; with ``requeue``
    Slurm starts the job again and it goes on from its checkpoint. What the partition's ``access`` says of it counts.
    """

    if TYPE_CHECKING:
        # Attributes of every ReFrame test, which its typing does not show.
        geometry: launch.Geometry
        num_cpus_per_task: int | None

    #: How ranks get their CPUs and memory: ``numa`` (near their GPU), ``scheduler`` (as Slurm binds them), ``off``, or
    #: older launchers' arguments: ``'--nsockets_per_node=2 --ncores_per_socket=20'``. Empty: the site's way, else numa.
    #:
    #: :type: :class:`str`
    #: :default: ``''``
    cpu_bind = variable(str, value='', loggable=True)

    #: Whether Slurm starts an interrupted job again; it then resumes from its checkpoint.
    #:
    #: :type: :class:`bool`
    #: :default: ``False``
    requeue = variable(typ.Bool, value=False, loggable=True)

    #: Nodes that the job must not run on, in Slurm's form: ``gpu[03,17]``.
    #:
    #: :type: :class:`str`
    #: :default: ``''``
    exclude_nodes = variable(str, value='', loggable=True)

    @property
    def slurm_job_is_ours(self) -> bool:
        """Whether the job goes to Slurm."""
        return self.current_partition.scheduler.registered_name in ('slurm', 'squeue')

    @property
    def slurm_job_cpu_bind(self) -> str:
        """How ranks get their CPUs."""
        return str(self.cpu_bind or self.current_partition.extras.get(Extra.CPU_BIND) or NUMA)

    @run_before('run')
    def slurm_job_set_options(self) -> None:
        """Say what is to happen to an interrupted job, and how srun starts ranks."""
        if not self.slurm_job_is_ours:
            return
        job: Any = self.job
        if self.requeue:
            job.options += ['--requeue', f'--signal=USR1@{SIGNAL_SECONDS}', '--open-mode=append']
        elif not {'--requeue', '--no-requeue'} & set(self.current_partition.access):
            job.options += ['--no-requeue']
        if self.exclude_nodes:
            if not re.fullmatch(r'[\w.,\[\]-]+', self.exclude_nodes):
                raise ReframeError(f"exclude_nodes={self.exclude_nodes!r}: write it in Slurm's form, as gpu[03,17]")
            job.options += [f'--exclude={self.exclude_nodes}']
        if job.launcher.registered_name == 'srun':
            # Ranks choose among all CPUs of the job on their node, unless Slurm is to bind them.
            bind = [] if self.slurm_job_cpu_bind == 'scheduler' else ['--cpu-bind=none']
            job.launcher.options += [*launch.SRUN_OPTIONS, *bind]
