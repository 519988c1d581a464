from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.functional import normalize

from mlperf_det.data.batch import Batch
from mlperf_det.models import sparse_gradient
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD300_RESNET34, SSD_SMOKE, SsdArchitecture


def random_batch(architecture: SsdArchitecture, images: int = 3, boxes: int = 5) -> Batch:
    size = architecture.image_size
    corner = torch.rand(images, boxes, 2) * 0.6
    corners = torch.cat((corner, corner + 0.05 + torch.rand(images, boxes, 2) * 0.35), dim=2)
    labels = torch.randint(0, architecture.num_classes, (images, boxes))
    labels[0, -1] = -1
    return Batch(images=torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8),
                 image_ids=torch.arange(images), sizes=torch.tensor([[480, 640]]).repeat(images, 1),
                 boxes=corners * size * (labels >= 0).unsqueeze(-1), labels=labels)


def parameters_of(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def losses_and_gradients(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
    losses = model(batch)
    model.zero_grad()
    (losses['localization'] + losses['classification']).backward()
    return losses, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture(scope='module')
def ssd300() -> Ssd:
    torch.manual_seed(0)
    return Ssd(SSD300_RESNET34)


def test_parameter_counts_of_each_part(ssd300: Ssd) -> None:
    backbone = ssd300.backbone
    assert parameters_of(backbone.layer3) == 6_822_400
    assert parameters_of(backbone) - parameters_of(backbone.layer3) == 1_347_904
    assert [parameters_of(extra) for extra in ssd300.extras] == [1_245_952, 1_311_488, 360_832, 328_064, 328_064]
    assert parameters_of(ssd300.localization_heads) == 387_192
    assert parameters_of(ssd300.confidence_heads) == 7_840_638
    assert parameters_of(ssd300) == 19_972_534
    assert all(parameter.requires_grad for parameter in ssd300.parameters())


def test_tensor_counts(ssd300: Ssd) -> None:
    assert len(list(ssd300.parameters())) == 131
    parts = (ssd300.backbone, ssd300.extras, ssd300.localization_heads, ssd300.confidence_heads)
    assert [len(list(part.parameters())) for part in parts] == [87, 20, 12, 12]
    norms = [module for module in ssd300.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 29
    assert parameters_of(*norms) == 9_856, '39,424 bytes, the smaller message of the published all-reduce test'
    assert {(norm.eps, norm.momentum, norm.affine, norm.track_running_stats) for norm in norms} == {
        (1e-5, 0.1, True, True)}


def test_message_sizes_of_the_published_all_reduce_test(ssd300: Ssd) -> None:
    # submissions pad the stem to 4 input channels and each level's fused head to a multiple of 8 output channels
    stem = 64 * 49
    heads = sum((-shapes * 85 % 8) * (9 * width + 1) for width, shapes in zip(
        SSD300_RESNET34.channels, SSD300_RESNET34.boxes_per_cell, strict=True))
    assert 2 * (parameters_of(ssd300) + stem + heads - 9_856) == 40_033_040


def test_state_holds_learned_values_alone(ssd300: Ssd) -> None:
    constants = {'defaults', 'default_corners', 'pixel_scale', 'pixel_shift'}
    assert constants <= {name for name, _ in ssd300.named_buffers()}
    assert not constants & set(ssd300.state_dict())


def test_feature_and_output_shapes(ssd300: Ssd) -> None:
    images = torch.zeros(1, 3, 300, 300, dtype=torch.uint8)
    shapes = {}
    hooks = [module.register_forward_hook(
        lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
        for name, module in ssd300.backbone.named_children()]
    with torch.no_grad():
        features = ssd300.features(images)
        localization, logits = ssd300.outputs(images)
    for hook in hooks:
        hook.remove()
    assert shapes['conv1'] == (64, 150, 150)
    assert shapes['maxpool'] == shapes['layer1'] == (64, 75, 75)
    assert shapes['layer2'] == (128, 38, 38)
    assert [tuple(level.shape) for level in features] == [
        (1, 256, 38, 38), (1, 512, 19, 19), (1, 512, 10, 10), (1, 256, 5, 5), (1, 256, 3, 3), (1, 256, 1, 1)]
    assert localization.shape == (1, 4, 8732)
    assert logits.shape == (1, 81, 8732)


def test_the_last_stage_keeps_its_resolution_in_both_branches(ssd300: Ssd) -> None:
    strides = {name: module.stride for name, module in ssd300.backbone.named_modules()
               if isinstance(module, nn.Conv2d) and module.stride != (1, 1)}
    assert set(strides) == {'conv1', 'layer2.0.conv1', 'layer2.0.downsample.0'}


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_outputs_lie_in_the_order_of_the_default_boxes(memory_format: torch.memory_format) -> None:
    model = Ssd(SSD_SMOKE).eval().to(memory_format=memory_format)
    raw = {}
    for kind, heads in (('offsets', model.localization_heads), ('scores', model.confidence_heads)):
        for level, head in enumerate(heads):
            head.register_forward_hook(
                lambda module, inputs, output, key=(kind, level): raw.update({key: output.detach()}))
    images = random_batch(SSD_SMOKE).images.contiguous(memory_format=memory_format)
    with torch.no_grad():
        localization, logits = model.outputs(images)
    position = 0
    for level, (size, shapes) in enumerate(zip(SSD_SMOKE.feature_sizes, SSD_SMOKE.boxes_per_cell, strict=True)):
        for shape in range(shapes):
            for row in (0, size - 1):
                for column in (0, size // 2):
                    box = position + shape * size * size + row * size + column
                    offset_channels = [value * shapes + shape for value in range(4)]
                    score_channels = [value * shapes + shape for value in range(SSD_SMOKE.num_classes + 1)]
                    assert torch.equal(localization[:, :, box], raw['offsets', level][:, offset_channels, row, column])
                    assert torch.equal(logits[:, :, box], raw['scores', level][:, score_channels, row, column])
                    assert model.defaults[box, 0].item() == pytest.approx(
                        (column + 0.5) * SSD_SMOKE.steps[level] / SSD_SMOKE.image_size)
        position += shapes * size * size
    assert position == SSD_SMOKE.num_default_boxes


def test_initialisation_of_extras_and_heads(ssd300: Ssd) -> None:
    for part in (ssd300.extras, ssd300.localization_heads, ssd300.confidence_heads):
        for convolution in (module for module in part.modules() if isinstance(module, nn.Conv2d)):
            taps = convolution.kernel_size[0] ** 2
            fan_in, fan_out = convolution.in_channels * taps, convolution.out_channels * taps
            weight, bias = convolution.weight.detach(), convolution.bias.detach()
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.99 * bound < weight.abs().max().item() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            bound = 1 / math.sqrt(fan_in)
            assert 0.6 * bound < bias.abs().max().item() <= bound
            assert bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.4)


def test_pixels_are_normalised_as_torchvision_does() -> None:
    model = Ssd(SSD_SMOKE)
    seen = []
    model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = random_batch(SSD_SMOKE).images.contiguous(memory_format=torch.channels_last)
    model.features(images)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        seen[0], normalize(images.float() / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]))


def test_first_loss_is_that_of_an_untrained_network() -> None:
    # 4 ln 81 = 17.6 if all classes were equally likely; published first iterations with ImageNet weights lie near 23
    torch.manual_seed(1)
    losses = Ssd(SSD300_RESNET34)(random_batch(SSD300_RESNET34, images=2))
    assert 15 < losses['classification'].item() < 80
    assert 0.5 < losses['localization'].item() < 15


def test_padding_changes_nothing() -> None:
    model = Ssd(SSD_SMOKE).eval()
    batch = random_batch(SSD_SMOKE)
    padded = replace(batch, boxes=torch.cat((batch.boxes, torch.zeros(3, 7, 4)), dim=1),
                     labels=torch.cat((batch.labels, torch.full((3, 7), -1)), dim=1))
    with torch.no_grad():
        before, after = model(batch), model(padded)
    assert {name: loss.item() for name, loss in before.items()} == {name: loss.item() for name, loss in after.items()}


def test_channels_last_computes_the_same() -> None:
    model = Ssd(SSD_SMOKE).double()  # in float32 a rounding difference may turn a ReLU on
    batch = random_batch(SSD_SMOKE)
    losses, gradients = losses_and_gradients(model, batch)
    moved = batch.to(torch.device('cpu'), memory_format=torch.channels_last)
    other_losses, other_gradients = losses_and_gradients(model.to(memory_format=torch.channels_last), moved)
    torch.testing.assert_close(other_losses, losses)
    for gradient, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_same_where_heads_skip_what_the_loss_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = Ssd(SSD300_RESNET34).train(), random_batch(SSD300_RESNET34, images=2, boxes=3)
    _, dense = losses_and_gradients(model, batch)
    skipping, real = [], sparse_gradient._sparse_backward

    def noted(gradient: Tensor, cells: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        skipping.append((x.shape[2], len(weight)))
        return real(gradient, cells, x, weight)
    monkeypatch.setattr(sparse_gradient, '_sparse_backward', noted)
    sparse_gradient.skip_zeros(model, True)
    _, sparse = losses_and_gradients(model, batch)
    assert {(38, 16), (38, 324)} <= set(skipping), 'both heads of the finest level, which cost the most'
    for theirs, mine in zip(dense, sparse, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_loss_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    model = Ssd(SSD_SMOKE).to(memory_format=torch.channels_last)
    batch = random_batch(SSD_SMOKE).to(torch.device('cpu'), memory_format=torch.channels_last)
    expected = model(batch)
    seen = []
    model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast('cpu', dtype=dtype):
        losses, gradients = losses_and_gradients(model, batch)
    assert seen == [dtype]
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.15, atol=0.1)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_loss_compiles_as_one_graph() -> None:
    model = Ssd(SSD_SMOKE).double()
    batch = random_batch(SSD_SMOKE)
    losses, gradients = losses_and_gradients(model, batch)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    other_losses, other_gradients = losses_and_gradients(compiled, batch)
    torch.testing.assert_close(other_losses, losses)
    for gradient, other in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('architecture', [SSD300_RESNET34, SSD_SMOKE], ids=['ssd300', 'smoke'])
def test_forward_and_loss_stay_on_a_cuda_device(architecture: SsdArchitecture) -> None:
    # A fake device computes no values, so that any step that needs one on the host fails, and so do mixed devices.
    with FakeTensorMode():
        with torch.device('cuda'):
            model = Ssd(architecture)
        batch = random_batch(architecture).to(torch.device('cuda'), memory_format=torch.channels_last)
        losses = model(batch)
    assert {(loss.device.type, loss.shape) for loss in losses.values()} == {('cuda', ())}


def test_detections_have_fixed_shapes_and_use_the_original_sizes() -> None:
    model = Ssd(SSD_SMOKE).eval()
    batch = random_batch(SSD_SMOKE)
    found = model.detect(batch)
    assert found.boxes.shape == (3, 200, 4)
    assert found.scores.shape == found.labels.shape == found.valid.shape == (3, 200)
    doubled = model.detect(replace(batch, sizes=batch.sizes * 2))
    assert found.valid.any()
    torch.testing.assert_close(doubled.boxes, 2 * found.boxes)
    assert not found.boxes.requires_grad


def test_a_few_steps_on_one_batch_find_its_boxes() -> None:
    torch.manual_seed(3)
    model = Ssd(SSD_SMOKE).to(memory_format=torch.channels_last)
    batch = random_batch(SSD_SMOKE, images=4, boxes=2).to(torch.device('cpu'), memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    history = []
    for _ in range(120):
        losses = model(batch)
        loss = losses['localization'] + losses['classification']
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < history[0] / 10
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative: the statistics of these images alone
            module.reset_running_stats()
    with torch.no_grad():
        model(batch)
    found = model.eval().detect(batch)
    scale = batch.sizes.flip(1).repeat(1, 2).unsqueeze(1) / SSD_SMOKE.image_size
    for image in range(4):
        best = int((batch.labels[image] >= 0).sum())
        expected = (batch.boxes * scale)[image, :best]
        distance = torch.cdist(expected, found.boxes[image, :best]).amin(dim=1)
        assert (distance < 60).all(), distance
        assert set(found.labels[image, :best].tolist()) == set(batch.labels[image, :best].tolist())
