from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mlperf_det.cli import main
from mlperf_det.data import backbone as module
from mlperf_det.data.backbone import (
    AcceptedFile,
    BackboneCard,
    RefusedFile,
    VerifiedBackbone,
    backbone_card,
    export_backbone,
    identify_backbone,
    load_backbone_cards,
    obtain_backbone,
    read_arrays,
)
from mlperf_det.data.detectron_pickle import read_detectron_pickle
from mlperf_det.data.fetch import Retries
from mlperf_det.errors import UserError

QUICK = Retries(attempts=1, pause_seconds=0)


def digest(path: Path, algorithm: str = 'sha256') -> str:
    return hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def weights(tmp_path) -> Path:
    """A torch file as torchvision publishes them: float32 tensors and an integer counter."""
    path = tmp_path / 'published' / 'net.pth'
    path.parent.mkdir()
    generator = torch.Generator().manual_seed(0)
    torch.save(OrderedDict([('conv1.weight', torch.randn(4, 3, 2, 2, generator=generator)),
                            ('bn1.weight', torch.randn(4, generator=generator).half()),
                            ('bn1.num_batches_tracked', torch.tensor(7))]), path)
    return path


@pytest.fixture
def card(weights) -> BackboneCard:
    return BackboneCard(benchmark='test', format='torch', accepted=(
        AcceptedFile(file='net.pth', url=weights.as_uri(), sha256_prefix=digest(weights)[:8],
                     sha512=digest(weights, 'sha512')),))


# The cards.

def test_shipped_cards():
    cards = load_backbone_cards()
    assert {name: card.format for name, card in cards.items()} == {
        'resnet34': 'torch', 'resnext50': 'torch', 'r50-msra': 'detectron-pickle'}
    resnet, resnext, msra = cards['resnet34'], cards['resnext50'], cards['r50-msra']
    assert [file.sha256_prefix for file in resnet.accepted] == ['b627a593', '333f7ec4']
    assert resnext.accepted[0].sha256_prefix == '7cdf4587'
    assert resnext.accepted[0].sha512.startswith('15c9f0bc1c8d64750712f86ffaded3b0bc6a87e77a395dcda3013d8af65b7ebf3ca1')
    assert resnext.refused[0].sha256_prefix == '1a0047aa'
    assert msra.accepted[0].md5 == ('b19105fdd7baafb40480251377de18f2', '6652b4a9c782d82bb3d42118be74d79b')
    for card in (resnet, resnext):
        for accepted in card.accepted:  # torchvision's rule for file names
            assert accepted.file.endswith(f'-{accepted.sha256_prefix}.pth')
            assert accepted.url.endswith(f'/{accepted.file}')


def test_torchvision_names_the_same_files():
    from torchvision.models import ResNet34_Weights, ResNeXt50_32X4D_Weights

    cards = load_backbone_cards()
    assert cards['resnet34'].accepted[0].url == ResNet34_Weights.IMAGENET1K_V1.url
    assert cards['resnext50'].accepted[0].url == ResNeXt50_32X4D_Weights.IMAGENET1K_V1.url
    assert ResNeXt50_32X4D_Weights.IMAGENET1K_V2.url.endswith(cards['resnext50'].refused[0].file)


@pytest.mark.parametrize(('text', 'words'), [
    ('file: a.pth, url: u', 'has no checksum'),
    ('file: a.pth, url: u, sha256_prefix: b62', '8 to 64 hexadecimal'),
    ('file: ../a.pth, url: u, sha256_prefix: b627a593', 'plain file name'),
    ('file: a.pth, url: u, md5: [xyz]', '32 hexadecimal'),
    ('file: a.pth, url: u, sha512: "00"', '128 hexadecimal'),
    ('file: a.pth, url: u, sha25_prefix: b627a593', "did you mean 'sha256_prefix'"),
])
def test_wrong_cards(tmp_path, text, words):
    path = tmp_path / 'backbones.yaml'
    path.write_text(f'backbones: {{net: {{benchmark: b, format: torch, accepted: [{{{text}}}]}}}}')
    with pytest.raises(UserError, match=words) as caught:
        load_backbone_cards(path)
    assert str(path) in str(caught.value)
    assert 'net' in str(caught.value)


def test_unknown_backbone():
    with pytest.raises(UserError, match="no backbone 'resnet43'; did you mean 'resnet34'"):
        backbone_card('resnet43')


# Identification and fetching.

def test_a_file_is_known_by_its_content_not_its_name(weights, card, tmp_path):
    copy = tmp_path / 'anything.bin'
    copy.write_bytes(weights.read_bytes())
    found = identify_backbone('net', copy, card)
    assert (found.published_as, found.path, found.sha256) == ('net.pth', copy, digest(weights))


def test_other_content_is_refused(weights, card):
    weights.write_bytes(weights.read_bytes() + b' ')
    with pytest.raises(UserError, match=rf'has SHA-256 {digest(weights)}, which is none of net\.pth'):
        identify_backbone('net', weights, card)
    with pytest.raises(UserError, match='cannot be read'):
        identify_backbone('net', weights.with_name('none'), card)


def test_all_stated_digests_count(weights, card):
    short = card.accepted[0]
    forged = BackboneCard(benchmark='test', format='torch', accepted=(
        AcceptedFile(file='net.pth', url=short.url, sha256_prefix=short.sha256_prefix, sha512='0' * 128),))
    with pytest.raises(UserError, match='none of'):
        identify_backbone('net', weights, forged)


@pytest.mark.parametrize('position', [0, 1])
def test_any_of_several_md5_sums(weights, position):
    sums = ['0' * 32, '1' * 32]
    sums[position] = digest(weights, 'md5')
    card = BackboneCard(benchmark='test', format='torch',
                        accepted=(AcceptedFile(file='net.pth', url='', md5=tuple(sums)),))
    assert identify_backbone('net', weights, card).published_as == 'net.pth'


def test_a_lookalike_is_refused_with_the_reason(weights):
    card = BackboneCard(benchmark='test', format='torch', accepted=(
        AcceptedFile(file='net-v1.pth', url='', sha256_prefix='0' * 8),), refused=(
        RefusedFile(file='net-v2.pth', sha256_prefix=digest(weights)[:8], reason='another recipe'),))
    with pytest.raises(UserError, match=r'is net-v2\.pth, which net does not accept: another recipe'):
        identify_backbone('net', weights, card)


@pytest.mark.parametrize('local', [True, False])
def test_obtain(weights, card, tmp_path, local):
    output = tmp_path / 'out'
    found = obtain_backbone('net', output, source=weights if local else None, card=card, retries=QUICK)
    assert found.path == output / 'net.pth'
    assert found.path.read_bytes() == weights.read_bytes()
    assert [path.name for path in output.iterdir()] == ['net.pth']
    # Again, and in place, changes nothing.
    assert obtain_backbone('net', output, source=found.path, card=card) == found
    assert obtain_backbone('net', output, card=card, retries=QUICK) == found


@pytest.mark.parametrize('local', [True, False])
def test_wrong_content_leaves_nothing(weights, card, tmp_path, local):
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r'SHA-256|sha256'):
        obtain_backbone('net', tmp_path / 'out', source=weights if local else None, card=card, retries=QUICK)
    assert not list((tmp_path / 'out').iterdir())


# Arrays.

EXPECTED_NAMES = ['conv1.weight', 'bn1.weight']


@pytest.mark.parametrize('form', ['npz', 'safetensors'])
def test_export(weights, card, tmp_path, form):
    found = obtain_backbone('net', tmp_path / 'out', source=weights, card=card)
    path = export_backbone(found, tmp_path / 'out', form)
    assert path.name == f'net.{form}'
    (tmp_path / 'plain').touch()
    assert path.stat().st_mode == (tmp_path / 'plain').stat().st_mode, 'for all whom the umask lets read'
    arrays = dict(np.load(path)) if form == 'npz' else load_file(path)
    state = torch.load(weights, weights_only=True)
    assert set(arrays) == set(EXPECTED_NAMES)
    for name in EXPECTED_NAMES:
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], state[name].float().numpy())
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {f'net.{form}', 'net.pth'}


def test_export_to_an_unknown_form(weights, card, tmp_path):
    with pytest.raises(UserError, match='safetensors'):
        export_backbone(identify_backbone('net', weights, card), tmp_path, 'safetensor')


def as_verified(path: Path, form: str = 'torch') -> VerifiedBackbone:
    return VerifiedBackbone(name='net', path=path, published_as=path.name, sha256='', format=form)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_torch_files_that_run_code_are_refused(tmp_path):
    torch.save({'weight': Evil(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='cannot be loaded as weights'):
        read_arrays(as_verified(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.shared
def test_a_checkpoint_is_not_a_weights_file(shared_data):
    with pytest.raises(UserError, match='not a mapping of names to tensors'):
        read_arrays(as_verified(shared_data / 'checkpoint-samples/resnet20-12fca82f.th'))


def test_damaged_torch_files(tmp_path):
    (tmp_path / 'net.pth').write_bytes(b'nonsense')
    with pytest.raises(UserError, match='cannot be loaded as weights'):
        read_arrays(as_verified(tmp_path / 'net.pth'))


# Detectron's pickle.

BLOBS = {'conv1_w': np.arange(12, dtype=np.float32).reshape(3, 4), 'conv1_bn_s': np.array([0.5, 1.5]),
         'conv1_w_momentum': np.ones(3, dtype=np.float32)}


@pytest.mark.parametrize('wrapped', [True, False])
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_detectron_pickle(tmp_path, wrapped, protocol):
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(pickle.dumps({'blobs': BLOBS, 'cfg': 'text'} if wrapped else BLOBS, protocol=protocol))
    arrays = read_arrays(as_verified(path, 'detectron-pickle'))
    assert list(arrays) == ['conv1_w', 'conv1_bn_s']
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, BLOBS[name].astype(np.float32))


def test_a_pickle_as_python_2_wrote_it(tmp_path):
    """Byte strings for names and for the array's bytes, numpy under its old module name."""
    array = np.array([1.0, -2.5], dtype='<f4')
    raw = array.tobytes()
    stream = (b'\x80\x02}q\x00U\x07conv1_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03'
              b'K\x00\x85U\x01bq\x04\x87q\x05Rq\x06(K\x01K\x02\x85cnumpy\ndtype\nq\x07U\x02f4K\x00K\x01\x87Rq\x08(K\x03U\x01<NNN'
              b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U' + bytes([len(raw)]) + raw + b'tbs.')
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(stream)
    np.testing.assert_array_equal(read_detectron_pickle(path)['conv1_w'], array)


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_that_runs_code_is_refused(tmp_path, protocol):
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(pickle.dumps({'conv1_w': Evil(tmp_path / 'ran')}, protocol=protocol))
    with pytest.raises(UserError, match=r'not a plain pickle of arrays \(refers to .*\); it was not loaded'):
        read_detectron_pickle(path)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('stream', [
    b'cos\nsystem\n(S"touch ran"\ntR.',
    b'cbuiltins\neval\n(S"1"\ntR.',
    b'c_codecs\nencode\n(S"a"\nS"rot13"\ntR.',
    b'cnumpy.core.multiarray\nfromfile\n(S"/etc/passwd"\ntR.',
])
def test_other_globals_are_refused(tmp_path, stream):
    (tmp_path / 'R-50.pkl').write_bytes(stream)
    with pytest.raises(UserError, match='it was not loaded'):
        read_detectron_pickle(tmp_path / 'R-50.pkl')


@pytest.mark.parametrize(('content', 'words'), [
    ([1, 2], 'no mapping'), ({}, 'no numbers'), ({'conv1_w': 'text'}, 'conv1_w holds no numbers'),
    ({'conv1_w': np.array(['text'])}, 'conv1_w holds no numbers'),
])
def test_pickles_without_arrays(tmp_path, content, words):
    path = tmp_path / 'R-50.pkl'
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=words):
        read_detectron_pickle(path)


@pytest.mark.parametrize('content', [b'', b'\x80\x02}q\x00U', b'junk', pickle.dumps(BLOBS, protocol=2)[:-30]])
def test_damaged_pickles(tmp_path, content):
    (tmp_path / 'R-50.pkl').write_bytes(content)
    with pytest.raises(UserError, match=r'damaged|not a plain pickle'):
        read_detectron_pickle(tmp_path / 'R-50.pkl')


# The command.

def test_command(weights, card, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, 'load_backbone_cards', lambda: {'resnet34': card})
    words = ['data', 'backbone', 'resnet34', '--output', str(tmp_path / 'out')]
    assert main([*words, '--from', str(weights), '--export', 'npz']) == 0
    out = capsys.readouterr().out
    assert f'net.pth, SHA-256 {digest(weights)}' in out
    assert (tmp_path / 'out/net.npz').is_file()
    assert main([*words, '--mirror', weights.parent.as_uri(), '--export', 'safetensors']) == 0
    assert main(['data', 'backbone', 'resnet', '--output', str(tmp_path)]) == 2
    assert "did you mean 'resnet34'" in capsys.readouterr().err


def test_help_and_cards_need_no_torch():
    """A login node reads help and verifies checksums without the training stack."""
    code = ('import sys; from mlperf_det.cli import build_parser; build_parser(["data"]);'
            'import mlperf_det.data.backbone, mlperf_det.data.download, mlperf_det.data.verify;'
            'import mlperf_det.data.layout, mlperf_det.data.prepare_coco;'
            'sys.exit(bool({"torch", "torchvision", "PIL", "pandas", "reframe"} & set(sys.modules)))')
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
