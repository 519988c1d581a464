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
    #: command of the job script that clears the page cache on every node, e.g. ``sudo sysctl vm.drop_caches=3``
    CLEAR_CACHES: Final = 'clear_caches'


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
