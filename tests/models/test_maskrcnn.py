from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from maskrcnn_batches import LOSSES, calibrate, random_mask_batch, smoke_batch, torchvision_backbone
from torch import Tensor, nn

from mlperf_det.models import maskrcnn
from mlperf_det.models.maskrcnn import IMAGE_MEAN_BGR, MASKRCNN_R50_FPN, MASKRCNN_SMOKE, MaskRcnn


@pytest.fixture(scope='module')
def full_model() -> MaskRcnn:
    torch.manual_seed(0)
    return MaskRcnn(MASKRCNN_R50_FPN, image_candidates=1000)


def count(module: nn.Module, *, trained: bool | None = None) -> int:
    return sum(p.numel() for p in module.parameters() if trained is None or p.requires_grad == trained)


def test_parameter_counts(full_model: MaskRcnn) -> None:
    parameters = dict(full_model.named_parameters())
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    biases = [p for name, p in trained.items() if name.endswith('bias')]
    assert (len(parameters), len(trained), len(biases)) == (95, 84, 21)
    assert (count(full_model), count(full_model, trained=True)) == (44_347_573, 44_125_173)
    assert sum(p.numel() for p in biases) == 6_133
    assert sum(p.numel() for p in trained.values()) - 6_133 == 44_119_040
    body = full_model.backbone.body
    assert (count(body), count(body, trained=True)) == (23_454_912, 23_232_512)
    assert (count(body.conv1), count(body.layer1)) == (9_408, 212_992)
    heads = full_model.roi_heads
    assert [count(part) for part in (full_model.backbone.fpn, full_model.rpn, heads.box_head, heads.box_predictor,
                                     heads.mask_head, heads.mask_predictor)] == [
        3_344_384, 593_935, 13_895_680, 415_125, 2_360_320, 283_217]
    norms = [b for name, b in full_model.named_buffers() if name.rsplit('.', 1)[-1] in (
        'weight', 'bias', 'running_mean', 'running_var')]
    assert (len(norms), sum(b.numel() for b in norms)) == (212, 106_240)


def test_the_stem_and_the_first_stage_are_frozen(full_model: MaskRcnn) -> None:
    frozen = {name.split('.')[2] for name, p in full_model.named_parameters() if not p.requires_grad}
    assert frozen == {'conv1', 'layer1'}
    assert all(not name.startswith('backbone.body.bn') for name, _ in full_model.named_parameters())


@pytest.mark.parametrize(('name', 'kind', 'value'), [
    ('backbone.fpn.inner_blocks.0', 'uniform', math.sqrt(3 / 256)),
    ('backbone.fpn.inner_blocks.3', 'uniform', math.sqrt(3 / 2048)),
    ('backbone.fpn.layer_blocks.2', 'uniform', 0.03608), ('rpn.conv', 'normal', 0.01),
    ('rpn.cls_logits', 'normal', 0.01), ('rpn.bbox_pred', 'normal', 0.01),
    ('roi_heads.box_head.fc6', 'uniform', 0.01546), ('roi_heads.box_head.fc7', 'uniform', 0.05413),
    ('roi_heads.box_predictor.cls_score', 'normal', 0.01), ('roi_heads.box_predictor.bbox_pred', 'normal', 0.001),
    ('roi_heads.mask_head.0', 'normal', 0.02946), ('roi_heads.mask_head.6', 'normal', 0.02946),
    ('roi_heads.mask_predictor.conv5_mask', 'normal', 0.0442),
    ('roi_heads.mask_predictor.mask_fcn_logits', 'normal', 0.1571),
])
def test_initial_values(full_model: MaskRcnn, name: str, kind: str, value: float) -> None:
    layer = full_model.get_submodule(name)
    weight = layer.weight.detach()
    # Small layers scatter by themselves: four standard errors, and never less than a hundredth.
    tolerance = max(0.01, 4 / math.sqrt(2 * weight.numel()))
    if kind == 'uniform':
        assert weight.abs().max().item() == pytest.approx(value, rel=2e-3)
        value /= math.sqrt(3)
    assert weight.std().item() == pytest.approx(value, rel=tolerance)
    assert abs(weight.mean().item()) < 5 * value / math.sqrt(weight.numel())
    assert not layer.bias.any()


def test_pyramid_equals_torchvisions_with_strides_and_epsilon_changed(full_model: MaskRcnn) -> None:
    for module in full_model.backbone.body.modules():
        if hasattr(module, 'fold'):
            module.weight.uniform_(0.2, 0.6)
            module.bias.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.fold()
    images = torch.randn(1, 3, 160, 192) * 50
    with torch.no_grad():
        expected = torchvision_backbone(full_model)(images)
        found = full_model.backbone(images)
    assert [tuple(level.shape[2:]) for level in found] == [(40, 48), (20, 24), (10, 12), (5, 6), (3, 3)]
    for level, peer in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(level, peer, rtol=1e-3, atol=1e-3 * peer.abs().max().item())


def test_images_are_blue_green_red_less_the_mean_and_padding_is_zero() -> None:
    model, batch = MaskRcnn(MASKRCNN_SMOKE, 100), smoke_batch([1, 1])
    found = model.normalise(batch)
    blue, green, red = IMAGE_MEAN_BGR
    image = batch.images[0, :, :120, :150].float()
    expected = torch.stack([image[2] - blue, image[1] - green, image[0] - red])
    torch.testing.assert_close(found[0, :, :120, :150], expected)
    assert not found[:, :, 120:].any()
    assert not found[:, :, :, 150:].any()


def test_first_losses_of_an_untrained_network() -> None:
    """Ladder step 6: ln 81 for the classifier, about ln 2 for objectness, small terms for the boxes."""
    torch.manual_seed(2)
    model = MaskRcnn(MASKRCNN_R50_FPN, image_candidates=1000)
    calibrate(model)
    batch = random_mask_batch([5], height=320, width=416, classes=80, seed=3)
    with torch.no_grad():
        losses = {name: float(value) for name, value in model(batch).items()}
    assert sorted(losses) == sorted(LOSSES)
    assert losses['classifier'] == pytest.approx(math.log(81), rel=0.15)
    assert 0.6 < losses['objectness'] < 1.1
    assert 0.5 < losses['mask'] < 1.5
    assert 0 < losses['box_reg'] < 0.3
    assert 0 < losses['rpn_box_reg'] < 0.3


@pytest.mark.parametrize('boxes_per_image', [[3, 2], [4, 0], [0, 0]])
def test_every_trained_parameter_has_a_finite_gradient(boxes_per_image: list[int]) -> None:
    torch.manual_seed(1)
    model = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200)
    losses = model(smoke_batch(boxes_per_image))
    assert sorted(losses) == sorted(LOSSES)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if boxes_per_image == [0, 0]:
        assert losses['mask'] == losses['box_reg'] == losses['rpn_box_reg'] == 0
        assert losses['objectness'] > 0


def test_a_few_steps_learn_two_images() -> None:
    torch.manual_seed(4)
    model = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200)
    calibrate(model)
    batch = smoke_batch([3, 2], seed=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(40):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    for name in ('classifier', 'mask', 'objectness'):
        first, last = (np.mean([step[name] for step in part]) for part in (history[:5], history[-5:]))
        assert last < 0.6 * first, name
    found = model.eval().detect(batch)
    assert found.valid.any()


def test_all_slots_of_an_accelerator_give_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200), smoke_batch([3, 2])
    torch.manual_seed(7)
    expected = model(batch)
    sum(expected.values()).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sizes = []

    def all_slots(active: Tensor) -> Tensor:
        sizes.append((active.numel(), int(active.sum())))
        return torch.arange(active.numel())

    monkeypatch.setattr(maskrcnn, 'active_slots', all_slots)
    torch.manual_seed(7)
    found = model(batch)
    sum(found.values()).backward()
    assert sizes[0][1] < sizes[0][0]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_masks_are_drawn_from_the_right_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each foreground region asks for the outline of its own image's object, in inclusive coordinates."""
    model, batch = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200), smoke_batch([3, 0, 2])
    asked = {}

    def keep(polygons: object, objects: Tensor, rois: Tensor) -> Tensor:
        asked.update(objects=objects, rois=rois)
        return torch.zeros(len(rois), 28, 28, dtype=torch.uint8)

    monkeypatch.setattr(maskrcnn, '_exact_mask_targets', keep)
    model(batch)
    boxes = batch.boxes.flatten(0, 1)
    assert set(asked['objects'].tolist()) == {0, 1, 2, 16, 17}
    twins = asked['rois'] + torch.tensor([0., 0, 1, 1])
    own = torch.minimum(twins[:, 2:], boxes[asked['objects'], 2:]) - torch.maximum(
        twins[:, :2], boxes[asked['objects'], :2])
    areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (twins, boxes[asked['objects']])]
    overlap = own.clamp(min=0).prod(dim=1)
    assert (overlap / (areas[0] + areas[1] - overlap) >= 0.5).all()
    assert any((twins == box).all(dim=1).any() for box in boxes[:3]), 'the boxes themselves are among the regions'


def test_detections() -> None:
    torch.manual_seed(6)
    model, batch = MaskRcnn(MASKRCNN_SMOKE, 200).eval(), smoke_batch([1, 1])
    calibrate(model)
    found = model.detect(batch)
    assert (found.boxes.shape, found.masks.shape) == ((2, 100, 4), (2, 100, 28, 28))
    assert found.valid.any()
    boxes = found.boxes[found.valid]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([400.0 + 1, 300 + 1])).all()
    assert ((found.labels >= 0) == found.valid).all()
    assert found.labels.max() < 8
    masks = found.masks[found.valid]
    assert ((masks > 0) & (masks < 1)).all()
    assert not found.masks[~found.valid].any()
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()


def test_bfloat16_changes_the_losses_little() -> None:
    model, batch = MaskRcnn(MASKRCNN_SMOKE, image_candidates=200), smoke_batch([3, 2])
    calibrate(model)
    losses = []
    for reduced in (False, True):
        torch.manual_seed(7)
        with torch.autocast('cpu', torch.bfloat16, enabled=reduced):
            losses.append(model(batch))
    for name in LOSSES:
        assert losses[1][name].dtype == torch.float32
        torch.testing.assert_close(losses[1][name], losses[0][name], rtol=0.15, atol=0.02)
