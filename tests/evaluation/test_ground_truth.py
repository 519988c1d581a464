"""Annotation files that cannot be scored are refused with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlperf_det.errors import UserError
from mlperf_det.evaluation.ground_truth import read_ground_truth


def content() -> dict[str, Any]:
    return {'images': [{'id': 5, 'height': 10, 'width': 20}, {'id': 2}], 'categories': [{'id': 8, 'name': 'cat'}],
            'annotations': [{'id': 1, 'image_id': 5, 'category_id': 8, 'bbox': [0, 0, 2, 2], 'area': 4}]}


def write(folder: Path, value: Any) -> Path:
    path = folder / 'annotations.json'
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_facts_of_a_minimal_file(tmp_path: Path) -> None:
    truth = read_ground_truth(write(tmp_path, content()))
    assert truth.image_ids.tolist() == [2, 5]
    assert dict(truth.image_sizes) == {5: (10, 20)}
    assert dict(truth.category_names) == {8: 'cat'}
    assert not truth.has_masks


@pytest.mark.parametrize(('field', 'value', 'message'), [
    ('annotations', [], 'no annotations, so no score can be computed'),
    ('images', [{'id': 5}, {'id': 5}], 'images: 1 ids occur more than once, first 5'),
    ('images', [{'id': -5}], r'images: id -5 is outside 0 to 2\*\*53'),
    ('images', [{'id': 2}], r'annotations\[0\]: image_id 5 is not in images'),
    ('categories', [{'id': 9}], r'annotations\[0\]: category_id 8 is not in categories'),
    ('annotations', [{'id': 1, 'image_id': 5, 'category_id': 8, 'area': 4}], r'bbox.*\$\.annotations\[0\]'),
    ('annotations', [{**content()['annotations'][0], 'id': 0}], 'annotations: id 0 is scored wrongly by pycocotools'),
    ('images', [{'id': 'five'}], r'Expected `int`.*\$\.images\[0\]\.id'),
])
def test_wrong_content_is_named(tmp_path: Path, field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_ground_truth(write(tmp_path, {**content(), field: value}))
    assert str(tmp_path) in str(caught.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'absent\.json: cannot be read'):
        read_ground_truth(tmp_path / 'absent.json')
    with pytest.raises(UserError, match='not a COCO annotation file'):
        read_ground_truth(write(tmp_path, '{"images": ['))
