"""The base of the preflight checks: ask a node for its facts, hold each against a requirement."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reframe as rfm
from reframe.core.builtins import run_after, run_before, sanity_function, variable
from reframe.core.exceptions import SanityError

from mlperf_det.rfm import site
from mlperf_det.rfm.constants import Tag
from mlperf_det.rfm.in_container import InContainer
from mlperf_det.rfm.no_silent_pass import NoSilentPass

#: Where the job writes the facts.
FACTS_FILE = 'node_facts.json'


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What must hold of one fact.

    Attributes:
        fact: its name in `node_facts`.
        holds: says of its value whether it is good enough.
        otherwise: what is wrong and what to do; ``{value}`` stands for the value.
    """

    fact: str
    holds: Callable[[Any], bool]
    otherwise: str

    def problem(self, facts: Mapping[str, Any]) -> str | None:
        """Return what is wrong, or None. A fact that could not be had is a problem as well."""
        value = facts.get(self.fact)
        if self.fact in facts.get('errors', {}) or self.fact not in facts:
            return f'{self.fact} could not be determined: {facts.get("errors", {}).get(self.fact, "not reported")}'
        return None if self.holds(value) else self.otherwise.format(value=_readable(value))


class PreflightCheck(rfm.RunOnlyRegressionTest, NoSilentPass, InContainer):
    """Holds the facts of one node against `requirements`; ``--distribute=all`` visits every node.

    Where the site trains inside an image, the node is asked from there.

    A check defines `requirements`; a job of it takes seconds.
    """

    #: Python that trains on the node. Empty: the one that runs ReFrame, inside a container ``python3``.
    #:
    #: :type: :class:`str`
    python = variable(str, value='')

    #: Use every GPU once as well.
    use_gpus = False

    valid_prog_environs = ['*']  # noqa: RUF012 (ReFrame's idiom)
    tags = {Tag.PREFLIGHT}  # noqa: RUF012
    time_limit = '10m'
    sourcesdir = None

    @run_after('setup')
    def ask_for_the_gpus(self) -> None:
        """Let the scheduler hand out all GPUs of the node; a job that asks for none may see none."""
        if self.use_gpus:
            self.num_gpus_per_node = site.gpus_per_node(self.current_partition)

    @run_before('run')
    def ask_for_the_facts(self) -> None:
        """Let the node describe itself."""
        words = [shlex.quote(self.python or ('python3' if self.in_container_image else sys.executable)),
                 '-m', 'mlperf_det.rfm.node_facts', *(['--gpus'] if self.use_gpus else []), f'> {FACTS_FILE}']
        self.executable, self.executable_opts = words[0], words[1:]
        self.prerun_cmds = [*self.prerun_cmds, *self.in_container_run(words, identify=False)]
        self.keep_files = [FACTS_FILE]

    def requirements(self) -> Sequence[Requirement]:
        """Return what must hold; every check defines its own."""
        raise NotImplementedError

    @sanity_function
    def node_is_fit(self) -> bool:
        """Every requirement holds."""
        path = Path(self.stagedir) / FACTS_FILE
        try:
            facts = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SanityError(f'the node did not describe itself: {path} cannot be read ({error})') from None
        found = [problem for requirement in self.requirements() if (problem := requirement.problem(facts))]
        if found:
            raise SanityError(f'{"; ".join(found)} (node {facts.get("host")})')
        return True


def at_least(fact: str, least: float, advice: str) -> Requirement:
    """Return the requirement that a number is at least ``least``; -1 stands for unlimited."""
    return Requirement(fact=fact, holds=lambda value: value == -1 or value >= least,
                       otherwise=f'{fact} is {{value}}, at least {least:g} is needed: {advice}')


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, dict):
        return ', '.join(f'{key}: {text}' for key, text in value.items())
    return str(value)
