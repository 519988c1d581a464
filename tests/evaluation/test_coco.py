"""The fast engine against pycocotools, and what the scorer refuses."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlperf_det.errors import UserError
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import empty_rows, make_rows

CaseMaker = Callable[..., Any]


@pytest.mark.parametrize('masks', [False, True], ids=['bbox', 'segm'])
def test_engines_agree_bit_for_bit_on_fresh_random_cases(nasty_case: CaseMaker, *, masks: bool) -> None:
    iou_types = ['bbox', 'segm'] if masks else ['bbox']
    scored = 0
    for _ in range(60):
        seed = secrets.randbelow(2**32)
        case = nasty_case(seed, masks=masks)
        truth = read_ground_truth(case.annotations)
        ours = score(truth, case.rows, iou_types, per_category=True)
        referee = score(truth, case.rows, iou_types, engine='pycocotools', per_category=True)
        assert ours == referee, f'seed {seed}'
        scored += ours['bbox'].AP > 0
    assert scored > 20, 'the cases hardly match anything, so they prove nothing'


def test_an_annotation_file_with_an_empty_year_scores_as_without(nasty_case: CaseMaker) -> None:
    case = nasty_case(1)
    before = score(read_ground_truth(case.annotations), case.rows, ['bbox'])
    content = json.loads(case.annotations.read_text())
    case.annotations.write_text(json.dumps({**content, 'info': {'year': '', 'version': ''}}))
    assert score(read_ground_truth(case.annotations), case.rows, ['bbox']) == before


def test_an_empty_result_scores_zero(nasty_case: CaseMaker) -> None:
    truth = read_ground_truth(nasty_case(3, masks=True).annotations)
    for engine in ('hotcoco', 'pycocotools'):
        for iou_type in ('bbox', 'segm'):
            summary = score(truth, empty_rows(masks=True), [iou_type], engine=engine)[iou_type]
            assert summary.AP == summary.AP50 == summary.AR100 == 0.0


def test_a_perfect_result_scores_one_and_wrong_labels_score_nothing(tmp_path: Path) -> None:
    boxes = [[10.0, 10.0, 20.0, 20.0], [50.0, 50.0, 40.0, 40.0]]
    content = {'images': [{'id': 7, 'height': 200, 'width': 200}], 'categories': [{'id': 3}, {'id': 9}],
               'annotations': [{'id': i + 1, 'image_id': 7, 'category_id': c, 'bbox': b, 'area': b[2] * b[3]}
                               for i, (c, b) in enumerate(zip([3, 9], boxes, strict=True))]}
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    truth = read_ground_truth(path)
    rows = make_rows([7, 7], [3, 9], boxes, [0.9, 0.8], seen_image_ids=[7])
    summary = score(truth, rows, ['bbox'], per_category=True)['bbox']
    assert abs(summary.AP - 1.0) < 1e-12
    assert summary.APlarge == -1.0
    assert summary.category_ap == {3: pytest.approx(1.0), 9: pytest.approx(1.0)}
    shuffled = replace(rows, category_ids=rows.category_ids[::-1].copy())
    assert score(truth, shuffled, ['bbox'])['bbox'].AP == 0.0


@pytest.mark.parametrize(('change', 'message'), [
    ({'image_ids': np.array([7])}, r'1 of 1 have another image_id than .* knows, .*with image_id 7'),
    ({'category_ids': np.array([10**4])}, r'another category_id than .*with category_id 10000'),
    ({'scores': np.array([np.nan])}, r'score that is not finite, first detections\[0\]'),
    ({'boxes': np.array([[0.0, 0.0, np.inf, 1.0]])}, r'bbox that is not finite'),
])
def test_detections_that_would_be_misjudged_are_refused(nasty_case: CaseMaker, change: dict[str, Any],
                                                        message: str) -> None:
    truth = read_ground_truth(nasty_case(11).annotations)
    good = make_rows(truth.image_ids[:1], list(truth.category_names)[:1], [[1, 1, 5, 5]], [0.5], seen_image_ids=[])
    with pytest.raises(UserError, match=message):
        score(truth, replace(good, **change), ['bbox'])


def test_masks_are_needed_on_both_sides_at_the_size_of_the_image(nasty_case: CaseMaker, tmp_path: Path) -> None:
    case = next(c for seed in range(20) if len((c := nasty_case(seed, masks=True)).rows))
    truth = read_ground_truth(case.annotations)
    with pytest.raises(UserError, match='no segmentation, so segm cannot be scored; score them as bbox'):
        score(truth, replace(case.rows, rles=None), ['segm'])
    wrong = ({'size': [1, 2], 'counts': '2'}, *(case.rows.rles or ())[1:])
    with pytest.raises(UserError, match=r'detections\[0\]: mask size \[1, 2\]'):
        score(truth, replace(case.rows, rles=wrong), ['segm'])
    content = json.loads(case.annotations.read_text())
    del content['annotations'][0]['segmentation']
    trimmed = tmp_path / 'trimmed.json'
    trimmed.write_text(json.dumps(content))
    with pytest.raises(UserError, match='use the untrimmed annotation file'):
        score(read_ground_truth(trimmed), case.rows, ['segm'])


def test_unknown_engine_and_metric_are_named(nasty_case: CaseMaker) -> None:
    truth = read_ground_truth(nasty_case(1).annotations)
    with pytest.raises(UserError, match="unknown engine 'fast'"):
        score(truth, empty_rows(), ['bbox'], engine='fast')  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown iou_type 'keypoints'"):
        score(truth, empty_rows(), ['keypoints'])


def test_nothing_is_printed_and_torch_is_not_imported(nasty_case: CaseMaker) -> None:
    case = nasty_case(5)
    code = ('import sys; from pathlib import Path\n'
            'from mlperf_det.evaluation import coco, scorer\n'
            'from mlperf_det.evaluation.ground_truth import read_ground_truth\n'
            'from mlperf_det.evaluation.rows import empty_rows\n'
            'for engine in coco.ENGINES:\n'
            '    coco.score(read_ground_truth(Path(sys.argv[1])), empty_rows(), ["bbox"], engine=engine)\n'
            'sys.exit("torch" in sys.modules)')
    command = [sys.executable, '-c', code, str(case.annotations)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
