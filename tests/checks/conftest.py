"""ReFrame in this process: load a check, set a case up, lay down what its job would have left, and judge it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reframe.core.logging as rlog
import reframe.core.runtime as rt
from reframe.frontend.dependencies import build_deps, toposort
from reframe.frontend.executors import generate_testcases
from reframe.frontend.loader import RegressionCheckLoader

from mlperf_det.mllog.writer import MLPerfLog
from mlperf_det.recipes.load import to_mapping
from mlperf_det.recipes.recipe import Recipe
from mlperf_det.run_folder import RunRecord, log_name, write_record

CHECKOUT = Path(__file__).resolve().parents[2]
CHECKS = CHECKOUT / 'checks'
VALIDATION_IMAGES = 96
FINGERPRINT = 'sha256:' + '1' * 64

SITE = '''
site_configuration = {
    'systems': [{
        'name': 'lab', 'hostnames': ['.*'],
        'partitions': [
            {'name': 'cpu', 'scheduler': 'local', 'launcher': 'local', 'environs': ['builtin']},
            {'name': 'gpu', 'scheduler': 'local', 'launcher': 'local', 'environs': ['builtin'], 'features': ['gpu'],
             'devices': [{'type': 'gpu', 'model': 'NVIDIA H100 80GB HBM3', 'num_devices': 4}],
             'extras': {'datasets': '/data', 'backbones': '/data/backbones'}},
        ],
    }],
}
'''
RECIPES = '''
ssd:
  one-node:
    base: fujitsu-1x4x114
  speed:
    base: fujitsu-1x4x114
    tier: throughput
    division: open
    max_steps: 100
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The configuration of a site with a CPU and a GPU partition and two recipes; returns its folder."""
    folder = tmp_path / 'lab'
    folder.mkdir()
    (folder / 'site.py').write_text(SITE)
    (folder / 'recipes.yaml').write_text(RECIPES)
    return folder


@pytest.fixture
def runtime(site: Path, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Enter ReFrame's runtime for a partition of the site; left again at the end of the test."""
    contexts = []

    def enter(partition: str) -> None:
        context = rt.temp_runtime(str(site / 'site.py'), f'lab:{partition}', {'systems/prefix': str(tmp_path / 'rfm')})
        context.__enter__()
        contexts.append(context)
        rlog.configure_logging(rt.runtime().site_config)

    yield enter
    for context in reversed(contexts):
        context.__exit__(None, None, None)


LoadCases = Callable[..., list[Any]]


@pytest.fixture
def load_cases(runtime: Callable[[str], None]) -> LoadCases:
    """Return the checks of a file on a partition, one a test case, set up; their fixtures are set up before them."""
    def load(file: str, partition: str = 'cpu', setup: bool = True, **variables: str) -> list[Any]:
        runtime(partition)
        # ReFrame keeps a loaded check file for the life of the process, with the recipes of another test's site.
        for name in [name for name in sys.modules if '@' in name]:
            del sys.modules[name]
        loader = RegressionCheckLoader([str(CHECKS / file)], external_vars=variables)
        cases = toposort(build_deps(generate_testcases(loader.load_all(force=True)))[0])
        for case in cases:
            case.prepare()
            if setup:
                case.check.setup(case.partition, case.environ)
        return [case.check for case in cases if not case.check.is_fixture()]
    return load


def judge(check: Any) -> None:
    """Go through sanity and performance as ReFrame does once the job has ended."""
    check.sanity()
    check.performance()


def end_job(check: Any, *, state: str = 'SUCCESS', exitcode: int | None = 0, signal: int | None = None,
            written: int | None = 0, nodes: tuple[str, ...] = ('node1',), stderr: str = '') -> None:
    """Let a job have ended: what the scheduler says, and what the job script wrote down (None: nothing)."""
    job = check.job
    job._state, job._exitcode, job._signal, job._nodelist = state, exitcode, signal, list(nodes)
    stage = Path(check.stagedir)
    (stage / str(job.stdout)).write_text('')
    (stage / str(job.stderr)).write_text(stderr)
    if written is not None:
        (stage / 'job_exit_status').write_text(f'{written}\n')


def write_run(folder: Path, recipe: Recipe, **changes: Any) -> Path:
    """Write the run folder of a good run; ``changes`` spoil it.

    Args:
        folder: the run folder to make.
        recipe: what ran.
        changes: fields of `RunRecord`; and ``ap``: AP of each evaluation; ``log_events``: a function that may drop or
            change events; ``images``, ``detections``: of each evaluation; ``losses``: of the windows; ``steady``:
            whether there is a steady state; ``stop``: the status of run_stop, None for none.
    """
    log = {key: changes.pop(key, default) for key, default in {
        'ap': (0.1, 0.9), 'images': VALIDATION_IMAGES, 'detections': 1234, 'losses': (9.0, 5.0, 2.0), 'steady': True,
        'stop': 'success', 'eval_samples': VALIDATION_IMAGES, 'backbone_event': 'random'}.items()}
    folder.mkdir(parents=True)
    devices = ['NVIDIA H100 80GB HBM3'] * recipe.accelerators_per_node
    gpu = recipe.tier.value != 'smoke'
    record = RunRecord(**{
        'benchmark': recipe.benchmark, 'recipe': to_mapping(recipe), 'log': log_name(), 'seed': 1, 'software': {},
        'hosts': tuple({'name': f'node{n + 1}', 'ranks': list(range(recipe.accelerators_per_node)),
                        'devices': devices if gpu else []} for n in range(recipe.nodes)),
        'runtime': {'device': 'cuda:0' if gpu else 'cpu', 'precision': 'fp32'},
        'dataset': {'fingerprint': FINGERPRINT}, 'backbone': {'file': 'weights.pth'} if gpu else None, 'image': None,
        'outcome': 'finished' if recipe.max_steps else 'converged', **changes})
    write_record(folder, msgspec.convert(msgspec.to_builtins(record), RunRecord))
    write_log(folder / log_name(), recipe, log)
    write_metrics(folder / 'metrics.jsonl', log)
    return folder


def write_log(path: Path, recipe: Recipe, log: Mapping[str, Any]) -> None:
    """Write the MLPerf log of a run."""
    with MLPerfLog(path) as out:
        for key, value in (('submission_benchmark', recipe.benchmark), ('submission_org', 'lab'),
                           ('submission_division', recipe.division.value), ('submission_status', 'onprem'),
                           ('submission_platform', 'lab')):
            out.event(key, value)
        if recipe.division.value == 'closed':
            out.event('cache_clear', True)
        out.start('init_start')
        out.event('seed', 1)
        for key, value in (('train_samples', 384), ('max_samples', 1), ('opt_learning_rate_warmup_steps', 1),
                           ('opt_learning_rate_warmup_factor', 0), ('opt_base_learning_rate', 0.01),
                           ('opt_learning_rate_decay_boundary_epochs', [40, 50]), ('eval_samples', log['eval_samples']),
                           ('opt_weight_decay', 5e-4), ('model_bn_span', recipe.local_batch_size),
                           ('global_batch_size', recipe.global_batch_size), ('gradient_accumulation_steps', 1)):
            out.event(key, value)
        if log['backbone_event']:
            out.event('backbone_initialization', log['backbone_event'])
        out.end('init_stop')
        out.start('run_start')
        for epoch, ap in enumerate(log['ap'] if not recipe.max_steps else (), start=1):
            out.start('epoch_start', None, {'epoch_num': epoch})
            out.end('epoch_stop', None, {'epoch_num': epoch})
            out.start('eval_start', None, {'epoch_num': epoch})
            out.event('eval_accuracy', ap, {'epoch_num': epoch})
            out.end('eval_stop', None, {'epoch_num': epoch})
        time.sleep(0.005)
        if log['stop']:
            out.end('run_stop', None, {'status': log['stop'] if not recipe.max_steps else 'aborted'})


def write_metrics(path: Path, log: Mapping[str, Any]) -> None:
    """Write metrics.jsonl of a run."""
    now = time.time()
    lines = [{'kind': 'step', 'step': 20 * n, 'epoch': n, 'loss': loss, 'images_per_second': 90.0,
              'data_wait_share': 0.01} for n, loss in enumerate(log['losses'])]
    lines += [{'kind': 'epoch', 'epoch': epoch, 'rank': 0, 'host': 'node1', 'seconds': 10.0, 'data_wait': 0.5,
               'step': 8.0, 'evaluation': 1.0, 'score_wait': 0.25, 'checkpoint': 0.1} for epoch in (1, 2)]
    lines += [{'kind': 'evaluation', 'epoch': epoch, 'metrics': {'bbox': ap}, 'images': log['images'],
               'detections': log['detections'], 'inference_seconds': 1.0, 'scoring_seconds': 0.5}
              for epoch, ap in enumerate(log['ap'], start=1)]
    if log['steady']:
        lines.append({'kind': 'steady_state', 'images_per_second': 88.0, 'data_wait_share': 0.02})
    path.write_text(''.join(json.dumps({'time': now, 'attempt': 0, **line}) + '\n' for line in lines))


@pytest.fixture
def verified_dataset(tmp_path: Path) -> Path:
    """A folder with the manifest of a verified dataset, and nothing else: these tests train nothing."""
    folder = tmp_path / 'dataset'
    folder.mkdir()
    (folder / 'dataset.json').write_text(json.dumps(
        {'fingerprint': FINGERPRINT, 'splits': {'val': {'images': VALIDATION_IMAGES}}}))
    return folder


class Bench:
    """A case of a check, what its job leaves behind, and the judgement on it."""

    def __init__(self, load: LoadCases, dataset: Path) -> None:
        self.load, self.dataset = load, dataset
        self.end_job, self.write_run, self.judge = end_job, write_run, judge

    def smoke(self, **variables: str) -> Any:
        """Return the smoke case of SSD, set up."""
        check, = self.load('ssd.py', generated_dir=str(self.dataset), **variables)
        return check

    def gpu_case(self, recipe: str, **variables: str) -> Any:
        """Return a case of SSD on the GPU partition, set up."""
        checks = self.load('ssd.py', 'gpu', generated_dir=str(self.dataset), data_dir=str(self.dataset), **variables)
        check, = (check for check in checks if check.recipe == recipe)
        return check

    def finished(self, check: Any, **changes: Any) -> Any:
        """Let the job have ended well, after a run that was good but for ``changes``; returns the check."""
        self.write_run(Path(check.stagedir) / 'run_0', check.settings, **changes)
        self.end_job(check)
        return check


@pytest.fixture
def bench(load_cases: LoadCases, verified_dataset: Path) -> Bench:
    return Bench(load_cases, verified_dataset)
