"""System descriptions of published results (``systems/<system>.json``), in the spellings of all rounds."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SystemDescription:
    """What a submitter says of a system; empty or None where the description is silent."""

    submitter: str = ''
    system_name: str = ''
    nodes: int | None = None
    accelerators_per_node: int | None = None
    accelerator_model: str = ''
    processor: str = ''
    framework: str = ''
    division: str = ''
    availability: str = ''

    @property
    def accelerators(self) -> int | None:
        """Accelerators of the whole system."""
        if self.nodes is None or self.accelerators_per_node is None:
            return None
        return self.nodes * self.accelerators_per_node

    def used_by(self, ranks: int) -> SystemDescription:
        """Return the part of the system that a log with ``ranks`` ``init_start`` events (one a rank) was made on.

        Some descriptions name all accelerators of a node where a submission used some of them. One event a node says
        nothing of its accelerators.
        """
        if not self.accelerators or not self.nodes or not self.nodes < ranks < self.accelerators or ranks % self.nodes:
            return self
        return replace(self, accelerators_per_node=ranks // self.nodes)


def parse_system(content: bytes) -> SystemDescription | None:
    """Read a description; None where it is of no known form."""
    text = content.decode('utf-8-sig', 'replace')
    try:
        facts = json.loads(text)
    except ValueError:
        facts = _v06_lines(text)
    except RecursionError:
        return None
    if not isinstance(facts, dict) or not facts:
        return None
    node = facts.get('nodes')
    if isinstance(node, list):
        node = node[0] if node else None
    if isinstance(node, dict):
        return _v05(facts, node)
    return SystemDescription(
        submitter=_text(facts.get('submitter')), system_name=_text(facts.get('system_name')),
        nodes=_count(facts.get('number_of_nodes', facts.get('number of nodes'))),
        accelerators_per_node=_count(facts.get('accelerators_per_node')),
        accelerator_model=_text(facts.get('accelerator_model_name')),
        processor=_text(facts.get('host_processor_model_name')), framework=_text(facts.get('framework')),
        division=_text(facts.get('division')), availability=_text(facts.get('status')))


def _v05(facts: Mapping[str, Any], node: Mapping[str, Any]) -> SystemDescription:
    """Read the form of v0.5 and v0.6: hardware, framework and a list of kinds of nodes."""
    return SystemDescription(
        submitter=_text(facts.get('org')), system_name=_text(facts.get('hardware')),
        nodes=_count(node.get('num_nodes')), accelerators_per_node=_count(node.get('num_accelerators')),
        accelerator_model=_text(node.get('accelerator')),
        processor=_text(node.get('cpu')), framework=_text(facts.get('framework')),
        division=_text(facts.get('division')), availability=_text(facts.get('status')))


def _v06_lines(text: str) -> dict[str, Any]:
    """Read lines of ``org: {"value": ...}``, where ``entry`` holds a Python literal inside a Python literal."""
    facts: dict[str, Any] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(': ')
        try:
            facts[key.strip()] = json.loads(rest)['value']
        except (ValueError, TypeError, KeyError):
            continue
    try:
        facts |= ast.literal_eval(facts.pop('entry', '{}'))
        facts['nodes'] = ast.literal_eval(facts['nodes'])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        pass
    return facts


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ''


def _count(value: Any) -> int | None:
    """Return the number that a value is or begins with, as in ``8 (2 sockets)``."""
    match = re.match(r'\s*(\d+)', str(value))
    return int(match[1]) if match and not isinstance(value, bool) else None


#: product -> (what else its name says, class); the first product and the first variant that fit count
_CLASSES: tuple[tuple[str, tuple[tuple[tuple[str, ...], str], ...]], ...] = (
    ('RTXPRO6000', (((), 'RTX-PRO-6000'),)),
    ('RTX4090', (((), 'RTX-4090'),)),
    ('GB300', (((), 'GB300'),)),
    ('GB200', (((), 'GB200'),)),
    ('GH200', (((), 'GH200'),)),
    ('B300', (((), 'B300'),)),
    ('B200', (((), 'B200-SXM-180GB'),)),
    ('H200', ((('NVL',), 'H200-NVL-141GB'), ((), 'H200-SXM-141GB'))),
    ('H100', ((('NVL',), 'H100-NVL-94GB'), (('PCIE',), 'H100-PCIe-80GB'), (('96G',), 'H100-SXM5-96GB'),
              ((), 'H100-SXM5-80GB'))),
    ('A100', ((('PCIE', '80G'), 'A100-PCIe-80GB'), (('PCIE',), 'A100-PCIe-40GB'), (('80G',), 'A100-SXM4-80GB'),
              ((), 'A100-SXM4-40GB'))),
    (r'A30(?!\d)', (((), 'A30'),)),
    (r'A40(?!\d)', (((), 'A40'),)),
    ('L40S', (((), 'L40S'),)),
    ('L40', (((), 'L40'),)),
    (r'L4(?!\d)', (((), 'L4'),)),
    (r'V100S(?!XM)', (((), 'V100S-PCIe-32GB'),)),
    ('V100', ((('PCIE', '16G'), 'V100-PCIe-16GB'), (('PCIE',), 'V100-PCIe-32GB'), (('SXM3',), 'V100-SXM3-32GB'),
              (('16G',), 'V100-SXM2-16GB'), (('32G',), 'V100-SXM2-32GB'), ((), 'V100-SXM2-16/32GB'))),
    ('TPUV2', (((), 'TPU v2'),)),
    ('TPUV3', (((), 'TPU v3'),)),
    ('TPU', (((), 'TPU v4'),)),
)


def accelerator_class(model: str) -> str:
    """Return one spelling for the some sixty in which 25 accelerator products are published.

    Also for the names that drivers report, such as ``NVIDIA A100 80GB PCIe``. An unknown name is returned as it is.
    """
    squeezed = re.sub(r'[\s_\-]+', '', model.upper())
    for product, variants in _CLASSES:
        if re.search(product, squeezed):
            return next(name for words, name in variants if all(word in squeezed for word in words))
    return model.strip()
