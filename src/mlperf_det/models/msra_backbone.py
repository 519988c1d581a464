"""The published MSRA ResNet-50 weights (Detectron's ``R-50.pkl``) loaded into `msra_body`, name by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlperf_det.errors import UserError
from mlperf_det.models.resnet_fpn import BottleneckResNet

#: Tensors that a ResNet-50 takes: 53 filters, and a scale and a shift of each norm.
R50_TENSORS = 159
_BRANCHES = ('2a', '2b', '2c')
#: The colour order of the file's stem: what the network must be fed with.
CHANNEL_ORDER = 'BGR'


def name_map(body: BottleneckResNet) -> dict[str, str]:
    """Return the body's tensor names and the file's names of the same tensors.

    The file holds more: convolution biases and a classifier, which the detector does not have.
    """
    names = {'conv1.weight': 'conv1_w', 'bn1.weight': 'res_conv1_bn_s', 'bn1.bias': 'res_conv1_bn_b'}
    for stage in (1, 2, 3, 4):
        for index in range(len(list(body.get_submodule(f'layer{stage}').children()))):
            ours, theirs = f'layer{stage}.{index}', f'res{stage + 1}_{index}_branch'
            layers = [(f'{ours}.conv{i + 1}', f'{ours}.bn{i + 1}', theirs + branch)
                      for i, branch in enumerate(_BRANCHES)]
            if index == 0:
                layers.append((f'{ours}.downsample.0', f'{ours}.downsample.1', f'{theirs}1'))
            for conv, norm, source in layers:
                names |= {f'{conv}.weight': f'{source}_w', f'{norm}.weight': f'{source}_bn_s',
                          f'{norm}.bias': f'{source}_bn_b'}
    return names


def load_msra_weights(body: BottleneckResNet, arrays: Mapping[str, NDArray[np.float32]], *, source: str) -> int:
    """Load filters, scales and shifts; running statistics stay at mean 0 and variance 1, as the file has none.

    Args:
        body: the network; changed only if everything fits. Its images must come in `CHANNEL_ORDER`.
        arrays: by the file's names.
        source: what to call the weights in an error.

    Returns:
        How many tensors were loaded; `R50_TENSORS` for a ResNet-50.

    Raises:
        UserError: a tensor is missing or of another shape.
    """
    wanted = body.state_dict()
    state: dict[str, Tensor] = {}
    for name, theirs in name_map(body).items():
        if theirs not in arrays:
            raise UserError(f'{source}: has no array {theirs}; give the MSRA R-50.pkl of Detectron')
        if arrays[theirs].shape != tuple(wanted[name].shape):
            raise UserError(f'{source}: {theirs} is {arrays[theirs].shape}, the backbone has '
                            f'{tuple(wanted[name].shape)}; the weights are of another architecture')
        state[name] = torch.from_numpy(arrays[theirs])
    left = {name for name in wanted if not name.endswith(('running_mean', 'running_var'))} - state.keys()
    assert not left, f'no name in the file is known for {sorted(left)}'
    body.load_state_dict({**wanted, **state})
    return len(state)
