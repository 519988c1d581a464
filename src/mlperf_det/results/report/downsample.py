"""Fewer points for a curve that looks the same."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def downsample(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most ``most`` of the points: first, last, and from each bucket the one that shapes the curve most.

    Largest triangle three buckets (S. Steinarsson, Downsampling Time Series for Visual Representation, 2013).

    Args:
        points: (x, y) by rising x.
        most: at least 3.
    """
    if len(points) <= most:
        return list(points)
    width = (len(points) - 2) / (most - 2)
    chosen = [points[0]]
    for bucket in range(most - 2):
        start, stop = int(bucket * width) + 1, int((bucket + 1) * width) + 1
        following = points[stop:min(int((bucket + 2) * width) + 1, len(points))]
        mean_x = sum(x for x, _ in following) / len(following)
        mean_y = sum(y for _, y in following) / len(following)
        ax, ay = chosen[-1]
        chosen.append(max(points[start:stop], key=lambda point, ax=ax, ay=ay, mx=mean_x, my=mean_y: abs(  # type: ignore[misc]
            (ax - mx) * (point[1] - ay) - (ax - point[0]) * (my - ay))))
    chosen.append(points[-1])
    return chosen
