"""Mask targets of Mask R-CNN: the polygons of an object drawn into a region of interest, bit-equal to pycocotools.

The rule is ``rleFrPoly`` of the COCO API. Corners are rounded to a lattice five times finer than the pixels; an edge
runs through the lattice points next to it, one in each lattice column or row, whichever it crosses more of; where it
passes from lattice column 5c+2 to 5c+3, the middle of pixel column c, it toggles the pixels below. Only these passages
are computed here, none of the points between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Pixels on a side of a mask target (Mask R-CNN; the output of the mask head).
MASK_SIDE = 28
#: Lattice steps in a pixel (``rleFrPoly``).
_STEPS = 5
_LATTICE_SIDE = MASK_SIDE * _STEPS
#: For each lattice row the bits of the pixels of a column that a passage there toggles: those whose middle lies on the
#: row or below it. None from lattice row 138 on.
_BELOW_LATTICE = np.array([(1 << MASK_SIDE) - (1 << min((row + 2) // _STEPS, MASK_SIDE))
                           for row in range(_LATTICE_SIDE + 1)], dtype='<u4')
#: Vertices that the dense form handles at a time, to bound its memory.
_VERTICES_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class Polygons:
    """The outlines of O objects: S polygons of together P corners.

    The polygons of object ``o`` are ``object_offsets[o]:object_offsets[o + 1]``, those with most corners first; the
    corners of polygon ``s`` are ``part_offsets[s]:part_offsets[s + 1]``. An object may have no polygon.

    Attributes:
        corners: (P, 2) float64, x and y in pixels; every polygon has at least one.
        part_offsets: (S + 1,) int64.
        object_offsets: (O + 1,) int64.
        most_corners: of the objects' first polygons, of their second ones, and so on. Known on the host, so that a
            device needs no answer from it.
    """

    corners: Tensor
    part_offsets: Tensor
    object_offsets: Tensor
    most_corners: tuple[int, ...]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Polygons:
        """Copy to the device; asynchronous with ``non_blocking`` when the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Polygons:
        """Return the polygons in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Polygons:
        return replace(self, corners=change(self.corners), part_offsets=change(self.part_offsets),
                       object_offsets=change(self.object_offsets))


def make_polygons(corners: NDArray[np.float64], part_offsets: NDArray[np.int64],
                  object_offsets: NDArray[np.int64]) -> Polygons:
    """Return `Polygons` of host arrays; the polygons of an object come in order of falling corners."""
    parts = np.diff(object_offsets)
    place = np.arange(len(part_offsets) - 1) - np.repeat(object_offsets[:-1], parts)
    most = np.zeros(parts.max(initial=0), dtype=np.int64)
    np.maximum.at(most, place, np.diff(part_offsets))
    return Polygons(corners=torch.from_numpy(corners), part_offsets=torch.from_numpy(part_offsets),
                    object_offsets=torch.from_numpy(object_offsets), most_corners=tuple(most.tolist()))


@torch.no_grad()
def mask_targets(polygons: Polygons, objects: Tensor, rois: Tensor) -> Tensor:
    """Draw objects into regions of interest, each scaled to 28 x 28 pixels; nothing is clipped before drawing.

    On a CPU the vectorised form runs, elsewhere the dense one: the same bits, and the device is never waited for.

    Args:
        polygons: on the device of ``rois``.
        objects: (R,) int64, the object of each region.
        rois: (R, 4) left, top, right, bottom; the scale is ``28 / max(right - left, 1)``, and alike vertically. The
            MLPerf reference gives it inclusive edges: the last pixel, not the one after it.

    Returns:
        (R, 28, 28) uint8, 1 inside the union of the object's polygons.
    """
    if rois.device.type != 'cpu':
        return _draw_dense(polygons, objects, rois)
    return torch.from_numpy(rasterize(
        polygons.corners.numpy(), polygons.part_offsets.numpy(), polygons.object_offsets.numpy(), objects.numpy(),
        rois.detach().numpy()))


def rasterize(corners: NDArray[np.float64], part_offsets: NDArray[np.int64], object_offsets: NDArray[np.int64],
              objects: NDArray[np.int64], rois: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return what `mask_targets` says, from the arrays of `Polygons`; work is proportional to the passages."""
    regions = rois.astype(np.float64)
    origin = regions[:, :2]
    scale = MASK_SIDE / np.maximum(regions[:, 2:] - origin, 1)
    parts, part_counts = _ranges(object_offsets, objects)
    vertices, vertex_counts = _ranges(part_offsets, parts)
    roi_of_vertex = np.repeat(np.repeat(np.arange(len(rois)), part_counts), vertex_counts)
    # In place, and by `take`, which gathers pairs several times as fast as an index does.
    lattice = corners.take(vertices, axis=0)
    lattice -= origin.take(roi_of_vertex, axis=0)
    lattice *= scale.take(roi_of_vertex, axis=0)
    lattice *= _STEPS
    lattice += 0.5
    # Towards zero also where negative, as a C cast does.
    x, y = np.ascontiguousarray(lattice.astype(np.int32).T)
    columns = np.zeros(len(parts) * MASK_SIDE, dtype='<u4')
    for column, lattice_row in _passages(x, y, vertex_counts):
        np.bitwise_xor.at(columns, column, _BELOW_LATTICE.take(lattice_row.clip(0, _LATTICE_SIDE)))
    union = np.zeros((len(rois), MASK_SIDE), dtype='<u4')
    if len(parts):
        drawn = part_counts > 0
        starts = (np.cumsum(part_counts) - part_counts)[drawn]
        union[drawn] = np.bitwise_or.reduceat(columns.reshape(-1, MASK_SIDE), starts, axis=0)
    bits = np.unpackbits(union.view(np.uint8), bitorder='little').reshape(-1, MASK_SIDE, 32)
    return np.ascontiguousarray(bits[:, :, :MASK_SIDE].transpose(0, 2, 1))


def _successors(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the corner after each; after the last of a polygon comes its first."""
    last = np.cumsum(counts) - 1
    successor = np.arange(1, int(counts.sum()) + 1)
    successor[last] = last - counts + 1
    return successor


def _passages(x: NDArray[np.int32], y: NDArray[np.int32], counts: NDArray[np.int64]
              ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Yield where edges pass the middles of pixel columns: column (28 a polygon, one after the other), lattice row.

    Args:
        x: (V,) lattice steps of the corners, polygon after polygon.
        y: (V,) alike.
        counts: (S,) corners of each polygon.
    """
    successor = _successors(counts)
    begin = np.clip((x + 2) // _STEPS, 0, MASK_SIDE)
    passing = np.flatnonzero(begin != begin[successor])
    after = successor[passing]
    x0, y0, x1, y1 = x[passing], y[passing], x[after], y[after]
    first, number = np.minimum(begin[passing], begin[after]), np.abs(begin[passing] - begin[after])
    polygon = np.repeat(np.arange(len(counts)), counts)[passing]
    flat = np.abs(x1 - x0) >= np.abs(y1 - y0)
    for chosen, lattice_rows in ((np.flatnonzero(flat), _flat_rows), (np.flatnonzero(~flat), _steep_rows)):
        passages = number[chosen]
        edge = np.repeat(np.arange(len(chosen)), passages)
        # What has to be added to the passage's number to make it the number of its column.
        shift = first[chosen] - (np.cumsum(passages) - passages)
        column = (polygon[chosen] * MASK_SIDE + shift).take(edge)
        column += np.arange(len(edge))
        yield column, lattice_rows(x0[chosen], y0[chosen], x1[chosen], y1[chosen], shift * float(_STEPS), edge)


def _flat_rows(x0: NDArray[np.int32], y0: NDArray[np.int32], x1: NDArray[np.int32], y1: NDArray[np.int32],
               shift: NDArray[np.float64], edge: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the lattice rows of the passages of edges that have a point a lattice column.

    Args:
        x0: (E,) lattice steps of the edges' ends; likewise the next three.
        y0: see above.
        x1: see above.
        y1: see above.
        shift: (E,) ``5 * passage + shift`` is the lattice column where the passed pixel column begins.
        edge: (passages,) the edge of each.
    """
    run = x1 - x0
    slope = (y1 - y0) / run
    start_y = np.where(run < 0, y1, y0).astype(np.float64)
    # The upper of the two points beside the passage counts: the right one where the edge rises, else the left one.
    start_x = np.minimum(x0, x1) - 2.0 - (slope < 0)
    row = _STEPS * np.arange(float(len(edge)))
    row -= (start_x - shift).take(edge)
    row *= slope.take(edge)
    row += start_y.take(edge)
    row += 0.5
    return row.astype(np.int32)


def _steep_rows(x0: NDArray[np.int32], y0: NDArray[np.int32], x1: NDArray[np.int32], y1: NDArray[np.int32],
                shift: NDArray[np.float64], edge: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the same for edges that have a point a lattice row."""
    rise = y1 - y0
    slope = ((x1 - x0) / rise).take(edge)
    start_x = np.where(rise < 0, x1, x0).astype(np.float64).take(edge)
    middle = _STEPS * np.arange(float(len(edge)))
    middle += (shift + 2.5).take(edge)
    # The first point beyond the passage is the step nearest to its real-valued place, or the one after it.
    step = np.rint((middle - start_x) / slope)
    beyond = (start_x + slope * step + 0.5 >= middle + 0.5) == (slope > 0)
    row: NDArray[np.int32] = np.minimum(y0, y1).take(edge) + step.astype(np.int32) - beyond
    return row


def _ranges(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the members of the chosen groups one after the other, and how many each has."""
    starts = offsets[chosen]
    counts = offsets[chosen + 1] - starts
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) + np.repeat(starts - before, counts), counts


def _draw_dense(polygons: Polygons, objects: Tensor, rois: Tensor) -> Tensor:
    """Draw with shapes that the host knows: each region with the most corners of any object, all 28 columns."""
    inside = rois.new_zeros((len(rois), MASK_SIDE, MASK_SIDE), dtype=torch.bool)
    first_part = polygons.object_offsets[objects]
    parts = polygons.object_offsets[objects + 1] - first_part
    for place, most in enumerate(polygons.most_corners):
        # Where an object has fewer polygons its corners count as none.
        part = (first_part + place).clamp(max=len(polygons.part_offsets) - 2)
        start = polygons.part_offsets[part]
        counts = torch.where(place < parts, polygons.part_offsets[part + 1] - start, 0)
        toggles = rois.new_zeros((len(rois), MASK_SIDE * (MASK_SIDE + 1)), dtype=torch.int32)
        for begin in range(0, most, _VERTICES_AT_ONCE):
            vertex = torch.arange(begin, min(begin + _VERTICES_AT_ONCE, most), device=rois.device)
            rows = _dense_rows(polygons.corners, rois, start, counts, vertex)
            column = torch.arange(MASK_SIDE, device=rois.device) * (MASK_SIDE + 1)
            toggles.scatter_add_(1, (rows + column).flatten(1), torch.ones_like(rows, dtype=torch.int32).flatten(1))
        by_column = toggles.view(-1, MASK_SIDE, MASK_SIDE + 1)
        inside |= by_column[..., :MASK_SIDE].cumsum(2) % 2 == 1
    return inside.transpose(1, 2).to(torch.uint8, memory_format=torch.contiguous_format)


def _dense_rows(corners: Tensor, rois: Tensor, start: Tensor, counts: Tensor, vertex: Tensor) -> Tensor:
    """Return (R, V, 28) int64: the pixel row at which an edge passes a column; 28 where it does not.

    Each operation is one of ``rleFrPoly`` and none may be fused with another: a fused multiply-add rounds otherwise.
    """
    origin = rois[:, None, :2].double()
    # A tensor divided: PyTorch turns number / tensor into a product with the reciprocal, which rounds twice.
    scale = origin.new_full((), MASK_SIDE) / (rois[:, None, 2:].double() - origin).clamp(min=1)
    present = vertex < counts[:, None]
    successor = torch.where(vertex + 1 < counts[:, None], vertex + 1, 0)
    here, there = (((corners[(start[:, None] + index).clamp(max=len(corners) - 1)] - origin) * scale * _STEPS + 0.5)
                   .trunc()[..., None] for index in (vertex, successor))
    (x0, y0), (x1, y1) = here.unbind(2), there.unbind(2)
    middle = torch.arange(MASK_SIDE, device=rois.device, dtype=torch.float64) * _STEPS + 2.5
    passes = present[..., None] & (torch.minimum(x0, x1) < middle) & (middle < torch.maximum(x0, x1))
    run, rise = x1 - x0, y1 - y0
    flat = run.abs() >= rise.abs()
    slope = torch.where(flat, rise, run) / torch.where(flat, run, rise)
    flat_step = middle - 0.5 - torch.minimum(x0, x1) + (slope < 0)
    flat_row = torch.where(run < 0, y1, y0) + slope * flat_step + 0.5
    steep_x = torch.where(rise < 0, x1, x0)
    steep_step = ((middle - steep_x) / slope).round()
    beyond = (steep_x + slope * steep_step + 0.5 >= middle + 0.5) == (slope > 0)
    lattice_row = torch.where(flat, flat_row.trunc(), torch.minimum(y0, y1) + steep_step - beyond.double())
    # What does not pass may be infinite or no number, and casts are defined for neither.
    lattice_row = torch.where(passes, lattice_row, math.inf).clamp(0, _LATTICE_SIDE)
    return (lattice_row.long() + 2).div(_STEPS, rounding_mode='floor')
