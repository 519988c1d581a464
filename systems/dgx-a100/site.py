"""ReFrame configuration: DGX A100, Slurm with Pyxis and Enroot.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import LOGGING, MODES

site_configuration = {
    'systems': [
        {
            'name': 'dgx-a100',
            'descr': 'DGX A100, Slurm with Pyxis and Enroot',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/shared/mlperf-det',
            'partitions': [
                {
                    'name': 'dgx',
                    'descr': 'DGX A100: 8 x A100-SXM4-80GB',
                    'scheduler': 'slurm',
                    'launcher': 'srun',
                    'environs': ['builtin'],
                    'access': ['--partition=FILL_IN'],
                    'sched_options': {'use_nodes_option': True, 'job_submit_timeout': 300},
                    'max_jobs': 8,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-SXM4-80GB', 'num_devices': 8}],
                    'processor': {'num_cpus': 256, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 128},
                    # The name counts: ReFrame fills in the GPUs of a node under this one only.
                    'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
                    'env_vars': [
                        # Operators of loader processes must not start threads of their own.
                        ['OMP_NUM_THREADS', '1'],
                        # WARN names the cause of a failed collective operation; INFO shows rings, trees and transports.
                        ['NCCL_DEBUG', 'WARN'],
                        # InfiniBand adapters for the exchange of gradients: those beside the GPUs (`ibdev2netdev`).
                        ['NCCL_IB_HCA', 'FILL_IN'],
                    ],
                    'extras': {
                        'container_runtime': 'Pyxis',
                        # Absolute path of an image that lies ready; 'build' makes one under `images`.
                        'image': '/shared/images/mlperf-det.sqsh',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/shared/datasets',
                        'backbones': '/shared/backbones',
                        # On every node; runs say `cache_clear` in their log only where it worked.
                        'clear_caches': 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 '
                                        'sudo /sbin/sysctl vm.drop_caches=3',
                        'nodes': 8,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
