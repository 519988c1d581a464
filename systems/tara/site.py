"""ReFrame configuration: TARA (ThaiSC), Slurm and Singularity.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import ENVIRONMENT, GPUS_BY_GRES, LOGGING, MODES, SLURM

site_configuration = {
    'systems': [
        {
            'name': 'tara',
            'descr': 'TARA (ThaiSC), Slurm and Singularity',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/FILL_IN/mlperf-det',
            'partitions': [
                {
                    **SLURM,
                    'name': 'gpu',
                    'descr': 'DGX-1: 8 x V100-SXM2-16GB',
                    'access': ['--partition=FILL_IN', '--account=FILL_IN'],
                    'max_jobs': 1,
                    'features': ['gpu'],
                    # To be confirmed by the site: a DGX-1 has V100 of 16 or of 32 GB (`nvidia-smi -L`).
                    'devices': [{'type': 'gpu', 'arch': 'sm_70', 'model': 'Tesla V100-SXM2-16GB', 'num_devices': 8}],
                    'processor': {'num_cpus': 80, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 40},
                    'resources': GPUS_BY_GRES,
                    'prepare_cmds': [*SLURM['prepare_cmds'], 'module load Singularity'],
                    'container_platforms': [{'type': 'Singularity'}],
                    'env_vars': ENVIRONMENT,
                    'extras': {
                        # Absolute path of an image that lies ready; 'build' makes one below resourcesdir.
                        'image': 'build',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
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
