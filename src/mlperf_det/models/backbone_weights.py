"""Loading published backbone weights: verified first, then mapped name by name."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mlperf_det.errors import UserError
from mlperf_det.models.resnet import ResNetBackbone

#: Mean and standard deviation of ImageNet's RGB channels in [0, 1], as torchvision's classification weights expect.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
#: Parts of torchvision's classifier that a detection backbone of fewer stages does not have.
_CLASSIFIER = re.compile(r'(layer4|fc)\.')
#: torchvision names its weight files ``<name>-<first eight digits of the SHA-256>.pth``.
_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.pth')
_COUNTER = 'num_batches_tracked'
_SHA256_DIGITS = 64


def load_resnet_backbone(backbone: ResNetBackbone, path: Path, *, sha256: str | None = None) -> None:
    """Load a torchvision ResNet classifier's weights into ``backbone``, every tensor of it.

    The file is hashed before anything of it is interpreted, and no pickled code runs. Batch norms may lack
    ``num_batches_tracked``, which torchvision's oldest files do not have.

    Args:
        backbone: the network; changed only if all of the file fits.
        path: a ``.pth`` file of torchvision's form.
        sha256: hexadecimal SHA-256 or its first digits, at least eight; None: taken from the file's name.

    Raises:
        UserError: the file is missing, its hash is unknown or wrong, or it holds another architecture.
    """
    try:
        state = torch.load(io.BytesIO(_read_verified(path, sha256)), map_location='cpu', weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f'{path}: is not a PyTorch weight file ({reason}); give a torchvision .pth file') from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'{path}: holds no table of tensors; give a state dictionary as torchvision publishes it')
    tensors = _match_tensors(path, state, backbone.state_dict())
    backbone.load_state_dict(tensors, strict=True)


def _read_verified(path: Path, sha256: str | None) -> bytes:
    """Return the file's bytes, once their hash is what was expected."""
    if sha256 is None:
        in_name = _HASH_IN_NAME.search(path.name)
        if in_name is None:
            raise UserError(f'{path}: its name states no checksum; '
                            'name the file as published, e.g. resnet34-b627a593.pth')
        sha256 = in_name.group(1)
    expected = sha256.lower()
    if not re.fullmatch(rf'[0-9a-f]{{8,{_SHA256_DIGITS}}}', expected):
        raise UserError(f'{path}: expected SHA-256 {sha256!r} is not 8 to {_SHA256_DIGITS} hexadecimal digits')
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot read the backbone weights ({error.strerror}); '
                        'fetch them with `mlperf-det data backbone`') from error
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(expected):
        raise UserError(f'{path}: SHA-256 is {found}, expected {expected}; the file is damaged or another one: '
                        'fetch it again with `mlperf-det data backbone`')
    return content


def _match_tensors(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's tensors under the backbone's names, which are torchvision's own."""
    tensors = {}
    for name, target in wanted.items():
        if name not in state:
            if name.endswith(_COUNTER):
                tensors[name] = target
                continue
            raise UserError(f'{path}: has no tensor {name}; the weights are of another architecture')
        if state[name].shape != target.shape:
            raise UserError(f'{path}: {name} is {tuple(state[name].shape)}, the backbone has {tuple(target.shape)}; '
                            'the weights are of another architecture')
        tensors[name] = state[name]
    strange = next((name for name in state if name not in wanted and not _CLASSIFIER.match(name)), None)
    if strange is not None:
        raise UserError(f'{path}: {strange} has no place in the backbone; the weights are of another architecture')
    return tensors
