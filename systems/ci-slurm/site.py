"""ReFrame configuration of the Slurm cluster that the integration tests start: two nodes, accounting, fake GPUs."""

import os

from mlperf_det.rfm.site_defaults import GPUS_BY_GRES, LOGGING, MODES, SLURM


def partition(name, descr, **more):
    """Return a partition; all of them are the same two nodes, used in different ways."""
    return {
        **SLURM,
        'name': name,
        'descr': descr,
        'access': ['--partition=main'],
        'max_jobs': 1,
        'processor': {'num_cpus': 8, 'num_cpus_per_core': 1, 'num_sockets': 1, 'num_cpus_per_socket': 8},
        # Ranks share the few processors of one machine.
        'env_vars': [['OMP_NUM_THREADS', '1']],
        **more,
    }


# Built from Singularity.def or Dockerfile by whoever starts the cluster; a name that is no file turns red.
IMAGE = os.environ.get('MLPERF_DET_CI_IMAGE', '/nonexistent/mlperf-det')

site_configuration = {
    'systems': [
        {
            'name': 'ci-slurm',
            'descr': 'Two Slurm nodes on one machine',
            'hostnames': ['login'],
            'partitions': [
                partition('cpu', 'without a container', extras={'nodes': 2}),
                partition('apptainer', 'in an image, by Apptainer', container_platforms=[{'type': 'Apptainer'}],
                          extras={'nodes': 2, 'image': IMAGE}),
                partition('pyxis', 'in an image, by options of srun',
                          extras={'nodes': 2, 'image': IMAGE, 'container_runtime': 'Pyxis'}),
                partition('gpu', 'GPUs that Slurm promises and nobody has: preflight must turn red',
                          features=['gpu'],
                          devices=[{'type': 'gpu', 'arch': 'sm_80', 'model': 'NVIDIA A100', 'num_devices': 4}],
                          resources=GPUS_BY_GRES,
                          extras={'nodes': 2}),
            ],
        },
    ],
    'logging': LOGGING,
    'modes': MODES,
}
