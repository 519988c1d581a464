"""ReFrame configuration: Fujitsu PRIMERGY GX2460, Slurm with Pyxis and Enroot, or Docker.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import CLEAR_CACHES_BY_SUDO, ENVIRONMENT, GPUS_BY_GRES, LOGGING, MODES, SLURM

site_configuration = {
    'systems': [
        {
            'name': 'primergy-gx2460',
            'descr': 'Fujitsu PRIMERGY GX2460, Slurm with Pyxis and Enroot, or Docker',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/FILL_IN/mlperf-det',
            'partitions': [
                {
                    **SLURM,
                    'name': 'gx',
                    'descr': 'PRIMERGY GX2460: 4 x A100-PCIe-40GB',
                    'access': ['--partition=FILL_IN'],
                    'max_jobs': 1,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-PCIE-40GB', 'num_devices': 4}],
                    'processor': {'num_cpus': 64, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 32},
                    'resources': GPUS_BY_GRES,
                    'env_vars': ENVIRONMENT,
                    'extras': {
                        'container_runtime': 'Pyxis',
                        # Absolute path of an image that lies ready; 'build' makes one below resourcesdir.
                        'image': '/FILL_IN/images/mlperf-det.sqsh',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/FILL_IN/datasets',
                        'backbones': '/FILL_IN/backbones',
                        # On every node; runs say `cache_clear` in their log only where it worked.
                        'clear_caches': CLEAR_CACHES_BY_SUDO,
                        'nodes': 1,
                    },
                },
                {
                    'name': 'docker',
                    'descr': 'The node itself without Slurm, in Docker',
                    'scheduler': 'local',
                    'launcher': 'local',
                    'environs': ['builtin'],
                    'container_platforms': [{'type': 'Docker'}],
                    # Timings mean nothing when two trainings share the GPUs.
                    'max_jobs': 1,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-PCIE-40GB', 'num_devices': 4}],
                    'env_vars': ENVIRONMENT,
                    'extras': {
                        # Name of an image in this node's Docker; 'build' makes one from the Dockerfile.
                        'image': 'mlperf-det:latest',
                        'datasets': '/FILL_IN/datasets',
                        'backbones': '/FILL_IN/backbones',
                        'nodes': 1,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
