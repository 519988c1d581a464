"""ReFrame configuration: LANTA (ThaiSC), Slurm and Singularity.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import ENVIRONMENT, GPUS_BY_GRES, LOGGING, MODES, SLURM

site_configuration = {
    'systems': [
        {
            'name': 'lanta',
            'descr': 'LANTA (ThaiSC), Slurm and Singularity',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/FILL_IN/mlperf-det',
            'partitions': [
                {
                    **SLURM,
                    'name': 'gpu',
                    'descr': '4 x A100-SXM4-40GB',
                    'access': ['--partition=gpu', '--account=FILL_IN'],
                    'max_jobs': 8,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-SXM4-40GB', 'num_devices': 4}],
                    # To be confirmed by the site: `scontrol show node`.
                    'processor': {'num_cpus': 64, 'num_cpus_per_core': 1, 'num_sockets': 1,
                                  'num_cpus_per_socket': 64},
                    'resources': GPUS_BY_GRES,
                    'prepare_cmds': [*SLURM['prepare_cmds'], 'module load Singularity'],
                    # Apptainer where the site has that.
                    'container_platforms': [{'type': 'Singularity'}],
                    'env_vars': [
                        *ENVIRONMENT,
                        # The network of gradients: the fast adapters, as `ip link` names them.
                        ['NCCL_SOCKET_IFNAME', 'FILL_IN'],
                    ],
                    'extras': {
                        # Absolute path of an image that lies ready; 'build' makes one below resourcesdir.
                        'image': 'build',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/FILL_IN/datasets',
                        'backbones': '/FILL_IN/backbones',
                        'nodes': 4,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
