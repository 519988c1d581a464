"""ReFrame configuration of the machine you sit at: one partition, commands started directly.

Everything a site may want to change here is explained in README.md of this folder.
"""

from mlperf_det.rfm.site_defaults import LOGGING, MODES

site_configuration = {
    'systems': [
        {
            'name': 'local',
            'descr': 'This machine',
            'hostnames': ['.*'],
            # Generated datasets are kept here between sessions; empty: beside the stage directory.
            'resourcesdir': '.',
            'partitions': [
                {
                    'name': 'default',
                    'descr': 'Commands started directly',
                    'scheduler': 'local',
                    'launcher': 'local',
                    'environs': ['builtin'],
                    # Timings mean nothing when two trainings share the processors.
                    'max_jobs': 1,
                    # A machine with GPUs: uncomment, correct, and the throughput and convergence tiers appear.
                    # 'features': ['gpu'],
                    # 'devices': [{'type': 'gpu', 'model': 'NVIDIA H100', 'num_devices': 1}],
                    # 'extras': {'datasets': '/data', 'backbones': '/data/backbones'},
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
