"""ReFrame configuration: TARA (ThaiSC), Slurm and Singularity.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import LOGGING, MODES

site_configuration = {
    'systems': [
        {
            'name': 'tara',
            'descr': 'TARA (ThaiSC), Slurm and Singularity',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/tarafs/data/project/FILL_IN/mlperf-det',
            'partitions': [
                {
                    'name': 'gpu',
                    'descr': 'DGX-1: 8 x V100-SXM2-16GB',
                    'scheduler': 'slurm',
                    'launcher': 'srun',
                    'environs': ['builtin'],
                    'access': ['--partition=FILL_IN', '--account=FILL_IN'],
                    'sched_options': {'use_nodes_option': True, 'job_submit_timeout': 300},
                    'max_jobs': 1,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_70', 'model': 'Tesla V100-SXM2-16GB', 'num_devices': 8}],
                    'processor': {'num_cpus': 80, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 40},
                    # The name counts: ReFrame fills in the GPUs of a node under this one only.
                    'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
                    'prepare_cmds': ['module load Singularity'],
                    'container_platforms': [{'type': 'Singularity'}],
                    'env_vars': [
                        # Operators of loader processes must not start threads of their own.
                        ['OMP_NUM_THREADS', '1'],
                        # WARN names the cause of a failed collective operation; INFO shows rings, trees and transports.
                        ['NCCL_DEBUG', 'WARN'],
                    ],
                    'extras': {
                        # Absolute path of an image that lies ready; 'build' makes one under `images`.
                        'image': 'build',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/tarafs/data/project/FILL_IN/datasets',
                        'backbones': '/tarafs/data/project/FILL_IN/backbones',
                        'nodes': 1,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
