"""The lines of a job script that start the ranks of a training run. Pure text; every value is quoted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mlperf_det.errors import UserError

#: How ranks are started.
BARE, TORCHRUN, TASKS, AUTO = 'bare', 'torchrun', 'tasks', 'auto'
#: Options of srun. A failed rank tells the others why before it ends, and they end by themselves: Slurm must give them
#: the time, and kill what is left after it. Ranks meet without MPI.
SRUN_OPTIONS = ('--mpi=none', '--kill-on-bad-exit=0', '--wait=120')
#: Exit status of a run that was told to stop and has written a checkpoint.
INTERRUPTED = 75
#: Exit statuses of runs that ended without the quality target: below it, or with a loss that is not finite.
MISSED = (3, 4)
#: Exit statuses of runs that have come to their end, good or bad.
ENDED = (0, *MISSED)
_STATUS_OF_OUTCOME: Mapping[str, int] = MappingProxyType({'aborted': 3, 'diverged': 4, 'interrupted': INTERRUPTED})
#: Ranks write a checkpoint on SIGUSR1, which Slurm sends to all processes of a job; torchrun would die of it.
_DEAF_TO_USR1 = ('sh', '-c', """'trap "" USR1; exec "$0" "$@"'""")


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
    words = [*_DEAF_TO_USR1, shlex.quote(python), '-m', 'torch.distributed.run',
             f'--nproc-per-node={geometry.ranks_per_node}']
    if geometry.nodes == 1:
        return [*words, '--standalone']
    # Left to the shell: the host and job are known only inside the job.
    return [*words, f'--nnodes={geometry.nodes}', '--rdzv-backend=c10d', '--rdzv-id="$SLURM_JOB_ID"',
            '--rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT"']


def rendezvous(geometry: Geometry) -> list[str]:
    """Return the script lines that name the host and the port where ranks meet; nothing where they need none."""
    if geometry.starter == BARE or (geometry.starter == TORCHRUN and geometry.nodes == 1):
        return []
    return ['', '# Ranks meet on the first node of the job, at a port of its own below the ephemeral ones (32768 on).',
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            'export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))']


def wrap(words: Sequence[str], width: int = 100) -> str:
    """Return a command in lines that a human can read; an option and its value stay together."""
    lines = ['']
    for word in _with_values(words):
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append('')
        lines[-1] += f' {word}' if lines[-1] else word
    return ' \\\n    '.join(lines)


def _with_values(words: Sequence[str]) -> Iterator[str]:
    option = ''
    for word in words:
        if option and not word.startswith('-'):
            word, option = f'{option} {word}', ''
        elif option:
            yield option
            option = ''
        if word.startswith('-') and word != '--' and '=' not in word and ' ' not in word:
            option = word
        else:
            yield word
    if option:
        yield option


def rank_words(geometry: Geometry, cpu_bind: str) -> list[str]:
    """Return the module that each rank runs, with its arguments; those of ``mlperf-det`` are to follow.

    Args:
        geometry: ranks of the run. A single rank needs no comparison of its place, and no share of the node.
        cpu_bind: ``numa``, ``scheduler``, ``off``, or older launchers' arguments (``--nsockets_per_node=2 ...``).
    """
    if geometry.starter == BARE:
        return ['-m', 'mlperf_det']
    older = shlex.split(cpu_bind) if cpu_bind.startswith('--') else [f'--bind={cpu_bind}']
    # torchrun tells its ranks another meeting place than it uses itself.
    meeting = ['--meet-at="$MASTER_ADDR:$MASTER_PORT"'] if geometry.starter == TASKS else []
    return ['-m', 'mlperf_det.rfm.start_rank', f'--nodes={geometry.nodes}',
            f'--ranks-per-node={geometry.ranks_per_node}', *meeting, *map(shlex.quote, older), '--']


def open_experiments(count: int, clear_caches: str) -> list[str]:
    """Return the script lines before the training command: the loop over the runs of this job.

    Args:
        count: runs of the job.
        clear_caches: the site's command, run as it stands; empty: the caches stay as they are.
    """
    numbers = ' '.join(str(number) for number in range(count))
    clear = ['# The log says that caches were cleared only where they were.',
             f'{clear_caches} \\', '    && caches=--cache-cleared || caches=']
    return ['', f'# {count} run(s), each in its own run folder and with its own seed.',
            'exit_status=0', f'for experiment in {numbers}; do',
            '# What ended before the job was requeued stays as it is.',
            'ended=$(cat "run_$experiment.exit" 2>/dev/null)',
            f'case "$ended" in {"|".join(map(str, ENDED))})',
            '    [ "$exit_status" -ne 0 ] || exit_status=$ended; continue ;;', 'esac', *(clear if clear_caches else []),
            'before=$(cksum "run_$experiment/run.json" 2>/dev/null)',
            '', '# Train. Where there are several ranks, each compares its place with what this job was written for.']


def status_of_run() -> list[str]:
    """Return the script lines that correct ``$status``: torchrun makes 1 of every status but 0, run.json knows more."""
    outcome = r"""outcome=$(sed -n 's/^  "outcome": "\([a-z]*\)".*/\1/p' "run_$experiment/run.json" 2>/dev/null)"""
    return ['# torchrun knows 0 and 1 alone; run.json says more, unless it is still that of an earlier try.',
            outcome, '[ "$before" != "$(cksum "run_$experiment/run.json" 2>/dev/null)" ] || outcome=',
            'case "$status $outcome" in ' + ' '.join(f"'1 {name}') status={status} ;;" for name, status in
                                                     _STATUS_OF_OUTCOME.items()) + ' esac']


def close_experiments() -> list[str]:
    """Return the script lines after the training command."""
    return ['echo "$status" > "run_$experiment.exit"', 'done', '']


def requeue_when_interrupted() -> list[str]:
    """Return the script lines after the loop that let Slurm start an interrupted job again."""
    return ['# Told to stop, and a checkpoint lies ready: let Slurm start the job again.',
            f'! grep -qsx {INTERRUPTED} run_*.exit || scontrol requeue "$SLURM_JOB_ID"']


def train_words(benchmark: str, *, recipe: str, recipes_file: str | None, overrides: Sequence[str], data: str,
                backbone: str | None, seed: int, extra: Sequence[str],
                caches: bool, resume: bool = False) -> list[str]:
    """Return the words of ``mlperf-det train ...`` inside the loop over experiments."""
    words = ['train', benchmark, '--recipe', recipe]
    words += ['--recipes', recipes_file] if recipes_file else []
    words += [word for assignment in overrides for word in ('--set', assignment)]
    words += ['--data', data]
    words += ['--backbone', backbone] if backbone else []
    quoted = [shlex.quote(word) for word in (*words, *extra)]
    return [*quoted, *(['$caches'] if caches else []), *(['--resume'] if resume else []),
            '--experiment="$experiment"', f'--seed=$(({seed} + experiment))', '--output="run_$experiment"']
