"""System descriptions in the forms of all rounds, and one name a product."""

from __future__ import annotations

import json

import pytest

from mlperf_det.mllog.systems import SystemDescription, accelerator_class, parse_system


def test_descriptions_of_v06_nest_python_in_json() -> None:
    entry = {'hardware': 'DGX-2H', 'framework': 'PyTorch', 'nodes': "{'num_nodes': '30', 'num_accelerators': '16'}"}
    text = f'org: {json.dumps({"value": "N"})}\nentry: {json.dumps({"value": str(entry)})}\n'
    system = parse_system(text.encode())
    assert system is not None
    assert (system.submitter, system.system_name, system.nodes, system.accelerators) == ('N', 'DGX-2H', 30, 480)


@pytest.mark.parametrize('content', [b'', b'[]', b'{', b'entry: {"value": "__import__(0)"}', b'\xff',
                                     b'[' * 100_000])
def test_rubbish_is_no_description_and_nothing_is_executed(content: bytes) -> None:
    assert parse_system(content) is None


def test_a_log_with_fewer_ranks_than_accelerators_used_a_part() -> None:
    system = SystemDescription(nodes=30, accelerators_per_node=16)
    assert system.used_by(240).accelerators == 240
    assert system.used_by(1).accelerators == 480      # only rank 0 logs
    assert system.used_by(30).accelerators == 480     # one rank a node logs
    assert system.used_by(481).accelerators == 480


@pytest.mark.parametrize(('content', 'accelerators'), [
    (b'\xef\xbb\xbf{"number_of_nodes": "2 ", "accelerators_per_node": "8"}', 16),
    (b'{"number of nodes": "4x", "accelerators_per_node": "8 (2 x 4)"}', 32),
    (b'{"number_of_nodes": 16, "accelerators_per_node": 0, "accelerator_model_name": ""}', 0),
    (b'{"number_of_nodes": "N/A", "accelerators_per_node": true}', None),
    (b'{"org": "a", "nodes": [{"num_nodes": 1, "num_accelerators": "8"}]}', 8)])
def test_numbers_are_read_as_submitters_write_them(content: bytes, accelerators: int | None) -> None:
    system = parse_system(content)
    assert system is not None
    assert system.accelerators == accelerators


@pytest.mark.parametrize(('name', 'expected'), [
    ('NVIDIA H100 80GB HBM3', 'H100-SXM5-80GB'), ('NVIDIA A100-PCIE-40GB (250W)', 'A100-PCIe-40GB'),
    ('Tesla V100-SXM3-32GB-H', 'V100-SXM3-32GB'), ('Nvidia Tesla V100S-PCIe-32GB', 'V100S-PCIe-32GB'),
    ('AMD Instinct MI300X', 'AMD Instinct MI300X'), ('NVIDIA GH200 480GB', 'GH200'),
    # as drivers report them: memory before the form
    ('NVIDIA A100 80GB PCIe', 'A100-PCIe-80GB'), ('NVIDIA A100-SXM4-40GB', 'A100-SXM4-40GB'),
    ('NVIDIA H100 PCIe', 'H100-PCIe-80GB'), ('NVIDIA H200 NVL', 'H200-NVL-141GB'), ('NVIDIA B200', 'B200-SXM-180GB'),
    ('Tesla V100-SXM2-32GB', 'V100-SXM2-32GB'), ('Tesla V100-PCIE-16GB', 'V100-PCIe-16GB'), ('NVIDIA L40S', 'L40S'),
    ('NVIDIA RTX PRO 6000 Blackwell Server Edition', 'RTX-PRO-6000'), ('tpuv2-8', 'TPU v2'), ('', '')])
def test_one_spelling_a_product(name: str, expected: str) -> None:
    assert accelerator_class(name) == expected
