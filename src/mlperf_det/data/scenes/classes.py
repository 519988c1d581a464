"""The classes of generated scenes: a shape and a texture each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Polygon corners (K, 2) x, y around the origin, in units of the radius; a second ring, where there is one, is a hole.
Outline = tuple[NDArray[np.float64], ...]
#: (columns, rows, generator) of K pixels -> (K,) weight of the second of two colours, 0 to 1
Texture = Callable[[NDArray[np.intp], NDArray[np.intp], np.random.Generator], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class SceneClass:
    """What the objects of one class have in common."""

    name: str
    outline: Outline
    texture: Texture

    @property
    def fill(self) -> float:
        """Share of the circumscribed disc that the shape covers."""
        outer, *holes = (_area(ring) for ring in self.outline)
        return (outer - sum(holes)) / math.pi


def _polar(angles: NDArray[np.floating], radii: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=-1)


def _regular(corners: int, radius: float = 1.0) -> NDArray[np.float64]:
    return _polar(np.arange(corners) * (2 * math.pi / corners), radius)


def _star() -> NDArray[np.float64]:
    return _polar(np.arange(10) * (math.pi / 5), np.where(np.arange(10) % 2, 0.42, 1.0))


def _cross() -> NDArray[np.float64]:
    arm, end = 0.3, 0.95
    quarter = np.array([[end, -arm], [end, arm], [arm, arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _crescent() -> NDArray[np.float64]:
    # Both arcs pass through the tips at 45 degrees on the unit circle.
    tip, centre = math.sqrt(0.5), 0.45
    radius, opening = math.hypot(tip - centre, tip), math.atan2(tip, tip - centre)
    outer = _polar(np.linspace(math.pi / 4, 7 * math.pi / 4, 20), 1.0)
    inner = _polar(np.linspace(2 * math.pi - opening, opening, 14), radius)
    inner[:, 0] += centre
    return np.concatenate([outer, inner[1:-1]])


def _area(ring: NDArray[np.float64]) -> float:
    """Return the area of a polygon (shoelace formula)."""
    following = np.roll(ring, -1, axis=0)
    return abs(float((ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum())) / 2


def _rotated(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator
             ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pixel coordinates turned by a random angle and moved by up to a period."""
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    shift = rng.uniform(0, 10, 2)
    return x * cosine + y * sine + shift[0], y * cosine - x * sine + shift[1]


def _plain(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.ones(x.shape)


def _stripes(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    along, _ = _rotated(x, y, rng)
    return (along % rng.uniform(8, 11) < 5).astype(np.float64)


def _checks(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    u, v = _rotated(x, y, rng)
    side = rng.uniform(5.5, 8)
    return ((u // side + v // side) % 2).astype(np.float64)


def _dots(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    u, v = _rotated(x, y, rng)
    period = rng.uniform(8, 11)
    return ((u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < (0.32 * period) ** 2).astype(np.float64)


def _shading(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    along, _ = _rotated(x, y, rng)
    along = along - along.min()
    shades: NDArray[np.float64] = along / max(float(along.max()), 1.0)
    return shades


def _speckle(x: NDArray[np.intp], y: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
    return (rng.random(x.shape) < 0.5).astype(np.float64)


#: A dataset of K classes has the first K.
SCENE_CLASSES: tuple[SceneClass, ...] = (
    SceneClass(name='disc', outline=(_regular(28),), texture=_checks),
    SceneClass(name='triangle', outline=(_regular(3),), texture=_stripes),
    SceneClass(name='star', outline=(_star(),), texture=_plain),
    SceneClass(name='ring', outline=(_regular(28), _regular(20, 0.5)), texture=_shading),
    SceneClass(name='cross', outline=(_cross(),), texture=_dots),
    SceneClass(name='square', outline=(_regular(4),), texture=_speckle),
    SceneClass(name='crescent', outline=(_crescent(),), texture=_stripes),
    SceneClass(name='hexagon', outline=(_regular(6),), texture=_plain),
)
