"""ReFrame configuration: LUMI-G (CSC), Slurm and Singularity, AMD MI250X.

What only the site knows is marked FILL_IN; README.md of this folder goes through it.
"""

from mlperf_det.rfm.site_defaults import ENVIRONMENT, LOGGING, MODES, SLURM

site_configuration = {
    'systems': [
        {
            'name': 'lumi-g',
            'descr': 'LUMI-G (CSC), Slurm and Singularity, AMD MI250X',
            'hostnames': ['FILL_IN'],
            # Generated datasets, and images that are built here; seen from all nodes.
            'resourcesdir': '/scratch/FILL_IN/mlperf-det',
            'partitions': [
                {
                    **SLURM,
                    'name': 'standard-g',
                    'descr': '4 x MI250X: 8 devices',
                    'access': ['--partition=standard-g', '--account=FILL_IN'],
                    'max_jobs': 8,
                    'features': ['gpu'],
                    'devices': [{'type': 'gpu', 'arch': 'gfx90a', 'model': 'AMD Instinct MI250X', 'num_devices': 8}],
                    # To be confirmed by the site: 56 of the 64 cores are for jobs, one hardware thread each.
                    'processor': {'num_cpus': 56, 'num_cpus_per_core': 1, 'num_sockets': 1,
                                  'num_cpus_per_socket': 56},
                    # The name counts: ReFrame fills in the GPUs of a node under this one only.
                    'resources': [{'name': '_rfm_gpu', 'options': ['--gpus-per-node={num_gpus_per_node}']}],
                    'container_platforms': [{'type': 'Singularity'}],
                    'env_vars': [
                        *ENVIRONMENT,
                        # The four network adapters, one beside each MI250X; to be confirmed by the site.
                        # GPUs and adapters on one PCIe host bridge exchange directly.
                        ['NCCL_SOCKET_IFNAME', 'hsn0,hsn1,hsn2,hsn3'],
                        ['NCCL_NET_GDR_LEVEL', 'PHB'],
                        # MIOpen keeps compiled kernels in the home directory, which the container does not have.
                        ['MIOPEN_USER_DB_PATH', '/tmp/miopen-$SLURM_JOB_ID'],  # noqa: S108 (a name of the job's)
                        ['MIOPEN_CUSTOM_CACHE_DIR', '/tmp/miopen-$SLURM_JOB_ID'],  # noqa: S108 (a name of the job's)
                    ],
                    'extras': {
                        # Absolute path of an image that lies ready; 'build' makes one below resourcesdir.
                        'image': '/scratch/FILL_IN/images/mlperf-det-rocm.sif',
                        # One folder a dataset card, and the backbone weights; both as the nodes see them.
                        'datasets': '/scratch/FILL_IN/datasets',
                        'backbones': '/scratch/FILL_IN/backbones',
                        'nodes': 4,
                    },
                },
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
