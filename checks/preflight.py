"""Preflight: is a node fit to train? Seconds a node, before hours are spent.

    reframe -c checks/preflight.py -r                       # this machine, or one node a partition
    reframe -c checks/preflight.py -r --distribute=all      # every node of a cluster
"""

import reframe as rfm
import reframe.utility.typecheck as typ
from reframe.core.builtins import run_after, variable

from mlperf_det.rfm import site
from mlperf_det.rfm.constants import Feature
from mlperf_det.rfm.preflight_check import PreflightCheck, Requirement, at_least


@rfm.simple_test
class preflight_cpu(PreflightCheck):
    """Software, memory, disk, limits and clock of a node."""

    #: Free disk in the job's folder: run folder, checkpoints, logs.
    min_disk_gib = variable(float, value=2.0)

    #: Memory that the job may use.
    min_memory_gib = variable(float, value=4.0)

    #: Free shared memory: image loaders pass batches through it.
    min_shared_memory_gib = variable(float, value=0.25)

    #: Processors that the job may use. 0: as many as the configuration of the partition promises.
    min_cpus = variable(int, value=0)

    #: Files that a process may have open: loaders hold several per batch.
    min_open_files = variable(int, value=1024)

    #: Memory that a process may lock, where the node has InfiniBand or the like: buffers of messages.
    min_locked_memory_gib = variable(float, value=1.0)

    #: Difference between the node's clock and that of the file system.
    max_clock_lead_seconds = variable(float, value=2.0)

    #: Whether a C++ compiler must be there, as torch.compile needs it.
    needs_compiler = variable(typ.Bool, value=False)

    descr = 'preflight: software, memory, disk, limits and clock'
    valid_systems = ['*']

    @run_after('setup')
    def ask_for_all_processors(self):
        """Ask for those that training asks for; memory is often given out by the processor."""
        if not self.is_local() and self.num_cpus_per_task is None:
            self.num_cpus_per_task = self.current_partition.processor.num_cpus

    def requirements(self):
        """What must hold of any node that trains."""
        return [
            Requirement(fact='broken_modules', holds=lambda broken: not broken,
                        otherwise='compiled modules cannot be imported: {value}'),
            Requirement(fact='versions', holds=lambda found: all(found.values()),
                        otherwise='packages are missing (None): {value}; install mlperf-det[train]'),
            at_least('disk_free_gib', self.min_disk_gib, 'free space where the stage directory lies'),
            at_least('memory_gib', self.min_memory_gib, 'ask for more, or look for what else uses it'),
            at_least('shared_memory_free_gib', self.min_shared_memory_gib, 'clear /dev/shm, or mount it larger'),
            at_least('cpus', self.min_cpus or self.num_cpus_per_task or 1, 'the job is bound to too few processors'),
            at_least('open_files_limit', self.min_open_files, 'raise `ulimit -n`'),
            at_least('locked_memory_limit_gib', self.min_locked_memory_gib, 'raise `ulimit -l`; Slurm may hand down '
                     'that of the login node (PropagateResourceLimits)'),
            Requirement(fact='clock_rate_error', holds=lambda error: abs(error) < 0.01,
                        otherwise='the clock runs wrong by the fraction {value}: times to train would be too'),
            Requirement(fact='clock_lead_seconds', holds=lambda lead: abs(lead) <= self.max_clock_lead_seconds,
                        otherwise='the clock is {value} s ahead of the file system; check NTP'),
            Requirement(fact='clock_after_release', holds=bool, otherwise='the clock is years behind; check NTP'),
            *([Requirement(fact='compiler', holds=bool, otherwise='no C++ compiler for torch.compile')]
              if self.needs_compiler else []),
        ]


@rfm.simple_test
class preflight_gpu(PreflightCheck):
    """The GPUs of a node are those that the site configuration promises, and each computes."""

    descr = 'preflight: number and model of GPUs'
    valid_systems = [f'+{Feature.GPU}']
    use_gpus = True

    def requirements(self):
        """What the partition's ``devices`` say."""
        count, model = site.gpus_per_node(self.current_partition), site.accelerator(self.current_partition)
        return [
            Requirement(fact='gpu_models', holds=lambda models: count > 0 and len(models) == count,
                        otherwise=f'GPUs found: {{value}}; the configuration of the partition promises {count}'),
            Requirement(fact='gpu_models', holds=lambda models: all(model in name for name in models),
                        otherwise=f'GPUs found: {{value}}; the configuration of the partition promises {model}'),
        ]
