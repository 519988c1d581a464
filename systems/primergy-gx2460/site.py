"""ReFrame configuration: Fujitsu PRIMERGY GX2460, Slurm with Pyxis and Enroot, or Docker.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import LOGGING, MODES

site_configuration = {
    'systems': [
        {
            'name': 'primergy-gx2460',
            'descr': 'Fujitsu PRIMERGY GX2460, Slurm with Pyxis and Enroot, or Docker',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/data/mlperf-det',
            'partitions': [
                {
                    'name': 'gx',
                    'descr': 'PRIMERGY GX2460: 4 x A100-PCIe-40GB',
                    'scheduler': 'slurm',
                    'launcher': 'srun',
                    'environs': ['builtin'],
                    'access': ['--partition=FILL_IN'],
                    'sched_options': {'use_nodes_option': True, 'job_submit_timeout': 300},
                    'max_jobs': 1,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-PCIE-40GB', 'num_devices': 4}],
                    'processor': {'num_cpus': 64, 'num_cpus_per_core': 2, 'num_sockets': 2,
                                  'num_cpus_per_socket': 32},
                    # The name counts: ReFrame fills in the GPUs of a node under this one only.
                    'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
                    'env_vars': [
                        # Operators of loader processes must not start threads of their own.
                        ['OMP_NUM_THREADS', '1'],
                        # WARN names the cause of a failed collective operation; INFO shows rings, trees and transports.
                        ['NCCL_DEBUG', 'WARN'],
                    ],
                    'extras': {
                        'container_runtime': 'Pyxis',
                        # Absolute path of an image that lies ready; 'build' makes one under `images`.
                        'image': '/data/images/mlperf-det.sqsh',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/data',
                        'backbones': '/data/backbones',
                        # On every node; runs say `cache_clear` in their log only where it worked.
                        'clear_caches': 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 '
                                        'sudo /sbin/sysctl vm.drop_caches=3',
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
                    'env_vars': [['OMP_NUM_THREADS', '1']],
                    'extras': {
                        # Name of an image in this node's Docker; 'build' makes one from the Dockerfile.
                        'image': 'mlperf-det:latest',
                        'datasets': '/data',
                        'backbones': '/data/backbones',
                        'nodes': 1,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
