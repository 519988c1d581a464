"""The lines of a job script that start the ranks of a training run. Pure text; every value is quoted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from mlperf_det.errors import UserError

#: How ranks are started.
BARE, TORCHRUN, TASKS, AUTO = 'bare', 'torchrun', 'tasks', 'auto'
#: Where torchrun's agents meet: below the ephemeral range of Linux (32768 on).
RENDEZVOUS_PORT = 29_400


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Ranks of a run and how they start.

    Attributes:
        nodes: nodes of the job.
        ranks_per_node: one rank an accelerator.
        starter: `BARE`, `TORCHRUN` or `TASKS`.
    """

    nodes: int
    ranks_per_node: int
    starter: str

    @property
    def tasks_per_node(self) -> int:
        """Processes that the partition's launcher starts on each node."""
        return self.ranks_per_node if self.starter == TASKS else 1


def choose_starter(wanted: str, *, nodes: int, ranks_per_node: int, local_launcher: bool) -> str:
    """Return how to start the ranks.

    Args:
        wanted: the variable ``launch`` of the check; `AUTO` chooses.
        nodes: nodes of the job.
        ranks_per_node: ranks on each.
        local_launcher: the partition starts commands directly, so it can start one process only.

    Raises:
        UserError: ``wanted`` is unknown or cannot start that many ranks.
    """
    if wanted not in (BARE, TORCHRUN, TASKS, AUTO):
        raise UserError(f'launch={wanted}: choose {AUTO}, {BARE}, {TORCHRUN} or {TASKS}')
    ranks = nodes * ranks_per_node
    if local_launcher and nodes > 1:
        raise UserError(f'the recipe asks for {nodes} nodes, but the launcher of the partition is "local": one node')
    if wanted == AUTO:
        return BARE if ranks == 1 else TORCHRUN if local_launcher else TASKS
    if wanted == BARE and ranks > 1:
        raise UserError(f'launch={BARE} starts one process, the recipe asks for {ranks}; use launch={AUTO}')
    if wanted == TASKS and local_launcher and ranks > 1:
        raise UserError(f'launch={TASKS}: the partition\'s launcher is "local" and starts one process; '
                        f'use launch={TORCHRUN}')
    return wanted


def python_command(geometry: Geometry, python: str) -> list[str]:
    """Return the words that run a Python module on every rank; ``-m module ...`` is to follow."""
    if geometry.starter != TORCHRUN:
        return [shlex.quote(python)]
    words = [shlex.quote(python), '-m', 'torch.distributed.run', f'--nproc-per-node={geometry.ranks_per_node}']
    if geometry.nodes == 1:
        return [*words, '--standalone']
    # Left to the shell: the host and job are known only inside the job.
    return [*words, f'--nnodes={geometry.nodes}', '--rdzv-backend=c10d', '--rdzv-id="$SLURM_JOB_ID"',
            f'--rdzv-endpoint="$RENDEZVOUS_HOST:{RENDEZVOUS_PORT}"']


def rendezvous(geometry: Geometry) -> list[str]:
    """Return the script lines that name the host where torchrun's agents meet; nothing where they need none."""
    if geometry.starter != TORCHRUN or geometry.nodes == 1:
        return []
    return ['# The first node of the job is where the agents meet.',
            'export RENDEZVOUS_HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)']


def open_experiments(count: int, clear_caches: str) -> list[str]:
    """Return the script lines before the training command: the loop over the runs of this job.

    Args:
        count: runs of the job.
        clear_caches: the site's command, run as it stands; empty: the caches stay as they are.
    """
    numbers = ' '.join(str(number) for number in range(count))
    clear = ['# The log says that caches were cleared only where they were.',
             f'{clear_caches} && caches=--cache-cleared || caches=']
    return [f'# {count} run(s), each in its own run folder and with its own seed.',
            f'for experiment in {numbers}; do', *(clear if clear_caches else [])]


def close_experiments() -> list[str]:
    """Return the script lines after the training command."""
    return ['echo "$status" > "run_$experiment.exit"', 'done']


def train_words(benchmark: str, *, recipe: str, recipes_file: str | None, overrides: Sequence[str], data: str,
                backbone: str | None, seed: int, extra: Sequence[str],
                caches: bool) -> list[str]:
    """Return the words of ``-m mlperf_det train ...`` inside the loop over experiments."""
    words = ['train', benchmark, '--recipe', recipe]
    words += ['--recipes', recipes_file] if recipes_file else []
    words += [word for assignment in overrides for word in ('--set', assignment)]
    words += ['--data', data]
    words += ['--backbone', backbone] if backbone else []
    quoted = [shlex.quote(word) for word in (*words, *extra)]
    return ['-m', 'mlperf_det', *quoted, *(['$caches'] if caches else []), '--experiment="$experiment"',
            f'--seed=$(({seed} + experiment))', '--output="run_$experiment"']
