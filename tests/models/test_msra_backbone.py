from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlperf_det.errors import UserError
from mlperf_det.models.msra_backbone import CHANNEL_ORDER, R50_TENSORS, load_msra_weights, name_map
from mlperf_det.models.resnet_fpn import BottleneckResNet, msra_body


def resnet50() -> BottleneckResNet:
    return msra_body(stem_channels=64, blocks=(3, 4, 6, 3))


def published_arrays(seed: int) -> dict[str, NDArray[np.float32]]:
    """The 214 arrays of R-50.pkl by Caffe2's names and shapes, with random content."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.float32]] = {}

    def conv(name: str, norm: str, *shape: int) -> None:
        arrays[f'{name}_w'] = rng.standard_normal(shape, dtype=np.float32)
        arrays[f'{name}_b'] = rng.standard_normal(shape[0], dtype=np.float32)
        for suffix in ('s', 'b'):
            arrays[f'{norm}_{suffix}'] = rng.standard_normal(shape[0], dtype=np.float32)

    conv('conv1', 'res_conv1_bn', 64, 3, 7, 7)
    channels = 64
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        planes = 64 * 2 ** (stage - 2)
        for index in range(blocks):
            name = f'res{stage}_{index}_branch'
            for branch, shape in (('2a', (planes, channels, 1, 1)), ('2b', (planes, planes, 3, 3)),
                                  ('2c', (4 * planes, planes, 1, 1))):
                conv(name + branch, f'{name}{branch}_bn', *shape)
            if index == 0:
                conv(f'{name}1', f'{name}1_bn', 4 * planes, channels, 1, 1)
            channels = 4 * planes
    arrays['fc1000_w'], arrays['fc1000_b'] = np.zeros((1000, 2048), np.float32), np.zeros(1000, np.float32)
    return arrays


def test_159_tensors_are_loaded_each_under_its_own_name() -> None:
    body, arrays = resnet50(), published_arrays(seed=1)
    assert len(arrays) == 214
    assert load_msra_weights(body, arrays, source='R-50.pkl') == R50_TENSORS == 159
    state = body.state_dict()
    for ours, theirs in (
            ('conv1.weight', 'conv1_w'), ('bn1.weight', 'res_conv1_bn_s'), ('bn1.bias', 'res_conv1_bn_b'),
            ('layer1.0.conv1.weight', 'res2_0_branch2a_w'), ('layer1.0.downsample.0.weight', 'res2_0_branch1_w'),
            ('layer1.0.downsample.1.weight', 'res2_0_branch1_bn_s'), ('layer3.5.conv2.weight', 'res4_5_branch2b_w'),
            ('layer4.2.bn3.bias', 'res5_2_branch2c_bn_b')):
        assert np.array_equal(state[ours].numpy(), arrays[theirs]), ours
    used = set(name_map(body).values())
    assert len(used) == 159
    # What the file has besides: 53 biases of convolutions and the classifier.
    assert {name.rsplit('_', 1)[1] for name in set(arrays) - used} == {'w', 'b'}
    assert len(set(arrays) - used) == 55


def test_norms_have_no_statistics_and_no_epsilon() -> None:
    body, arrays = resnet50(), published_arrays(seed=2)
    load_msra_weights(body, arrays, source='R-50.pkl')
    norm = body.get_submodule('layer2.1.bn2')
    assert torch.equal(norm.running_mean, torch.zeros(128))
    assert torch.equal(norm.running_var, torch.ones(128))
    assert torch.equal(norm.scale, torch.from_numpy(arrays['res3_1_branch2b_bn_s'])), 'an epsilon would change it'
    assert torch.equal(norm.shift, torch.from_numpy(arrays['res3_1_branch2b_bn_b']))


def test_the_order_of_the_colours_is_stated() -> None:
    assert CHANNEL_ORDER == 'BGR'


@pytest.mark.parametrize(('change', 'message'), [
    (lambda arrays: arrays.pop('res4_3_branch2b_bn_s'), 'R-50.pkl: has no array res4_3_branch2b_bn_s; give'),
    (lambda arrays: arrays.update(conv1_w=np.zeros((64, 3, 3, 3), np.float32)),
     r'conv1_w is \(64, 3, 3, 3\), the backbone has \(64, 3, 7, 7\)'),
])
def test_another_file_is_refused_and_changes_nothing(change: object, message: str) -> None:
    body, arrays = resnet50(), published_arrays(seed=3)
    before = body.conv1.weight.clone()
    change(arrays)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        load_msra_weights(body, arrays, source='R-50.pkl')
    assert torch.equal(body.conv1.weight, before)


def test_stride_lies_in_the_first_convolution() -> None:
    body = resnet50()
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        first, second = (body.get_submodule(f'layer{stage}.{index}') for index in (0, 1))
        assert (first.conv1.stride, first.conv2.stride, first.downsample[0].stride) == (
            (stride, stride), (1, 1), (stride, stride))
        assert (second.conv1.stride, second.conv2.stride, second.downsample) == ((1, 1), (1, 1), None)
