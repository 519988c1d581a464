"""What site configurations have in common: plain values of ReFrame's configuration, to be used or left.

A ``site.py`` imports what fits it, and writes down what differs::

    from mlperf_det.rfm.site_defaults import ENVIRONMENT, GPUS_BY_GRES, LOGGING, MODES, SLURM

    {**SLURM, 'name': 'gpu', 'access': ['--partition=gpu'], 'resources': GPUS_BY_GRES,
     'env_vars': [*ENVIRONMENT, ['NCCL_IB_HCA', '=mlx5_0,mlx5_1']], ...}
"""

from __future__ import annotations

from typing import Any, Final

#: One line a run and check, all metrics with their references behind it.
LOGGING: Final[list[dict[str, Any]]] = [{
    'handlers_perflog': [{
        'type': 'filelog',
        'prefix': '%(check_system)s/%(check_partition)s',
        'level': 'info',
        'format': '%(check_job_completion_time)s|%(check_result)s|%(check_display_name)s|%(check_job_nodelist)s|'
                  '%(check_perfvalues)s',
        'format_perfvars': '%(check_perf_value)s|%(check_perf_unit)s|%(check_perf_ref)s|%(check_perf_lower_thres)s|'
                           '%(check_perf_upper_thres)s|',
        'append': True,
    }],
}]

#: ``--mode=NAME`` of ReFrame: which checks belong to an occasion.
MODES: Final[list[dict[str, Any]]] = [
    # Every night, an hour or two: is the machine as fast as yesterday?
    {'name': 'nightly', 'options': ['--tag=preflight|smoke|throughput', '--warn-as-error']},
    # Before paying: does it train to the quality target in the promised time? Days, on a system that is otherwise idle.
    {'name': 'acceptance', 'options': ['--tag=preflight|convergence', '--warn-as-error']},
    # After a maintenance: is every single node fit? Minutes; ends red at a node that is not.
    {'name': 'vetting', 'options': ['--tag=preflight', '--distribute=all', '--warn-as-error']},
]

#: A partition of Slurm.
SLURM: Final[dict[str, Any]] = {
    'scheduler': 'slurm',
    'launcher': 'srun',
    'environs': ['builtin'],
    # Without --nodes Slurm may spread a job over more nodes; a busy controller takes its time to answer.
    'sched_options': {'use_nodes_option': True, 'job_submit_timeout': 300},
    'prepare_cmds': ['# Modules and variables of the partition, from site.py.'],
}

#: How jobs ask for GPUs. The name counts: ReFrame fills in the GPUs of a node under this one only.
GPUS_BY_GRES: Final[list[dict[str, Any]]] = [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}]

#: Variables of every rank.
ENVIRONMENT: Final[list[list[str]]] = [
    # Operators of loader processes must not start threads of their own.
    ['OMP_NUM_THREADS', '1'],
    # WARN names the cause of a failed collective operation; INFO shows rings, trees and transports.
    ['NCCL_DEBUG', 'WARN'],
]

#: ``extras['clear_caches']`` where users may run the command on the nodes of their job; it never asks for a password.
CLEAR_CACHES_BY_SUDO: Final = ('srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 '
                               "sh -c 'sync && sudo -n /sbin/sysctl vm.drop_caches=3'")
