"""What the network hands from stage to stage: each part is tested by itself; here, that the right things reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from maskrcnn_batches import calibrate, random_mask_batch
from torch import Tensor

from mlperf_det.data.maskrcnn_input import MaskBatch
from mlperf_det.models import maskrcnn
from mlperf_det.models.maskrcnn import MASKRCNN_R50_FPN, MASKRCNN_SMOKE, MaskRcnn

#: Proposals that training keeps of a batch of two: fewer than suppression leaves, and no equal share of each.
CANDIDATES = 61
#: Every number differs from the others, so that none can stand in for another.
ARCHITECTURE = replace(MASKRCNN_SMOKE, train_proposals_per_level=90, eval_proposals_per_level=70, eval_proposals=45,
                       regions_per_image=24)


def test_numbers_of_the_benchmark() -> None:
    a = MASKRCNN_R50_FPN
    assert (a.num_classes, a.stem_channels, a.blocks, a.pyramid_channels, a.representation) == (
        80, 64, (3, 4, 6, 3), 256, 1024)
    assert (a.train_proposals_per_level, a.eval_proposals_per_level, a.eval_proposals) == (2000, 1000, 1000)
    assert (a.regions_per_image, a.anchor_scale, a.frozen) == (512, 8, ('conv1', 'layer1'))


class Calls:
    """Lets the network's parts work, and remembers what each was called with and returned last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.arguments: dict[str, tuple[Any, ...]] = {}
        self.keywords: dict[str, dict[str, Any]] = {}
        self.results: dict[str, Any] = {}
        for name in names:
            monkeypatch.setattr(maskrcnn, name, self._watch(name, getattr(maskrcnn, name)))

    def _watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            self.arguments[name], self.keywords[name] = arguments, keywords
            self.results[name] = function(*arguments, **keywords)
            return self.results[name]
        return watched


def model_and_batch() -> tuple[MaskRcnn, MaskBatch]:
    """Two images of different unpadded sizes in one batch."""
    model = MaskRcnn(ARCHITECTURE, CANDIDATES)
    calibrate(model)
    batch = random_mask_batch([3, 2], height=128, width=160, classes=8, seed=int(torch.randint(1000, ())),
                              valid=(100, 130))
    return model, replace(batch, valid_sizes=torch.tensor([[100, 150], [110, 130]]))


def assert_best(chosen: Tensor, scores: Tensor, count: int) -> None:
    """Exactly ``count`` were chosen, and nothing that was left out scores higher."""
    assert chosen.sum() == count
    assert scores[chosen].min() >= scores[~chosen].max()


def test_training_keeps_the_best_proposals_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_and_batch()
    with torch.no_grad():  # one image's proposals score lower than the other's, so that an equal share is not the best
        batch.images[1] = batch.images[1] // 8 + 100
    calls = Calls(monkeypatch, 'propose', 'draw_regions', 'draw_anchors')
    model(batch)
    boxes, scores = calls.results['propose']
    assert calls.keywords['propose'] == {'per_level': 90}
    proposals, present = calls.arguments['draw_regions'][:2]
    assert proposals is boxes
    assert (scores > -torch.inf).sum() > CANDIDATES
    assert_best(present, scores, CANDIDATES)
    assert calls.keywords['draw_regions'] == {'slots': 24}
    for name, place in (('propose', 3), ('draw_anchors', 3)):
        assert torch.equal(calls.arguments[name][place], batch.valid_sizes), f'{name} takes the images without padding'


def test_the_losses_take_the_outputs_of_the_drawn_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_and_batch()
    calls = Calls(monkeypatch, 'propose', 'draw_anchors', 'rpn_losses')
    model(batch)
    logits, offsets, anchors, drawn, targets = calls.arguments['rpn_losses']
    maps = [torch.cat(levels, dim=1) for levels in calls.arguments['propose'][:2]]
    torch.testing.assert_close(logits, maps[0].gather(1, drawn.index), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(offsets, maps[1].gather(1, drawn.index[..., None].expand(-1, -1, 4)), rtol=1e-3,
                               atol=1e-4)
    assert torch.equal(anchors, torch.cat(calls.arguments['propose'][2]))
    assert torch.equal(anchors, calls.arguments['draw_anchors'][0])
    assert (drawn, targets) == calls.results['draw_anchors']


def test_evaluation_keeps_the_best_proposals_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_and_batch()
    calls = Calls(monkeypatch, 'propose', 'select_per_image', 'find_boxes', 'to_original')
    found = model.eval().detect(batch)
    boxes, scores = calls.results['propose']
    assert calls.keywords['propose'] == {'per_level': 70}
    assert calls.arguments['select_per_image'][2] == 45
    _, _, proposals, present, sizes = calls.arguments['find_boxes']
    assert proposals.shape == (2, 45, 4)
    assert present.all()
    for image in range(2):
        chosen = (boxes[image, :, None] == proposals[image]).all(dim=2).any(dim=1) & (scores[image] > -torch.inf)
        assert_best(chosen, scores[image], 45)
    assert torch.equal(sizes, batch.valid_sizes)
    assert torch.equal(calls.arguments['propose'][3], batch.valid_sizes)
    assert torch.equal(calls.arguments['to_original'][1], batch.valid_sizes)
    assert torch.equal(calls.arguments['to_original'][2], batch.sizes)
    own = calls.results['find_boxes']
    assert torch.equal(found.labels, own.classes - 1)
    torch.testing.assert_close(found.boxes[own.valid], calls.results['to_original'][own.valid])


def test_masks_of_detections_are_of_the_boxes_in_the_networks_input(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_and_batch()
    calls = Calls(monkeypatch, 'find_boxes', 'pyramid_roi_align')
    found = model.eval().detect(batch)
    own = calls.results['find_boxes']
    assert own.valid.any()
    _, images, twins, side = calls.arguments['pyramid_roi_align']
    assert side == 14
    assert torch.equal(twins, own.boxes[own.valid])
    assert torch.equal(images, torch.arange(2)[:, None].expand(-1, 100)[own.valid])
    features = calls.results['pyramid_roi_align']
    with torch.no_grad():
        logits = model.roi_heads.mask_predictor(model.roi_heads.mask_head(features), own.classes[own.valid])
    torch.testing.assert_close(found.masks[found.valid], logits.sigmoid())
