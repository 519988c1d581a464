"""What site configurations have in common: how results are logged, and the modes of use.

A ``site.py`` imports both; a site that wants something else writes its own::

    from mlperf_det.rfm.site_defaults import LOGGING, MODES
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
