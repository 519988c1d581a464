from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.models.frozen_batch_norm import FrozenBatchNorm2d
from mlperf_det.models.retinanet import RETINANET_RESNEXT50, RETINANET_SMOKE, RetinaNet
from mlperf_det.models.retinanet_matching import IGNORED, match_anchors

#: The benchmark's build with one bottleneck a stage, few classes and small images.
REDUCED = replace(RETINANET_RESNEXT50, image_size=128, blocks=(1, 1, 1, 1), num_classes=7,
                  anchor_bases=(16, 32, 64, 96, 128))


@pytest.fixture(scope='module')
def full() -> RetinaNet:
    return RetinaNet(RETINANET_RESNEXT50)


def with_random_norms(model: RetinaNet) -> RetinaNet:
    """Give the frozen norms values like those of a trained backbone, so that folding is tested."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.2, 0.6)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.3, 3)
            module.fold()
    return model


def count(module: nn.Module, *, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def published_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients under our names, of our model or torchvision's."""
    def ours(name: str) -> str:
        name = re.sub(r'\.conv\.(\d)\.0\.', lambda found: f'.conv.{2 * int(found[1])}.', name)
        return re.sub(r'(inner_blocks|layer_blocks)\.(\d)\.0\.', r'\1.\2.', name)
    return {ours(name): p.grad for name, p in model.named_parameters() if p.grad is not None}


class TestBuild:
    def test_parameter_counts(self, full: RetinaNet) -> None:
        body = full.backbone.body
        parts = [body.conv1, *(body.get_submodule(f'layer{stage}') for stage in (1, 2, 3, 4)), full.backbone.fpn,
                 full.head.classification_head, full.head.regression_head]
        totals = [9_408, 202_240, 1_187_840, 6_995_968, 14_516_224, 3_868_672, 7_837_000, 2_443_300]
        assert [count(part) for part in parts] == totals
        assert [count(part, trainable=True) for part in parts] == [0, 0, *totals[2:]]
        assert count(full) == 37_060_652
        assert count(full, trainable=True) == 36_849_004
        assert len(list(full.parameters())) == 89
        assert sum(p.requires_grad for p in full.parameters()) == 78

    def test_norms_are_saved_buffers_and_their_fold_is_not(self, full: RetinaNet) -> None:
        norms = {name: value for name, value in full.backbone.body.state_dict().items()
                 if re.search(r'(bn\d|downsample\.1)\.', name)}
        assert len(norms) == 212
        assert sum(value.numel() for value in norms.values()) == 106_240 + 30_208
        assert {name.rpartition('.')[2] for name in norms} == {'weight', 'bias', 'running_mean', 'running_var'}

    def test_state_has_the_tensors_of_parameters_and_norms_only(self, full: RetinaNet) -> None:
        assert len(full.state_dict()) == 89 + 212

    def test_initial_values(self, full: RetinaNet) -> None:
        fpn, head = full.backbone.fpn, full.head
        for conv in [*fpn.inner_blocks, *fpn.layer_blocks, fpn.extra_blocks.p6, fpn.extra_blocks.p7]:
            bound = math.sqrt(3 / conv.weight[0].numel())
            assert 0.97 * bound < conv.weight.abs().max() <= bound
            assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert (conv.bias == 0).all()
        towers = [conv for tower in (head.classification_head.conv, head.regression_head.conv) for conv in tower[::2]]
        assert len(towers) == 8
        for conv in [*towers, head.classification_head.cls_logits, head.regression_head.bbox_reg]:
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
            assert abs(conv.weight.mean().item()) < 2e-4
        assert all((conv.bias == 0).all() for conv in [*towers, head.regression_head.bbox_reg])
        prior = torch.tensor(-4.59511985013459)
        assert (head.classification_head.cls_logits.bias == prior).all()

    def test_only_p7_sees_rectified_features(self, full: RetinaNet) -> None:
        p5 = torch.randn(1, 256, 7, 7)
        p6, p7 = full.backbone.fpn.extra_blocks(p5)
        assert (p6 < 0).any()
        torch.testing.assert_close(p7, full.backbone.fpn.extra_blocks.p7(p6.relu()))


class TestParity:
    """Against torchvision's RetinaNet with the same weights, from fresh random inputs."""

    @pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
    def test_outputs_losses_and_gradients(self, torchvision_peer: Callable[[RetinaNet], Any],
                                          make_batch: Callable[..., Batch], memory_format: torch.memory_format) -> None:
        model = with_random_norms(RetinaNet(REDUCED))
        peer = torchvision_peer(model).double()
        batch = make_batch(REDUCED, [3, 0, 8], seed=torch.seed())
        exact = replace(batch, images=batch.images.double(), boxes=batch.boxes.double())
        peer_logits, peer_offsets = peer.outputs(exact)
        peer_losses = peer(exact)
        sum(peer_losses.values()).backward()
        model.to(memory_format=memory_format)
        batch = batch.to(torch.device('cpu'), memory_format)
        logits, offsets = model.outputs(batch.images)
        torch.testing.assert_close(torch.cat(logits, 1).double(), peer_logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat(offsets, 1).double(), peer_offsets, rtol=1e-5, atol=1e-6)
        losses = model(batch)
        assert set(losses) == set(peer_losses) == {'classification', 'bbox_regression'}
        for name, value in losses.items():
            torch.testing.assert_close(value.double(), peer_losses[name], rtol=1e-5, atol=0)
        sum(losses.values()).backward()
        gradients, expected = published_gradients(model), published_gradients(peer.model)
        assert set(gradients) == set(expected)
        for name, gradient in gradients.items():
            error = (gradient.double() - expected[name]).norm() / expected[name].norm()
            # Rounding may put a value on the other side of a ReLU's kink, which moves a gradient by about 1e-3.
            assert error < 5e-3, f'{name}: {error}'

    def test_detections(self, torchvision_peer: Callable[[RetinaNet], Any], make_batch: Callable[..., Batch]) -> None:
        model = with_random_norms(RetinaNet(REDUCED))
        with torch.no_grad():  # scores and boxes that vary, most of them above the threshold
            model.head.classification_head.cls_logits.bias.fill_(-2.5)
            model.head.classification_head.cls_logits.weight.mul_(100)
            model.head.regression_head.bbox_reg.weight.mul_(10)
        peer = torchvision_peer(model)
        batch = make_batch(REDUCED, [1, 2], seed=torch.seed())
        found = model.detect(batch)
        assert found.boxes.shape == (2, 300, 4)
        for index, expected in enumerate(peer.detect(batch)):
            used = int(found.valid[index].sum())
            assert used == len(expected['scores']) > 50
            height, width = batch.sizes[index].tolist()
            scale = torch.tensor([width, height, width, height]) / 128
            torch.testing.assert_close(found.scores[index, :used], expected['scores'], rtol=0, atol=2e-6)
            # Rounding may swap neighbours whose scores are all but equal, and decide which of them is the last.
            near = (found.scores[index, :used, None] - expected['scores']).abs() < 1e-5
            near &= found.labels[index, :used, None] == expected['labels']
            near &= torch.isclose(found.boxes[index, :used, None], expected['boxes'] * scale, rtol=1e-5,
                                  atol=2e-3).all(dim=2)
            sure = expected['scores'] > expected['scores'].min() + 1e-5
            assert near.any(dim=1)[sure].all()
            assert near.any(dim=0)[sure].all()
            assert sure.sum() > 50

    @pytest.mark.slow
    def test_full_size(self, full: RetinaNet, torchvision_peer: Callable[[RetinaNet], Any],
                       make_batch: Callable[..., Batch]) -> None:
        model = with_random_norms(copy.deepcopy(full))
        peer, batch = torchvision_peer(model), make_batch(RETINANET_RESNEXT50, [6], seed=torch.seed())
        with torch.no_grad():
            losses, expected = model(batch), peer(batch)
        for name, value in losses.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)

    def test_initial_loss_is_the_published_one(self, make_batch: Callable[..., Batch]) -> None:
        model = RetinaNet(replace(RETINANET_RESNEXT50, image_size=800, blocks=(1, 1, 1, 1), stem_channels=8, groups=1))
        nn.init.zeros_(model.head.classification_head.cls_logits.weight)
        batch = make_batch(model.architecture, [3], seed=torch.seed())
        assigned = match_anchors(model.anchors, batch.boxes, batch.labels)
        matched, ignored = int((assigned >= 0).sum()), int((assigned == IGNORED).sum())
        with torch.no_grad():
            loss = model(batch)['classification'].item()
        negatives = (120_087 - ignored) * 264 - matched
        assert loss == pytest.approx(1.1284 + negatives * 7.538e-07 / matched, rel=2e-4)


class TestTraining:
    def test_an_image_without_boxes_costs_background_only(self, make_batch: Callable[..., Batch]) -> None:
        model = RetinaNet(RETINANET_SMOKE)
        losses = model(make_batch(RETINANET_SMOKE, [0], seed=1))
        sum(losses.values()).backward()
        assert losses['bbox_regression'] == 0
        assert losses['classification'] > 0
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_padding_changes_nothing(self, make_batch: Callable[..., Batch]) -> None:
        model = RetinaNet(RETINANET_SMOKE)
        few, many = (make_batch(RETINANET_SMOKE, [2, 5], seed=3, padded=padded) for padded in (5, 64))
        assert torch.equal(few.boxes, many.boxes[:, :5])
        for name, value in model(few).items():
            torch.testing.assert_close(value, model(many)[name], rtol=1e-6, atol=0)

    def test_autocast_keeps_losses_and_logits_in_float32(self, make_batch: Callable[..., Batch]) -> None:
        model, batch = RetinaNet(REDUCED), make_batch(REDUCED, [4], seed=5)
        exact = model(batch)
        with torch.autocast('cpu', torch.bfloat16):
            logits, offsets = model.outputs(batch.images)
            losses = model(batch)
        assert {t.dtype for t in [*logits, *offsets, *losses.values()]} == {torch.float32}
        for name, value in losses.items():
            torch.testing.assert_close(value, exact[name], rtol=1e-3, atol=0)

    def test_activations_keep_the_compute_dtype_under_autocast(self, make_batch: Callable[..., Batch]) -> None:
        model, seen = RetinaNet(REDUCED), []
        for module in model.backbone.modules():
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        with torch.autocast('cpu', torch.bfloat16):
            model.outputs(make_batch(REDUCED, [1], seed=6).images)
        tensors = [t for output in seen for t in (output if isinstance(output, list) else [output])]
        assert len(tensors) > 10
        assert {t.dtype for t in tensors} == {torch.bfloat16}

    def test_channels_last_is_kept_to_the_logits(self, make_batch: Callable[..., Batch]) -> None:
        model = RetinaNet(REDUCED).to(memory_format=torch.channels_last)
        batch = make_batch(REDUCED, [1, 1], seed=7).to(torch.device('cpu'), torch.channels_last)
        logits, offsets = model.outputs(batch.images)
        assert all(level._base is not None and level.is_contiguous() for level in [*logits, *offsets])

    def test_norms_and_frozen_parts_do_not_move(self, make_batch: Callable[..., Batch]) -> None:
        model = with_random_norms(RetinaNet(REDUCED))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        sum(model(make_batch(REDUCED, [4, 4], seed=8)).values()).backward()
        optimizer.step()
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
        assert not any(re.search(r'body\.(conv1|layer1)', name) for name in moved)
