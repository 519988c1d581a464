"""Damaged masks are told from whole ones."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_utils

from mlperf_det.evaluation.rle import are_sound


def random_masks(count: int) -> list[dict[str, object]]:
    rng = np.random.default_rng()
    found = []
    for _ in range(count):
        height, width = (int(n) for n in rng.integers(1, 200, 2))
        mask = rng.random((height, width)) < rng.choice([0.0, 0.001, 0.5, 1.0])
        found.append(mask_utils.encode(np.asfortranarray(mask.astype(np.uint8))))
    return found


def test_whole_masks_are_sound_as_bytes_and_text() -> None:
    masks = random_masks(100)
    assert are_sound(masks).all()
    assert are_sound([{**m, 'counts': m['counts'].decode()} for m in masks]).all()
    assert are_sound([]).shape == (0,)


def test_damage_is_found_in_the_mask_that_has_it() -> None:
    masks = random_masks(60)
    for index, mask in enumerate(masks):
        counts = mask['counts']
        for damaged in (counts[:-1], counts + b'1', counts + b'P', b'', b'\x00' + counts, b'P' * 20 + counts):
            broken = [*masks[:index], {**mask, 'counts': damaged}, *masks[index + 1:]]
            assert np.flatnonzero(~are_sound(broken)).tolist() == [index], (mask, damaged)
