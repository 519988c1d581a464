"""ReFrame configuration: LANTA (ThaiSC), Slurm and Singularity.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import LOGGING, MODES

site_configuration = {
    'systems': [
        {
            'name': 'lanta',
            'descr': 'LANTA (ThaiSC), Slurm and Singularity',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/lustrefs/disk/project/FILL_IN/mlperf-det',
            'partitions': [
                {
                    'name': 'gpu',
                    'descr': '4 x A100-SXM4-40GB',
                    'scheduler': 'slurm',
                    'launcher': 'srun',
                    'environs': ['builtin'],
                    'access': ['--partition=gpu', '--account=FILL_IN'],
                    'sched_options': {'use_nodes_option': True, 'job_submit_timeout': 300},
                    'max_jobs': 8,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100-SXM4-40GB', 'num_devices': 4}],
                    'processor': {'num_cpus': 64, 'num_cpus_per_core': 1, 'num_sockets': 1,
                                  'num_cpus_per_socket': 64},
                    # The name counts: ReFrame fills in the GPUs of a node under this one only.
                    'resources': [{'name': '_rfm_gpu', 'options': ['--gres=gpu:{num_gpus_per_node}']}],
                    'prepare_cmds': ['module load Apptainer'],
                    'container_platforms': [{'type': 'Apptainer'}],
                    'env_vars': [
                        # Operators of loader processes must not start threads of their own.
                        ['OMP_NUM_THREADS', '1'],
                        # WARN names the cause of a failed collective operation; INFO shows rings, trees and transports.
                        ['NCCL_DEBUG', 'WARN'],
                        # The network of gradients; the first high-speed adapter of a node.
                        ['NCCL_SOCKET_IFNAME', 'hsn0'],
                    ],
                    'extras': {
                        # Absolute path of an image that lies ready; 'build' makes one under `images`.
                        'image': 'build',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/lustrefs/disk/project/FILL_IN/datasets',
                        'backbones': '/lustrefs/disk/project/FILL_IN/backbones',
                        'nodes': 4,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
