from __future__ import annotations

from dataclasses import replace

import pytest

from mlperf_det.models.ssd_architecture import SSD300_RESNET34, SSD_SMOKE


def test_ssd300_has_the_published_levels() -> None:
    assert SSD300_RESNET34.channels == (256, 512, 512, 256, 256, 256)
    assert SSD300_RESNET34.boxes_per_cell == (4, 6, 6, 6, 4, 4)
    assert SSD300_RESNET34.num_default_boxes == 8732


def test_the_smoke_network_is_of_the_same_build() -> None:
    assert len(SSD_SMOKE.blocks) == len(SSD300_RESNET34.blocks)
    assert {extra.stride for extra in SSD_SMOKE.extras} == {1, 2}
    assert SSD_SMOKE.num_default_boxes < 2500


@pytest.mark.parametrize('changes', [
    {'steps': (8, 16, 32, 64, 100)},
    {'scales': (21, 45, 99, 153, 207, 261)},
    {'widths': (64, 128)},
    {'feature_sizes': (38, 19, 10, 5, 3, 2)},
    {'image_size': 512},
], ids=lambda changes: next(iter(changes)))
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r'levels need|stages but|feature maps'):
        replace(SSD300_RESNET34, **changes)
