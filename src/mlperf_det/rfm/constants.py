"""Names that checks and site configurations agree on: features, extras, devices, tags, units."""

from __future__ import annotations

from typing import Final


class Feature:
    """Partition features that checks select by, e.g. ``valid_systems = ['+gpu']``."""

    GPU: Final = 'gpu'


class Extra:
    """Keys of a partition's ``extras`` that checks read."""

    #: folder that holds one folder per dataset card, as the job sees it
    DATASETS: Final = 'datasets'
    #: folder of verified backbone weights, as the job sees it
    BACKBONES: Final = 'backbones'
    #: command of the job script that clears the page cache on every node, e.g.
    #: ``srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 sudo sysctl vm.drop_caches=3``
    CLEAR_CACHES: Final = 'clear_caches'
    #: container platform that ReFrame does not know (Pyxis, Enroot), or one of its own by name
    CONTAINER_RUNTIME: Final = 'container_runtime'
    #: the site's image: an absolute path (Docker: a name), or ``build`` for one made from this package's recipe
    IMAGE: Final = 'image'
    #: folder in which built images are kept, as the job sees it
    IMAGES: Final = 'images'
    #: how ranks get their CPUs: ``numa`` (default), ``scheduler``, ``off``, or older launchers' arguments
    CPU_BIND: Final = 'cpu_bind'
    #: nodes of the partition; recipes that ask for more are refused by `mlperf-det lint`
    NODES: Final = 'nodes'


class Device:
    """Values of ``devices[].type`` in a site configuration."""

    GPU: Final = 'gpu'


class Tag:
    """Tags of checks, for ``-t``; each tier is a tag as well."""

    TRAINING: Final = 'training'
    PREFLIGHT: Final = 'preflight'


class Unit:
    """Units of metrics."""

    SECONDS: Final = 's'
    IMAGES_PER_SECOND: Final = 'images/s'
    EPOCHS: Final = 'epochs'
    FRACTION: Final = 'fraction'
    JOBS_PER_DAY: Final = 'jobs/day'
