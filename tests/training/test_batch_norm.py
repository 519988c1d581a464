"""Batch norms over ranks, in four processes over gloo, against PyTorch's own on the joined batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlperf_det.data.batch import Batch
from mlperf_det.models.ssd import Ssd
from mlperf_det.models.ssd_architecture import SSD_SMOKE
from mlperf_det.training.batch_norm import average_statistics, group_batch_norms

RANKS, GROUP = 4, 2
#: images of each rank; those of a group may differ
SHARES = (3, 5, 4, 2)

#: What each of the ranks runs.
PROGRAM = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, sys.argv[1])
from test_batch_norm import GROUP, RANKS, inputs, layer, network, scenes
from mlperf_det.training.batch_norm import average_statistics, group_batch_norms

folder, rank = sys.argv[2], int(sys.argv[3])
dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=RANKS)
norm = group_batch_norms(layer(), GROUP)
images, weights = inputs(rank)
images.requires_grad_()
output = norm(images)
(output * weights).sum().backward()
result = {'output': output.detach(), 'gradient': images.grad, 'state': dict(norm.state_dict()),
          'parameters': {name: value.grad for name, value in norm.named_parameters()}}

model = group_batch_norms(network(), GROUP)
result['names'] = list(model.state_dict())
trained = DistributedDataParallel(model, broadcast_buffers=False, static_graph=True)
loss = sum(trained(scenes(rank)).values())
loss.backward()
result['loss'] = float(loss.detach())
result['gradients'] = {name: value.grad for name, value in model.named_parameters()}
average_statistics(model)
result['averaged'] = {name: value for name, value in model.state_dict().items() if 'running' in name}
torch.save(result, f'{folder}/{rank}.pt')
dist.destroy_process_group()
"""


def layer() -> nn.Sequential:
    """A convolution and a batch norm with parameters and statistics other than 1 and 0."""
    torch.manual_seed(3)
    made = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    for value in (made[1].weight, made[1].bias, made[1].running_mean):
        nn.init.normal_(value)
    return made


def inputs(rank: int) -> tuple[Tensor, Tensor]:
    """Images of a rank, far from mean 0, and the weights of its outputs in the loss."""
    numbers = torch.Generator().manual_seed(100 + rank)
    shape = (SHARES[rank], 3, 9, 7)
    return (torch.randn(shape, generator=numbers) * (1 + rank) + 20 * rank,
            torch.randn((SHARES[rank], 6, 7, 5), generator=numbers))


def network() -> Ssd:
    torch.manual_seed(4)
    return Ssd(SSD_SMOKE)


def scenes(rank: int) -> Batch:
    """Three images of noise with a box each."""
    numbers = torch.Generator().manual_seed(200 + rank)
    corner = torch.rand(3, 1, 2, generator=numbers) * 0.5
    images = torch.randn(3, 3, SSD_SMOKE.image_size, SSD_SMOKE.image_size, generator=numbers) + rank
    return Batch(images=images, image_ids=torch.arange(3), sizes=torch.full((3, 2), SSD_SMOKE.image_size),
                 boxes=torch.cat([corner, corner + 0.4], 2), labels=torch.tensor([[0], [1], [2]]))


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp('ranks')
    ranks = [subprocess.Popen([sys.executable, '-c', PROGRAM, str(Path(__file__).parent), str(folder), str(rank)])
             for rank in range(RANKS)]
    try:
        assert [process.wait(timeout=200) for process in ranks] == [0] * RANKS
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(folder / f'{rank}.pt', weights_only=True) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize('first', [0, 2])
def test_a_group_normalises_as_one_process_with_its_joined_batch(results: list[dict[str, Any]], first: int) -> None:
    ranks = range(first, first + GROUP)
    norm = layer()
    images, weights = (torch.cat(parts) for parts in zip(*(inputs(rank) for rank in ranks), strict=True))
    images.requires_grad_()
    output = norm(images)
    (output * weights).sum().backward()
    assert images.grad is not None
    close = {'rtol': 1e-4, 'atol': 2e-5}
    torch.testing.assert_close(torch.cat([results[rank]['output'] for rank in ranks]), output.detach(), **close)
    torch.testing.assert_close(torch.cat([results[rank]['gradient'] for rank in ranks]), images.grad, **close)
    for name, parameter in norm.named_parameters():
        total = sum(results[rank]['parameters'][name] for rank in ranks)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-4, atol=1e-3)
    for rank in ranks:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(results[rank]['state'][name], value, **close)
    alone = layer()
    alone(inputs(first)[0])
    assert not torch.allclose(alone[1].running_mean, results[first]['state']['1.running_mean'], rtol=1e-2)


@pytest.mark.slow
def test_ssd_over_ranks_trains_as_one_process_with_the_groups_joined_batches(results: list[dict[str, Any]]) -> None:
    model = network()
    assert results[0]['names'] == list(model.state_dict())
    losses, statistics = [], []
    for first in range(0, RANKS, GROUP):
        model.load_state_dict(network().state_dict())
        parts = [scenes(rank) for rank in range(first, first + GROUP)]
        joined = Batch(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})
        loss = torch.stack(list(model(joined).values())).sum() / (RANKS // GROUP)
        loss.backward()
        losses.append(float(loss.detach()))
        statistics.append({name: value.clone() for name, value in model.state_dict().items() if 'running' in name})
    assert sum(losses) == pytest.approx(sum(result['loss'] for result in results) / RANKS, rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(results[1]['gradients'][name], parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7)
    for name in statistics[0]:
        average = sum(each[name] for each in statistics) / len(statistics)
        for result in results:
            torch.testing.assert_close(result['averaged'][name], average, rtol=1e-4, atol=1e-5)


def test_on_one_process_nothing_changes() -> None:
    model = layer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert group_batch_norms(model, 1) is model
    average_statistics(model)
    assert type(model[1]) is nn.BatchNorm2d
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
