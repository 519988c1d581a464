"""`mlperf-det evaluate` from the outside: published numbers, and errors that name their place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from mlperf_det.cli import main
from mlperf_det.evaluation.coco import result_dicts

ENGINES = ('hotcoco', 'pycocotools')


@pytest.mark.shared
@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_published_numbers_come_out(shared_data: Path, capsys: pytest.CaptureFixture[str], iou_type: str,
                                    engine: str) -> None:
    golden = shared_data / 'coco2014-eval-golden'
    expected = json.loads((golden / 'expected_metrics.json').read_text())
    command = ['evaluate', '--annotations', str(golden / 'instances_val2014_100.json'), '--detections',
               str(golden / f'instances_val2014_fake{iou_type}100_results.json'), '--iou-type', iou_type,
               '--engine', engine]
    assert main([*command, '--json']) == 0
    metrics = json.loads(capsys.readouterr().out)['metrics']
    # pycocotools spells AP_small and AR_1 what is named APsmall and AR1 here.
    full = {name.replace('_', ''): value for name, value in expected['metrics'][iou_type].items()}
    assert metrics == full
    assert [round(value, 3) for value in metrics.values()] == expected['published_rounded'][iou_type]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(full)
    assert [float(line.split()[1]) for line in lines[1:]] == [round(value, 4) for value in full.values()]


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes an annotation file and the given results and returns the command line."""
    def write(results: Any, iou_type: str = 'bbox') -> list[str]:
        polygon = [2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0]
        annotations = {
            'images': [{'id': 4, 'height': 20, 'width': 30}], 'categories': [{'id': 7, 'name': 'cat'}],
            'annotations': [{'id': 1, 'image_id': 4, 'category_id': 7, 'bbox': [2, 2, 10, 7], 'area': 70, 'iscrowd': 0,
                             'segmentation': [polygon]}]}
        (tmp_path / 'a.json').write_text(json.dumps(annotations))
        (tmp_path / 'd.json').write_text(results if isinstance(results, str) else json.dumps(results))
        return ['evaluate', '--annotations', str(tmp_path / 'a.json'), '--detections', str(tmp_path / 'd.json'),
                '--iou-type', iou_type, '--json']
    return write


def detection(**fields: Any) -> dict[str, Any]:
    return {'image_id': 4, 'category_id': 7, 'score': 0.5, **fields}


def mask() -> np.ndarray:
    drawn = np.zeros((20, 30), dtype=np.uint8, order='F')
    drawn[2:9, 2:12] = 1
    return drawn


def masks() -> dict[str, Any]:
    """One and the same mask in the forms that result files hold."""
    compressed = mask_utils.encode(mask())
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], mask().T.reshape(-1), [-1]]).astype(int)))).tolist()
    return {'compressed': {'size': [20, 30], 'counts': compressed['counts'].decode()},
            'uncompressed': {'size': [20, 30], 'counts': runs},
            'polygon': [[2.0, 2.0, 12.0, 2.0, 12.0, 9.0, 2.0, 9.0]]}


@pytest.mark.parametrize('form', ['compressed', 'uncompressed', 'polygon'])
def test_masks_of_every_form_score_alike(files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str],
                                         form: str) -> None:
    # A box beside the mask must not change what counts as small.
    assert main(files([detection(segmentation=masks()[form], bbox=[0, 0, 30, 20])], 'segm')) == 0
    metrics = json.loads(capsys.readouterr().out)['metrics']
    assert metrics['AP'] == metrics['APsmall'] == pytest.approx(1.0)
    assert metrics['APlarge'] == -1


def test_no_detections_score_zero(files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for iou_type in ('bbox', 'segm'):
        assert main(files([], iou_type)) == 0
        assert json.loads(capsys.readouterr().out)['metrics']['AP'] == 0


@pytest.mark.parametrize(('results', 'iou_type', 'message'), [
    ([detection(bbox=[0, 0, 1, 1]), detection(image_id=99, bbox=[0, 0, 1, 1])], 'bbox',
     r"d.json: 1 of 2 detections have a image_id that .*a.json lacks, first [1] with 99"),
    ([detection(category_id=1, bbox=[0, 0, 1, 1])], 'bbox', 'have a category_id that'),
    ([detection(bbox=[0, 0, 1, 1])], 'segm', 'd.json: [0] has no segmentation, which --iou-type segm needs'),
    ([detection(segmentation=[[0, 0, 5, 0, 5, 5]])], 'bbox', 'd.json: [0] has no bbox, which --iou-type bbox needs'),
    ([{'image_id': 4, 'category_id': 7, 'bbox': [0, 0, 1, 1]}], 'bbox', 'missing required field `score` - at `$[0]`'),
    ([detection(bbox=[0, 0, 1])], 'bbox', 'length 4'),
    ([detection(segmentation={'size': [20, 31], 'counts': 'A'})], 'segm', 'mask size [20, 31] is not the'),
    *[([detection(segmentation=masks()['compressed']), detection(segmentation={'size': [20, 30], 'counts': counts})],
       'segm', '[1] the mask is damaged: its run lengths are not those of 600 pixels')
      for counts in ('zzzz', '', 'A', '\x00', 'P' * 20, 'b\u00fcrste', masks()['compressed']['counts'][:-1])],
    ([detection(segmentation={'size': [20, 30], 'counts': [1, 2]})], 'segm', '[0] the mask is damaged'),
    ([detection(segmentation=[[0, 0, 5, 0]])], 'segm', 'at least three points'),
    ({'annotations': []}, 'bbox', 'not a COCO result file'), ('[{]', 'bbox', 'not a COCO result file'),
])
def test_bad_results_are_one_line_and_status_2(files: Callable[..., list[str]], capsys: pytest.CaptureFixture[str],
                                               results: Any, iou_type: str, message: str) -> None:
    assert main(files(results, iou_type)) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert len(captured.err.splitlines()) == 1
    for part in message.split('.*'):
        assert part in captured.err


@pytest.mark.parametrize('masks', [False, True])
def test_a_result_file_scores_as_its_rows(nasty_case: Callable[..., Any], tmp_path: Path, *, masks: bool) -> None:
    case = next(c for seed in range(90, 150) if len((c := nasty_case(seed, masks=masks)).rows) > 100)
    path = tmp_path / 'results.json'
    iou_type = 'segm' if masks else 'bbox'
    path.write_text(json.dumps(result_dicts(case.rows, iou_type)))
    command = [sys.executable, '-m', 'mlperf_det', 'evaluate', '--annotations', str(case.annotations), '--detections',
               str(path), '--iou-type', iou_type, '--json', '--engine']
    printed = [subprocess.run([*command, engine], capture_output=True, text=True, check=True).stdout
               for engine in ENGINES]
    first, second = (json.loads(text)['metrics'] for text in printed)
    assert first == second
    assert first['AP'] > 0
