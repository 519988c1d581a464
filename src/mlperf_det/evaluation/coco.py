"""Detections to COCO AP and AR, by one of two engines that agree to the last bit.

``hotcoco`` is the fast engine and the default; ``pycocotools``, the reference implementation of the metric, is the
referee. Importable without torch.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlperf_det.errors import UserError
from mlperf_det.evaluation.ground_truth import CocoGroundTruth
from mlperf_det.evaluation.rows import DetectionRows

Engine: TypeAlias = Literal['hotcoco', 'pycocotools']
ENGINES: tuple[Engine, ...] = ('hotcoco', 'pycocotools')
IOU_TYPES = ('bbox', 'segm')


@dataclass(frozen=True)
class CocoSummary:
    """The twelve COCO numbers as fractions, in COCO's order; -1 where the file has no ground truth of that size.

    AP is the mean over IoU .50:.05:.95 and over categories at 100 detections an image and category; AR1, AR10 and AR100
    are mean recalls at so many detections. small: area below 32 x 32 pixels; large: above 96 x 96.
    """

    AP: float
    AP50: float
    AP75: float
    APsmall: float
    APmedium: float
    APlarge: float
    AR1: float
    AR10: float
    AR100: float
    ARsmall: float
    ARmedium: float
    ARlarge: float
    #: category id -> AP; categories without ground truth are absent; empty unless asked for
    category_ap: Mapping[int, float] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Return the twelve numbers by name, in COCO's order."""
        return {name: getattr(self, name) for name in NUMBERS}


#: names of the twelve numbers, in the order in which both engines return them
NUMBERS = tuple(f.name for f in fields(CocoSummary))[:12]


def score(ground_truth: CocoGroundTruth, rows: DetectionRows, iou_types: Sequence[str], *,
          engine: Engine = 'hotcoco', per_category: bool = False) -> dict[str, CocoSummary]:
    """Score detections with the parameters of the COCO challenge.

    Mask detections are sorted into small, medium and large by the area of the mask. No rows score 0.

    Raises:
        UserError: an unknown engine or metric, rows that name unknown images or categories, values that are not finite,
            or masks missing on either side of ``segm``.
    """
    return Scorer(ground_truth, engine).score(rows, iou_types, per_category=per_category)


class Scorer:
    """Scores detections against one annotation file, which the engine parses once."""

    def __init__(self, ground_truth: CocoGroundTruth, engine: Engine = 'hotcoco') -> None:
        if engine not in ENGINES:
            raise UserError(f'unknown engine {engine!r}; choose from {", ".join(ENGINES)}')
        self._ground_truth = ground_truth
        self._engine = _HotcocoEngine() if engine == 'hotcoco' else _PycocotoolsEngine()
        # Both engines print while they work; the numbers are returned instead.
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco = self._engine.load(str(ground_truth.path))

    def score(self, rows: DetectionRows, iou_types: Sequence[str], *,
              per_category: bool = False) -> dict[str, CocoSummary]:
        """Score rows; see the function `score`."""
        check_rows(self._ground_truth, rows, iou_types)
        return {iou_type: self._score(rows, iou_type, per_category=per_category) for iou_type in iou_types}

    def _score(self, rows: DetectionRows, iou_type: str, *, per_category: bool) -> CocoSummary:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._engine.evaluation(self._coco, rows, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        category_ap: dict[int, float] = {}
        if per_category:
            precision = evaluation.eval['precision']       # (IoU, recall, category, area, detections)
            for index, category_id in enumerate(self._ground_truth.category_names):
                values = precision[:, :, index, 0, -1]
                if (values > -1).any():
                    category_ap[category_id] = float(values[values > -1].mean())
        return CocoSummary(**dict(zip(NUMBERS, evaluation.stats.tolist(), strict=True)), category_ap=category_ap)


class _HotcocoEngine:
    """hotcoco, fed with arrays: no dict a detection."""

    def __init__(self) -> None:
        self._hotcoco = _import('hotcoco')

    def load(self, path: str) -> Any:
        try:
            return self._hotcoco.COCO(path)
        except ValueError:
            # In a file it insists on types that no score depends on; OpenImages' annotations leave the year empty.
            return self._hotcoco.COCO(msgspec.json.decode(Path(path).read_bytes()))

    def evaluation(self, coco: Any, rows: DetectionRows, iou_type: str) -> Any:
        table = np.column_stack([rows.image_ids, rows.boxes, rows.scores, rows.category_ids])
        if iou_type == 'segm':
            rles = [dict(rle) for rle in rows.rles or ()]
            detections = coco.load_res(table, segmentation=rles)
            if rles:
                # An array gives each row the area of its box; masks are sized by their own.
                areas = np.asarray(self._hotcoco.mask.area(rles), dtype=np.float64)
                detections.update_anns(ids=np.arange(1, len(rles) + 1), area=areas)
        else:
            detections = coco.load_res(table)
        return self._hotcoco.COCOeval(coco, detections, iou_type)


class _PycocotoolsEngine:
    """pycocotools as it is, fed with the dicts of a result file."""

    def __init__(self) -> None:
        self._coco = _import('pycocotools.coco')
        self._cocoeval = _import('pycocotools.cocoeval')

    def load(self, path: str) -> Any:
        return self._coco.COCO(path)

    def evaluation(self, coco: Any, rows: DetectionRows, iou_type: str) -> Any:
        # loadRes fails on an empty list; detections without annotations mean the same.
        detections = coco.loadRes(result_dicts(rows, iou_type)) if len(rows) else self._coco.COCO()
        return self._cocoeval.COCOeval(coco, detections, iou_type)


def result_dicts(rows: DetectionRows, iou_type: str) -> list[dict[str, Any]]:
    """Return rows in the form of a COCO result file: with ``bbox``, or with ``segmentation`` and no ``bbox``."""
    found: Sequence[Any] = (rows.rles or ()) if iou_type == 'segm' else rows.boxes.tolist()
    name = 'segmentation' if iou_type == 'segm' else 'bbox'
    return [{'image_id': image_id, 'category_id': category_id, name: dict(where) if name == 'segmentation' else where,
             'score': value}
            for image_id, category_id, where, value in zip(
                rows.image_ids.tolist(), rows.category_ids.tolist(), found, rows.scores.tolist(), strict=True)]


def check_rows(ground_truth: CocoGroundTruth, rows: DetectionRows, iou_types: Sequence[str]) -> None:
    """Check that rows can be scored; the engines would skip or mis-score what this refuses.

    Raises:
        UserError: see `score`.
    """
    for iou_type in iou_types:
        if iou_type not in IOU_TYPES:
            raise UserError(f'unknown iou_type {iou_type!r}; choose from {", ".join(IOU_TYPES)}')
    _check_known('image_id', rows.image_ids, ground_truth.image_ids, ground_truth.path)
    _check_known('category_id', rows.category_ids, ground_truth.category_names, ground_truth.path)
    for name, finite in (('score', np.isfinite(rows.scores)), ('bbox', np.isfinite(rows.boxes).all(axis=1))):
        if not finite.all():
            index = int(np.argmin(finite))
            raise UserError(f'detections: {int((~finite).sum())} of {len(rows)} have a {name} that is not finite, '
                            f'first detections[{index}] of image {rows.image_ids[index]}; did the training diverge?')
    if 'segm' in iou_types:
        _check_masks(ground_truth, rows)


def _check_known(name: str, ids: NDArray[np.int64], known: Iterable[int] | NDArray[np.int64], path: object) -> None:
    unknown = ~np.isin(ids, np.fromiter(known, dtype=np.int64))
    if unknown.any():
        index = int(np.argmax(unknown))
        raise UserError(f'detections: {int(unknown.sum())} of {len(ids)} have another {name} than {path} knows, first '
                        f'detections[{index}] with {name} {ids[index]}; were they made for another split?')


def _check_masks(ground_truth: CocoGroundTruth, rows: DetectionRows) -> None:
    if not ground_truth.has_masks:
        raise UserError(f'{ground_truth.path}: some annotations have no segmentation, so segm cannot be scored; '
                        'use the untrimmed annotation file')
    if rows.rles is None:
        if len(rows):
            raise UserError('detections: no segmentation, so segm cannot be scored; score them as bbox')
        return
    for index, (image_id, rle) in enumerate(zip(rows.image_ids.tolist(), rows.rles, strict=True)):
        expected = ground_truth.image_sizes.get(image_id)
        if expected is not None and tuple(rle['size']) != expected:
            raise UserError(f'detections[{index}]: mask size {list(rle["size"])} is not the [height, width] '
                            f'{list(expected)} of image {image_id}; paste masks at the size of the original image')


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f'{name.partition(".")[0]} is not installed; pip install "mlperf-det[train]"') from error
