from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18, resnet34, resnet50

from mlperf_det.errors import UserError
from mlperf_det.models.backbone_weights import load_resnet_backbone
from mlperf_det.models.resnet import ResNetBackbone


def save_under_its_hash(folder: Path, state: object, name: str = 'resnet34') -> Path:
    draft = folder / 'draft.pth'
    torch.save(state, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    return draft.rename(folder / f'{name}-{digest[:8]}.pth')


def backbone_of_ssd300() -> ResNetBackbone:
    return ResNetBackbone(64, (3, 4, 6), (64, 128, 256))


@pytest.fixture(scope='module')
def state() -> dict[str, Tensor]:
    network = resnet34()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean)
    return network.state_dict()


def test_every_tensor_of_the_backbone_is_loaded(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save_under_its_hash(tmp_path, state)
    backbone = backbone_of_ssd300()
    load_resnet_backbone(backbone, path)
    loaded = backbone.state_dict()
    assert len([name for name in loaded if not name.endswith('num_batches_tracked')]) == 87 + 2 * 29
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state[name]), name


def test_loaded_weights_compute_what_torchvisions_network_computes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    backbone = backbone_of_ssd300().eval()
    load_resnet_backbone(backbone, save_under_its_hash(tmp_path, state))
    theirs = resnet34().eval()
    theirs.load_state_dict(state)
    theirs.layer3[0].conv1.stride = theirs.layer3[0].downsample[0].stride = (1, 1)
    image = torch.randn(1, 3, 96, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    with torch.no_grad():
        torch.testing.assert_close(backbone(image), theirs.layer3(theirs.layer2(theirs.layer1(x))))


def test_files_older_than_the_batch_counter_load(tmp_path: Path, state: dict[str, Tensor]) -> None:
    old = {name: tensor for name, tensor in state.items() if not name.endswith('num_batches_tracked')}
    backbone = backbone_of_ssd300()
    load_resnet_backbone(backbone, save_under_its_hash(tmp_path, old))
    assert torch.equal(backbone.conv1.weight, state['conv1.weight'])


def test_a_hash_may_be_given_instead_of_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    named = save_under_its_hash(tmp_path, state)
    digest = hashlib.sha256(named.read_bytes()).hexdigest()
    path = named.rename(tmp_path / 'weights.bin')
    backbone = backbone_of_ssd300()
    load_resnet_backbone(backbone, path, sha256=digest)
    assert torch.equal(backbone.conv1.weight, state['conv1.weight'])
    with pytest.raises(UserError, match='states no checksum'):
        load_resnet_backbone(backbone_of_ssd300(), path)
    with pytest.raises(UserError, match='hexadecimal'):
        load_resnet_backbone(backbone_of_ssd300(), path, sha256='abc')
    with pytest.raises(UserError, match='expected 00000000'):
        load_resnet_backbone(backbone_of_ssd300(), path, sha256='0' * 64)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'resnet34-b627a593\.pth: cannot read.*data backbone'):
        load_resnet_backbone(backbone_of_ssd300(), tmp_path / 'resnet34-b627a593.pth')


def test_a_damaged_file_is_refused_before_it_is_interpreted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = save_under_its_hash(tmp_path, state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    backbone = backbone_of_ssd300()
    before = backbone.conv1.weight.clone()
    with pytest.raises(UserError, match='damaged or another one'):
        load_resnet_backbone(backbone, path)
    assert torch.equal(backbone.conv1.weight, before)


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path('executed'),))  # type: ignore[return-value]


def test_pickled_code_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_under_its_hash(tmp_path, {'conv1.weight': Trap()})
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.endswith('data.pkl'))
        assert b'touch' in archive.read(member), 'the trap is in the file'
    with pytest.raises(UserError, match='not a PyTorch weight file'):
        load_resnet_backbone(backbone_of_ssd300(), path)
    assert not Path('executed').exists()


@pytest.mark.parametrize('content', [b'', b'not weights', pickle.dumps([1], protocol=2)],
                         ids=['empty', 'text', 'bare pickle'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f'resnet34-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    path.write_bytes(content)
    with pytest.raises(UserError, match=r'weight file|table of tensors'):
        load_resnet_backbone(backbone_of_ssd300(), path)


def test_a_list_is_no_state_dictionary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no table of tensors'):
        load_resnet_backbone(backbone_of_ssd300(), save_under_its_hash(tmp_path, [torch.zeros(1)]))


@pytest.mark.parametrize(('network', 'tensor'), [
    (resnet18, r'has no tensor layer1\.2\.conv1\.weight'),
    (resnet50, r'layer1\.0\.conv1\.weight is \(64, 64, 1, 1\), the backbone has \(64, 64, 3, 3\)'),
])
def test_another_architecture_names_its_first_mismatch(
        tmp_path: Path, network: Callable[[], torch.nn.Module], tensor: str) -> None:
    path = save_under_its_hash(tmp_path, network().state_dict())
    with pytest.raises(UserError, match=tensor):
        load_resnet_backbone(backbone_of_ssd300(), path)


def test_a_deeper_network_of_the_same_block_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    deeper = {**state, 'layer3.6.conv1.weight': state['layer3.5.conv1.weight']}
    with pytest.raises(UserError, match=r'layer3\.6\.conv1\.weight has no place'):
        load_resnet_backbone(backbone_of_ssd300(), save_under_its_hash(tmp_path, deeper))
