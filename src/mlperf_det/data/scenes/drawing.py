"""Drawing scenes for generated datasets: textured shapes on textured backgrounds, with pixel-exact visible masks.

A class is a shape and a texture; colours are drawn anew for each object and tell nothing. Objects are placed from front
to back, so that the visible part of each is known when it is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mlperf_det.data.scenes.classes import SCENE_CLASSES, Outline

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: An object is placed only where at least this share of its pixels stays visible.
_LEAST_VISIBLE = 0.55
_LEAST_PIXELS = 40
_PLACEMENT_TRIES = 12


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One annotated object, or a crowd of small ones.

    Attributes:
        label: index of the class.
        mask: (H, W), the visible pixels.
        polygon: corners x0, y0, x1, y1, ... in pixels, if they describe the mask exactly; None: occluded, cut off, with
            a hole, or a crowd.
        crowd: annotated as one region (``iscrowd``).
    """

    label: int
    mask: Mask
    polygon: tuple[float, ...] | None
    crowd: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn image and what is in it. ``pixels`` is (H, W, 3) uint8, or (H, W) for a grayscale image."""

    pixels: Pixels
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What scenes look like.

    Attributes:
        classes: number of classes, the first so many of `SCENE_CLASSES`.
        least_side: shortest side of an image, pixels.
        most_side: longest side of an image, pixels.
        most_objects: objects in an image, 1 to this, before occlusion takes some.
        empty_share: share of images without objects.
        crowd_share: share of images with a crowd region.
        grayscale_share: share of images stored with one channel.
        small_share: share of objects below a fifth of the image's shorter side.
    """

    classes: int = 5
    least_side: int = 112
    most_side: int = 176
    most_objects: int = 3
    empty_share: float = 0.03
    crowd_share: float = 0.04
    grayscale_share: float = 0.03
    small_share: float = 0.06


def draw_scene(settings: SceneSettings, rng: np.random.Generator) -> Scene:
    """Draw a scene; the same settings and generator state give the same pixels."""
    height, width = (int(side) for side in rng.integers(settings.least_side, settings.most_side + 1, 2))
    pixels = _background(height, width, rng)
    free = np.ones((height, width), dtype=np.bool_)
    objects: list[SceneObject] = []
    if rng.random() >= settings.empty_share:
        for _ in range(int(rng.integers(1, settings.most_objects + 1))):
            placed = _place(settings, free, rng)
            if placed is not None:
                _paint(pixels, placed, rng)
                free &= ~placed.mask
                objects.append(placed)
        if rng.random() < settings.crowd_share:
            crowd = _place_crowd(settings, free, rng)
            if crowd is not None:
                _paint(pixels, crowd, rng)
                objects.append(crowd)
    pixels = _add_grain(pixels, rng)
    if rng.random() < settings.grayscale_share:
        pixels = np.asarray(Image.fromarray(pixels).convert('L'))
    return Scene(pixels=pixels, objects=tuple(objects))


def _background(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Clouds of colour at two scales with strokes and specks on them, none of which is an object."""
    coarse = rng.integers(40, 216, (int(rng.integers(2, 5)), int(rng.integers(2, 5)), 3), dtype=np.uint8)
    fine = rng.integers(0, 256, (int(rng.integers(8, 24)), int(rng.integers(8, 24)), 3), dtype=np.uint8)
    layers = [Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC) for layer in (coarse, fine)]
    canvas = Image.blend(layers[0], layers[1], float(rng.uniform(0.05, 0.2)))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 8))):
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        dx, dy = rng.normal(0, 0.25, 2) * (width, height)
        if rng.random() < 0.6:
            draw.line((x, y, x + dx, y + dy), fill=colour, width=int(rng.integers(1, 4)))
        else:
            start = int(rng.integers(0, 360))
            box = (min(x, x + dx), min(y, y + dy), max(x, x + dx) + 2, max(y, y + dy) + 2)
            draw.arc(box, start, start + int(rng.integers(60, 200)), fill=colour, width=int(rng.integers(1, 4)))
    return np.array(canvas)


def _add_grain(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    grain = rng.integers(-9, 10, pixels.shape, dtype=np.int16)
    noisy: Pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return noisy


def _place(settings: SceneSettings, free: Mask, rng: np.random.Generator) -> SceneObject | None:
    """Find a place for an object behind those that are there; None if there is hardly room."""
    height, width = free.shape
    label = int(rng.integers(settings.classes))
    for _ in range(_PLACEMENT_TRIES):
        if rng.random() < settings.small_share:
            radius = rng.uniform(0.07, 0.1) * min(height, width)
        else:
            radius = rng.uniform(0.16, 0.34) * min(height, width)
        # Some objects are cut off by the image's edge.
        centre = rng.uniform(0.6 * radius, np.array([width, height]) - 0.6 * radius)
        outline = _outline(label, centre, radius, rng)
        whole = rasterize(outline, height, width)
        visible = whole & free
        count = np.count_nonzero(visible)
        if count >= _LEAST_PIXELS and count >= _LEAST_VISIBLE * SCENE_CLASSES[label].fill * math.pi * radius**2:
            exact = len(outline) == 1 and count == np.count_nonzero(whole) and _lies_inside(outline[0], height, width)
            polygon = tuple(float(value) for value in outline[0].reshape(-1)) if exact else None
            return SceneObject(label=label, mask=visible, polygon=polygon, crowd=False)
    return None


def _place_crowd(settings: SceneSettings, free: Mask, rng: np.random.Generator) -> SceneObject | None:
    """Scatter many small objects of one class over a patch, behind everything else."""
    height, width = free.shape
    label = int(rng.integers(settings.classes))
    patch = rng.uniform(0.15, 0.3, 2) * (width, height)
    centre = rng.uniform(patch, (width, height) - patch)
    mask = np.zeros_like(free)
    for _ in range(int(rng.integers(8, 17))):
        radius = rng.uniform(0.035, 0.055) * min(height, width)
        place = centre + rng.uniform(-1, 1, 2) * patch
        mask |= rasterize(_outline(label, place, radius, rng), height, width)
    mask &= free
    if np.count_nonzero(mask) < _LEAST_PIXELS:
        return None
    return SceneObject(label=label, mask=mask, polygon=None, crowd=True)


def rasterize(outline: Outline, height: int, width: int) -> Mask:
    """Return the pixels of a polygon, less those of its hole, by the COCO rule (pycocotools)."""
    rings = coco_mask.frPyObjects([ring.reshape(-1).tolist() for ring in outline], height, width)
    covered: Pixels = coco_mask.decode(rings)
    return np.logical_and(covered[..., 0], ~covered[..., 1:].any(axis=2))


def _lies_inside(ring: NDArray[np.float64], height: int, width: int) -> bool:
    return bool((ring >= 0).all() and (ring <= (width, height)).all())


def _outline(label: int, centre: NDArray[np.float64], radius: float, rng: np.random.Generator) -> Outline:
    """Return the shape of a class, turned, stretched and moved; corners have two decimals, as COCO's polygons do."""
    angle = rng.uniform(0, 2 * math.pi)
    stretch = rng.uniform(0.85, 1.18)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    scale = radius * np.array([stretch, 1 / stretch])
    return tuple(np.round((ring @ turn) * scale + centre, 2) for ring in SCENE_CLASSES[label].outline)


def _paint(pixels: Pixels, placed: SceneObject, rng: np.random.Generator) -> None:
    """Fill the object's visible pixels with its class's texture in two random, well separated colours."""
    rows, columns = np.nonzero(placed.mask)
    first, second = _two_colours(rng)
    weight = SCENE_CLASSES[placed.label].texture(columns, rows, rng)[:, None]
    colours = second * weight + first * (1 - weight)
    pixels[rows, columns] = colours.astype(np.uint8)


def _two_colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two random colours that differ clearly in each channel."""
    first = rng.uniform(0, 255, 3)
    second = np.where(first < 128, first + rng.uniform(90, 127, 3), first - rng.uniform(90, 127, 3))
    return first, second
