"""Evaluation against pycocotools: parse annotations, match, accumulate, summarise; all twelve numbers identical.

Both sides begin with the annotation file and what their callers have: the peer the dicts of a result file, ours the
columns that the evaluation gathers.

At Open Images' size pycocotools takes six minutes and 10 GiB. There it gets `PEER_SHARE` of the images, where the
numbers are compared, and its time is scaled up; that it grows with the images is part of the row. Ours always scores
all of them, in the process that scores beside a training, whose memory is measured.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlperf_det.evaluation.coco import result_dicts, score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import DetectionRows
from mlperf_det.evaluation.scorer import AsyncScorer
from tests.perf.case import Case, Timing, timed
from tests.perf.synthetic_coco import Objects, Scale, draw_detections, draw_objects, first_images, write_annotations

#: COCO val2017: 36,781 objects, 446 of them crowds
COCO_SCALE = Scale(images=5000, size=(640, 480), categories=80, objects_per_image=7.3, crowd_share=0.012,
                   detections_per_image=100, class_skew=0, masks=True)
#: the validation images of MLPerf's Open Images: 175,132 objects, 9,683 of them groups
OPENIMAGES_SCALE = Scale(images=24_781, size=(1024, 768), categories=264, objects_per_image=7.067, crowd_share=0.0553,
                         detections_per_image=100, class_skew=1, masks=False)
#: of Open Images' that the peer gets; 1: all of them
PEER_SHARE = float(os.environ.get('PERF_EVALUATION_PEER_SHARE', '0.08'))
MOST_GIB = 1.5


class Data(NamedTuple):
    """An annotation file, detections for it, and the same as the dicts of a result file by metric."""

    annotations: Path
    rows: DetectionRows
    results: dict[str, list[dict[str, Any]]]


def cases() -> list[Case]:
    """Return COCO's two metrics and Open Images' one."""
    return [*_Coco().cases(), _OpenImages().case()]


class _Coco:
    """The size of COCO's validation images, boxes and masks."""

    def cases(self) -> list[Case]:
        note = (f'{COCO_SCALE.images} images x {COCO_SCALE.detections_per_image} detections, annotation file parsed on '
                'both sides; identical numbers')
        return [Case(name=f'COCO evaluation, {what}', prepare=lambda: self._data, peer=partial(self._peer, iou_type),
                     ours=partial(self._ours, iou_type), equal=_assert_identical, target=target, rounds=1,
                     warm_up=False, note=note)
                for what, iou_type, target in (('boxes', 'bbox', 40.0), ('masks', 'segm', 8.0))]

    @cached_property
    def _data(self) -> Data:
        rng = np.random.default_rng(2017)
        objects = draw_objects(COCO_SCALE, rng)
        return _write(_folder() / 'coco.json', COCO_SCALE, objects, draw_detections(COCO_SCALE, objects, rng),
                      ('bbox', 'segm'))

    def _peer(self, iou_type: str) -> list[float]:
        return _by_pycocotools(self._data, iou_type)

    def _ours(self, iou_type: str) -> list[float]:
        return _numbers(self._data, iou_type)


class _OpenImages:
    """The size of Open Images' validation images, boxes."""

    def case(self) -> Case:
        return Case(
            name='Open Images evaluation, boxes', prepare=lambda: self._parts, ours=self._ours, equal=self._check,
            peer=lambda: timed(lambda: _by_pycocotools(self._parts[PEER_SHARE], 'bbox')), peer_share=PEER_SHARE,
            target=60.0, rounds=1, warm_up=False,
            note=f'{OPENIMAGES_SCALE.images} images, 264 classes, 2.48 M detections, under {MOST_GIB} GiB; peer timed '
                 f'and compared on {PEER_SHARE:.0%} of the images (half of these take it half the time), scaled up')

    @cached_property
    def _parts(self) -> dict[float, Data]:
        """All images, and the first ones in the peer's share and in half of it."""
        rng = np.random.default_rng(264)
        objects = draw_objects(OPENIMAGES_SCALE, rng)
        whole = OPENIMAGES_SCALE, objects, draw_detections(OPENIMAGES_SCALE, objects, rng)
        parts = {1.0: _write(_folder() / 'openimages.json', *whole, ())}
        for share in (PEER_SHARE, PEER_SHARE / 2):
            part = first_images(*whole, round(share * OPENIMAGES_SCALE.images))
            parts[share] = _write(_folder() / f'openimages-{share}.json', *part, ('bbox',))
        return parts

    def _ours(self) -> tuple[list[float], float]:
        return _beside_training(self._parts[1.0])

    def _check(self, peer: Timing, ours: tuple[list[float], float]) -> None:
        numbers, gib = ours
        assert numbers[0] > 0.05, 'hardly a detection matches'
        assert gib < MOST_GIB, f'the scoring process took {gib:.2f} GiB'
        _assert_identical(peer.result, _beside_training(self._parts[PEER_SHARE])[0])
        if PEER_SHARE < 1:
            growth = peer.cpu / timed(lambda: _by_pycocotools(self._parts[PEER_SHARE / 2], 'bbox')).cpu
            assert 1.8 < growth < 2.4, f'twice the images take the peer {growth:.2f}x the time: it cannot be scaled up'


def _beside_training(data: Data) -> tuple[list[float], float]:
    """Return the numbers as the scoring process of a training finds them, and its peak memory, GiB."""
    with AsyncScorer(data.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, data.rows)
        scored = scorer.wait(300)
        assert scorer._process is not None
        status = Path(f'/proc/{scorer._process.pid}/status').read_text()
    peak = re.search(r'VmHWM:\s*(\d+) kB', status)
    assert peak is not None
    return list(scored.summaries['bbox'].numbers().values()), int(peak[1]) / 2**20


def _write(path: Path, scale: Scale, objects: Objects, rows: DetectionRows, iou_types: tuple[str, ...]) -> Data:
    write_annotations(path, scale, objects)
    return Data(path, rows, {iou_type: result_dicts(rows, iou_type) for iou_type in iou_types})


def _numbers(data: Data, iou_type: str) -> list[float]:
    return list(score(read_ground_truth(data.annotations), data.rows, [iou_type])[iou_type].numbers().values())


def _by_pycocotools(data: Data, iou_type: str) -> list[float]:
    """Score as pycocotools' own demo does."""
    results = [dict(result) for result in data.results[iou_type]]    # loadRes changes them; half a percent of its time
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data.annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def _assert_identical(peers: list[float], ours: list[float]) -> None:
    assert len(ours) == 12
    assert ours == peers
    assert ours[0] > 0.05, 'hardly a detection matches: the comparison would prove nothing'


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix='perf-evaluation-')


def _folder() -> Path:
    return Path(_temporary_folder().name)
