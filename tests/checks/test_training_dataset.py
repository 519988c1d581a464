"""The dataset fixture: made once, whole, and safe when sessions start together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from reframe.core.exceptions import SanityError


@pytest.fixture
def dataset(load_cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fixture of the smoke tier with its job script written, for a store of its own and a few scenes."""
    monkeypatch.setenv('MLPERF_DET_CACHE', str(tmp_path / 'store'))
    check, = load_cases('ssd.py', generated_dir='', **{'ssd.dataset.generator_arguments': '--train 8 --val 4'})
    check.dataset._rfm_dry_run = True
    check.dataset.run()
    check.dataset._rfm_dry_run = False
    return check.dataset


def start(dataset: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(['bash', 'rfm_job.sh'], cwd=dataset.stagedir, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def test_sessions_that_start_together_end_up_with_one_whole_dataset(dataset: Any, tmp_path: Path) -> None:
    jobs = [start(dataset), start(dataset)]
    errors = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    assert [path.name for path in (tmp_path / 'store' / 'datasets').iterdir()] == [Path(dataset.root).name]
    assert dataset.verified().evaluation_images == 4
    made = (Path(dataset.root) / 'card.yaml').stat().st_mtime_ns
    assert start(dataset).wait(120) == 0
    assert (Path(dataset.root) / 'card.yaml').stat().st_mtime_ns == made


def test_a_failing_generator_is_red_and_leaves_nothing(dataset: Any, tmp_path: Path) -> None:
    script = Path(dataset.stagedir) / 'rfm_job.sh'
    script.write_text(script.read_text().replace('--val 4', '--val -4'))
    job = start(dataset)
    _, error = job.communicate(timeout=60)
    assert job.returncode != 0
    assert '--val' in error
    assert list((tmp_path / 'store' / 'datasets').iterdir()) == []
    with pytest.raises(SanityError, match='the dataset was not verified'):
        dataset.is_verified().evaluate()


def test_the_name_follows_from_the_content(dataset: Any) -> None:
    first = dataset._key()
    assert dataset._key() == first
    dataset.generator_arguments = '--train 8 --val 4 --seed 2'
    assert dataset._key() != first


def test_a_broken_manifest_is_named(dataset: Any) -> None:
    Path(dataset.root).mkdir(parents=True)
    (Path(dataset.root) / 'dataset.json').write_text('{"fingerprint": 1')
    with pytest.raises(SanityError, match=r'dataset\.json: is no manifest'):
        dataset.is_verified().evaluate()
