"""What a log does not say itself: which model a benchmark name means, its quality target and its dataset size.

Source: the MLPerf Training rules of rounds v0.5 to v5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from pathlib import Path, PurePath
from types import MappingProxyType

#: benchmark name (folder or ``submission_benchmark``) -> the name used here
_BENCHMARKS = {'ssd': 'ssd', 'retinanet': 'retinanet', 'maskrcnn': 'maskrcnn', 'mask': 'maskrcnn',
               'mask_rcnn': 'maskrcnn', 'object_detection': 'maskrcnn', 'single_stage_detector': 'ssd'}
#: a round's folder: ``v3.1``, ``v0.5.0``, a repository's name, or that of its archive (``training_results_v3.1-main``)
_ROUND = re.compile(r'(?:training_results_)?v(\d+\.\d+)(?:\.\d+)?(?:-[\w.]+)?')
#: keys that only one of the models logs
_SSD300_KEYS = frozenset({'model_bn_span', 'max_samples', 'opt_learning_rate_decay_boundary_epochs',
                          'num_default_boxes'})
_RETINANET_KEYS = frozenset({'opt_learning_rate_warmup_epochs', 'local_batch_size'})
_MASKRCNN_KEYS = frozenset({'num_image_candidates', 'min_image_size'})

#: images that an epoch passes over: COCO 2017 with at least one annotation; the MLPerf subset of OpenImages
_IMAGES = {'ssd300': 117_266, 'maskrcnn': 117_266, 'retinanet': 1_170_301}
#: submitters that train on all of COCO, images without boxes included, log this number
_ALL_COCO_IMAGES = 118_287

TARGETS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    'ssd300': MappingProxyType({'bbox': 0.23}),
    'retinanet': MappingProxyType({'bbox': 0.34}),
    'maskrcnn': MappingProxyType({'bbox': 0.377, 'segm': 0.339}),
})
_TARGET_SSD_V05: Mapping[str, float] = MappingProxyType({'bbox': 0.212})


def round_in(path: PurePath) -> str:
    """Return the round that a path names, such as ``v3.1``, or an empty string."""
    folders = folders_of(path)
    # Where a published tree has it comes first: <round>/<submitter>/[results/]<system>/<benchmark>.
    for part in (*folders[-4:-3], *folders[-5:-4], *reversed(folders)):
        match = _ROUND.fullmatch(part)
        if match:
            return f'v{match[1]}'
    return ''


def folders_of(path: PurePath) -> tuple[str, ...]:
    """Return the names of the folders above a file, from the root on."""
    return (path.absolute() if isinstance(path, Path) else path).parent.parts


def benchmark_of(name: object) -> str:
    """Return ``ssd``, ``retinanet`` or ``maskrcnn`` for any name in use, or an empty string."""
    return _BENCHMARKS.get(name.lower(), '') if isinstance(name, str) else ''


def model_of(benchmark: str, keys: Set[str], round_name: str) -> str:
    """Return the model: ``ssd300``, ``retinanet`` or ``maskrcnn``; empty where nothing tells.

    ``ssd`` means SSD300 on COCO up to v1.1 and RetinaNet on OpenImages from v2.0 to v4.1. The keys of the log decide
    (they travel with it), then the round of the path.
    """
    if benchmark in ('retinanet', 'maskrcnn'):
        return benchmark
    if keys & _SSD300_KEYS:
        return 'ssd300'
    if keys & _RETINANET_KEYS:
        return 'retinanet'
    if keys & _MASKRCNN_KEYS:
        return 'maskrcnn'
    if benchmark == 'ssd':
        major = _ROUND.fullmatch(round_name)
        return 'retinanet' if major and float(major[1]) >= 2 else 'ssd300'
    return ''


def target_of(model: str, round_name: str) -> Mapping[str, float]:
    """Return metric -> least accuracy, as fractions; empty for an unknown model."""
    if model == 'ssd300' and round_name == 'v0.5':
        return _TARGET_SSD_V05
    return TARGETS.get(model, {})


def images_of(model: str, logged: object) -> int | None:
    """Return the training images of one epoch.

    Most submissions log iterations or batches under ``train_samples``, so the logged number counts only where it is
    the size of a known dataset.
    """
    if model in ('ssd300', 'maskrcnn') and logged == _ALL_COCO_IMAGES:
        return _ALL_COCO_IMAGES
    return _IMAGES.get(model)
