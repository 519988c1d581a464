"""What published Mask R-CNN runs have reached by an epoch, to tell a run that cannot converge."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from types import MappingProxyType

#: A run under this share of the yardstick is lost: about one published run in a hundred fell to nearly 0 within its
#: first eight epochs, and none of them recovered.
LEAST_SHARE = 0.5
#: global batch -> epoch -> mean box AP. Batch 128: five v0.7 runs on 4 nodes of 8 A100; the others: v0.7 runs of the
#: same code. Between the epochs that are listed the curve bends downwards, so a straight line stays below it.
_BOX_AP: Mapping[int, Mapping[int, float]] = MappingProxyType({
    48: {1: .189, 9: .303, 10: .355, 13: .374, 14: .379},
    128: {1: .155, 2: .215, 3: .237, 4: .258, 5: .263, 6: .274, 7: .287, 8: .291, 9: .291, 10: .353, 11: .367,
          12: .370, 13: .372, 14: .377},
    256: {1: .090, 12: .308, 13: .367, 16: .375, 17: .378},
})


def expected_box_ap(epoch: int, global_batch_size: int) -> float:
    """Return the box AP (a fraction) that published runs have after ``epoch`` epochs.

    Batches between those on record take the curve of the next larger one, which rises later.
    """
    batches = sorted(_BOX_AP)
    curve = _BOX_AP[next((batch for batch in batches if batch >= global_batch_size), batches[-1])]
    epochs = sorted(curve)
    after = bisect_right(epochs, epoch)
    if after == 0:
        return 0.0
    if after == len(epochs):
        return curve[epochs[-1]]
    first, last = epochs[after - 1], epochs[after]
    return curve[first] + (curve[last] - curve[first]) * (epoch - first) / (last - first)


def hopeless(epoch: int, global_batch_size: int, box_ap: float) -> str | None:
    """Return why a run should be given up after ``epoch`` epochs, or None."""
    least = LEAST_SHARE * expected_box_ap(epoch, global_batch_size)
    if box_ap >= least:
        return None
    return (f'box AP {box_ap:.4f} after epoch {epoch} is under {least:.4f}, half of what published runs at a batch of '
            f'about {global_batch_size} have by then')
