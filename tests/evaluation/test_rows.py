"""Rows keep what a detector returned, through packing and joining."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlperf_det.evaluation.rows import (
    DetectionRows,
    concatenate,
    empty_rows,
    make_rows,
    pack,
    rows_from_detections,
    unpack,
)
from mlperf_det.models.detections import Detections

COLUMNS = ('image_ids', 'category_ids', 'boxes', 'scores', 'seen_image_ids')


def detections(*, masks: bool = False) -> Detections:
    return Detections(
        boxes=torch.tensor([[[1.0, 2.0, 4.5, 8.0], [0.0, 0.0, 1.0, 1.0]],
                            [[5.0, 5.0, 6.0, 9.0], [7.0, 7.0, 7.0, 7.0]]]),
        scores=torch.tensor([[0.9, 0.1], [0.8, 0.7]]), labels=torch.tensor([[1, 0], [0, 1]]),
        valid=torch.tensor([[True, False], [True, True]]),
        masks=torch.arange(4.0).reshape(2, 2, 1, 1) if masks else None)


def assert_equal(one: DetectionRows, other: DetectionRows) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_valid_slots_become_rows_with_original_ids() -> None:
    rows = rows_from_detections(detections(), torch.tensor([42, 7]), [18, 44])
    assert rows.image_ids.tolist() == [42, 7, 7]
    assert rows.category_ids.tolist() == [44, 18, 44]
    assert rows.boxes.tolist() == [[1, 2, 3.5, 6], [5, 5, 1, 4], [7, 7, 0, 0]]
    assert rows.scores.tolist() == [np.float32(s) for s in (0.9, 0.8, 0.7)]
    assert rows.seen_image_ids.tolist() == [42, 7]
    assert rows.rles is None


def test_masks_go_through_the_encoder_with_their_boxes_and_images() -> None:
    seen: list[list[object]] = []

    def encode(masks: np.ndarray, boxes: np.ndarray, image_index: np.ndarray) -> list[dict[str, object]]:
        seen.append([masks.reshape(-1).tolist(), boxes[:, 2].tolist(), image_index.tolist()])
        return [{'size': [1, 1], 'counts': str(int(m))} for m in masks.reshape(-1)]

    rows = rows_from_detections(detections(masks=True), [42, 7], [18, 44], encode)
    assert seen == [[[0, 2, 3], [4.5, 6.0, 7.0], [0, 1, 1]]]
    assert [rle['counts'] for rle in rows.rles or ()] == ['0', '2', '3']
    with pytest.raises(ValueError, match='encode_masks is needed'):
        rows_from_detections(detections(masks=True), [42, 7], [18, 44])


@pytest.mark.parametrize('masks', [False, True])
def test_packing_keeps_every_bit(*, masks: bool) -> None:
    rng = np.random.default_rng()
    for count in (0, 1, 57):
        rles = [{'size': [int(rng.integers(1, 99)), 3], 'counts': rng.bytes(int(rng.integers(0, 9)))}
                for _ in range(count)]
        rows = make_rows(rng.integers(0, 2**53, count), rng.integers(0, 90, count), rng.random((count, 4)),
                         rng.random(count), seen_image_ids=rng.integers(0, 9, 5), rles=rles if masks else None)
        packed = pack(rows)
        back = unpack(packed)
        assert_equal(rows, back)
        assert back.rles == rows.rles
        for damaged in (packed[:-1], packed + b'x'):
            with pytest.raises(ValueError, match=r'packed rows of|buffer size'):
                unpack(damaged)


def test_joining_keeps_order_and_the_images_without_detections() -> None:
    first = make_rows([3], [1], [[0, 0, 1, 1]], [0.5], seen_image_ids=[3, 4])
    second = make_rows([], [], [], [], seen_image_ids=[5])
    joined = concatenate([second, first])
    assert (joined.image_ids.tolist(), joined.seen_image_ids.tolist(), len(joined)) == ([3], [5, 3, 4], 1)
    assert_equal(concatenate([]), empty_rows())
    masked = make_rows([3], [1], [[0, 0, 1, 1]], [0.5], seen_image_ids=[3], rles=[{'size': [1, 1], 'counts': b'01'}])
    assert concatenate([empty_rows(), masked]).rles == masked.rles
    assert concatenate([first, empty_rows(masks=True)]).rles is None
    assert concatenate([empty_rows(), empty_rows(masks=True)]).rles == ()
    with pytest.raises(ValueError, match='some detections have masks'):
        concatenate([first, masked])


def test_columns_of_the_wrong_form_are_refused() -> None:
    good = empty_rows()
    for change in ({'boxes': np.zeros((1, 4))}, {'scores': np.zeros(0, dtype=np.float32)}, {'rles': ({},)}):
        with pytest.raises(ValueError, match=r'expected|masks for'):
            DetectionRows(**{**{name: getattr(good, name) for name in COLUMNS}, **change})
