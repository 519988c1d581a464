"""The colour jitter is bit-equal to torchvision's on a Pillow image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as F

from mlperf_det.data import color_jitter
from mlperf_det.data.color_jitter import ColorJitter

JITTER = ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)


def planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float()


def pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def random_image(rng: np.random.Generator) -> np.ndarray:
    """Half noise, half smooth: both extreme and mixed colours occur."""
    noise = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:5, :6]).resize((80, 60)))
    return np.concatenate([noise, smooth])


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation', 'hue'])
def test_each_step_equals_torchvision_on_pillow(name: str) -> None:
    rng = np.random.default_rng()
    for _ in range(25):
        image = random_image(rng)
        factor = float(rng.uniform(-0.5, 0.5) if name == 'hue' else rng.uniform(0, 2))
        expected = getattr(F, f'adjust_{name}')(Image.fromarray(image), factor)
        mine = planes(image)
        getattr(color_jitter, f'adjust_{name}')(mine, factor)
        np.testing.assert_array_equal(pixels(color_jitter.to_uint8(mine)), np.asarray(expected), f'factor {factor}')


@pytest.mark.parametrize('shift', [0.05, -0.031])
def test_hue_equals_pillow_for_all_colours(shift: float) -> None:
    every = np.arange(256, dtype=np.uint8)
    for red in range(0, 256, 32):
        block = np.stack(np.meshgrid(every[red:red + 32], every, every, indexing='ij'), axis=-1).reshape(-1, 256, 3)
        mine = planes(block)
        color_jitter.adjust_hue(mine, shift)
        expected = np.asarray(F.adjust_hue(Image.fromarray(block), shift))
        np.testing.assert_array_equal(pixels(color_jitter.to_uint8(mine)), expected)


def test_gray_images_stay_gray() -> None:
    rng = np.random.default_rng()
    gray = np.repeat(rng.integers(0, 256, (40, 50, 1), dtype=np.uint8), 3, axis=2)
    for seed in range(8):
        result = pixels(JITTER(torch.from_numpy(gray).permute(2, 0, 1), np.random.default_rng(seed)))
        assert (result == result[..., :1]).all()


def test_the_jitter_uses_all_orders_and_the_stated_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
        monkeypatch.setattr(color_jitter, f'adjust_{name}',
                            lambda _, factor, name=name: seen.append((name, factor)))
    rng = np.random.default_rng(5)
    for _ in range(600):
        JITTER(torch.zeros(3, 1, 1, dtype=torch.uint8), rng)
    orders = {tuple(name for name, _ in seen[start:start + 4]) for start in range(0, len(seen), 4)}
    assert len(orders) == 24
    for name, low, high in (('brightness', 0.875, 1.125), ('contrast', 0.5, 1.5), ('saturation', 0.5, 1.5),
                            ('hue', -0.05, 0.05)):
        factors = np.array([factor for step, factor in seen if step == name])
        assert low <= factors.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < factors.max() <= high


def test_the_input_is_left_alone() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    before = image.clone()
    result = JITTER(image, np.random.default_rng(1))
    assert torch.equal(image, before)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
