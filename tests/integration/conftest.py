"""The Slurm cluster, and ReFrame sessions on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The modules of this folder are of no use to other tests.
sys.path.insert(0, str(Path(__file__).parent))

from base_root import PACKAGES_INSIDE, SITE_PACKAGES
from needs import require
from sessions import PATIENCE, Suite
from slurm_cluster import NEEDS, SlurmCluster, left_behind, traces, wait_for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, and give it time: the machine may be busy."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.timeout(2 * PATIENCE))


@pytest.fixture(scope='session')
def cluster() -> Iterator[SlurmCluster]:
    """Two Slurm nodes with accounting; gone without a trace at the end, else an error."""
    require(*NEEDS)
    before = traces()
    with SlurmCluster({SITE_PACKAGES: PACKAGES_INSIDE}) as running:
        yield running
    # The kernel takes down links and loop devices on its own time.
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not left_behind(before), 10, 'no trace of the cluster is left')
    assert not left_behind(before)


@pytest.fixture(scope='session')
def dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sessions share the generated dataset."""
    return tmp_path_factory.mktemp('datasets')


@pytest.fixture
def suite(cluster: SlurmCluster, dataset_cache: Path, tmp_path: Path) -> Iterator[Suite]:
    """Start ReFrame sessions on the cluster; each test gets idle nodes and leaves idle nodes."""
    cluster.wait_until_idle()
    started = Suite(cluster, dataset_cache, tmp_path)
    yield started
    for session in started.sessions:
        session.process.kill()
        session.process.wait()
    jobs = [job for job, _, _ in cluster.jobs()]
    if jobs:
        cluster.run('scancel', *jobs)
