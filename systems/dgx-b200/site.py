"""ReFrame configuration: DGX B200, Slurm with Pyxis and Enroot.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import CLEAR_CACHES_BY_SUDO, ENVIRONMENT, GPUS_BY_GRES, LOGGING, MODES, SLURM

site_configuration = {
    'systems': [
        {
            'name': 'dgx-b200',
            'descr': 'DGX B200, Slurm with Pyxis and Enroot',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/FILL_IN/mlperf-det',
            'partitions': [
                {
                    **SLURM,
                    'name': 'dgx',
                    'descr': 'DGX B200: 8 x B200-SXM-180GB',
                    'access': ['--partition=FILL_IN'],
                    'max_jobs': 8,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_100', 'model': 'NVIDIA B200', 'num_devices': 8}],
                    'resources': GPUS_BY_GRES,
                    'processor': {'num_cpus': 224, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 112},
                    'env_vars': [
                        *ENVIRONMENT,
                        # InfiniBand adapters for the exchange of gradients: those beside the GPUs (`ibdev2netdev`).
                        ['NCCL_IB_HCA', 'FILL_IN'],
                        # Reduction inside NVSwitch.
                        ['NCCL_NVLS_ENABLE', '1'],
                    ],
                    'extras': {
                        'container_runtime': 'Pyxis',
                        # Absolute path of an image that lies ready; 'build' makes one below resourcesdir.
                        'image': '/FILL_IN/mlperf-det.sqsh',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/FILL_IN/datasets',
                        'backbones': '/FILL_IN/backbones',
                        # On every node; runs say `cache_clear` in their log only where it worked.
                        'clear_caches': CLEAR_CACHES_BY_SUDO,
                        'nodes': 8,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
