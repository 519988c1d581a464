from __future__ import annotations

import pytest
import torch

from mlperf_det.models.balanced_sampling import draw_balanced


@pytest.mark.parametrize(('positives', 'negatives', 'expected'), [
    (300, 600, (128, 128)),     # enough of both
    (10, 600, (10, 246)),       # negatives fill up
    (300, 20, (128, 20)),       # positives never fill up
    (0, 5, (0, 5)), (0, 0, (0, 0)), (3, 0, (3, 0)),
])
def test_counts(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    kinds = torch.zeros(2, 1000, dtype=torch.int64)
    kinds[:, :positives], kinds[:, positives:positives + negatives] = 1, 2
    kinds = kinds[:, torch.randperm(1000)]
    drawn = draw_balanced(kinds == 1, kinds == 2, slots=256, most_positive=128)
    assert drawn.index.shape == (2, 256)
    for image in range(2):
        found = kinds[image, drawn.index[image][drawn.used[image]]]
        assert ((found == 1).sum().item(), (found == 2).sum().item()) == expected
        assert torch.equal(found == 1, drawn.positive[image][drawn.used[image]])
        assert len(set(drawn.index[image][drawn.used[image]].tolist())) == sum(expected), 'drawn twice'
        assert not (drawn.positive[image] & ~drawn.used[image]).any()
        # positives come first, unused slots last
        order = (drawn.positive[image].int() + drawn.used[image].int()).tolist()
        assert order == sorted(order, reverse=True)


def test_fewer_candidates_than_slots() -> None:
    positive = torch.tensor([[True, False, False]])
    drawn = draw_balanced(positive, ~positive, slots=8, most_positive=2)
    assert sorted(drawn.index[0, :3].tolist()) == [0, 1, 2]
    assert drawn.used[0].tolist() == [True] * 3 + [False] * 5


def test_every_candidate_is_equally_likely() -> None:
    torch.manual_seed(5)
    positive = torch.zeros(2000, 40, dtype=torch.bool)
    positive[:, :20] = True
    drawn = draw_balanced(positive, ~positive, slots=16, most_positive=4)
    counts = torch.bincount(drawn.index.flatten(), minlength=40).float()
    # 2000 draws of 4 from 20 and of 12 from 20; bounds of five standard deviations of a hypergeometric count
    assert (counts[:20] - 400).abs().max() < 5 * (2000 * 0.2 * 0.8) ** 0.5
    assert (counts[20:] - 1200).abs().max() < 5 * (2000 * 0.6 * 0.4) ** 0.5
