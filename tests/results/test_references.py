"""References: read strictly, looked up openly, bounded by their own spread."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlperf_det.errors import UserError
from mlperf_det.results.references.table import load_references
from mlperf_det.results.student_t import student_t_cdf, student_t_quantile

GOOD = """
ssd:
  A100-SXM4-80GB:
    1:
      bf16:
        time_to_train: {value: 500, unit: s, direction: lower, n: 5, spread: 3, date: 2026-03-01,
                        image: "sha256:12", source: {kind: measured, runs: [a, b]}}
        images_per_second: {value: 12000, unit: images/s, direction: higher, n: 5, spread: 60, date: 2026-03-01,
                            source: {kind: published, round: v1.1, submitter: Inspur, system: nf5488a5}}
        epochs_to_target: {value: 50, unit: epochs, direction: lower, n: 1, date: 2026-03-01, source: {kind: measured}}
    2:
      bf16:
        time_to_train: {value: 300, unit: s, direction: lower, n: 0, tolerance: 0.02, date: 2026-03-01,
                        source: {kind: promised, document: offer 17}}
"""
CASE = ('ssd', 'A100-SXM4-80GB', 1, 'bf16')


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / 'references.yaml'
    path.write_text(text)
    return path


def test_bounds_come_from_the_spread(tmp_path: Path) -> None:
    references = load_references(write(tmp_path, GOOD))
    time = references.lookup(*CASE, 'time_to_train')
    width = 3.746947 * 1.2 ** 0.5    # t(0.99, 4) * sqrt(1 + 1/5)
    assert time.reference is not None
    assert (time.reference.value, time.lower, time.reason) == (500, None, '')
    assert time.upper == pytest.approx(500 + 3 * width, rel=1e-6)
    rate = references.lookup(*CASE, 'images_per_second')
    assert (rate.upper, rate.lower) == (None, pytest.approx(12000 - 60 * width, rel=1e-6))


def test_a_promise_is_its_own_bound(tmp_path: Path) -> None:
    found = load_references(write(tmp_path, GOOD)).lookup('ssd', 'A100-SXM4-80GB', 2, 'bf16', 'time_to_train')
    assert found.upper == pytest.approx(306)


def test_one_measurement_gives_no_bound_and_says_so(tmp_path: Path) -> None:
    found = load_references(write(tmp_path, GOOD)).lookup(*CASE, 'epochs_to_target')
    assert found.reference is not None
    assert (found.lower, found.upper) == (None, None)
    assert 'n = 1 without spread' in found.reason


@pytest.mark.parametrize(('key', 'words'), [
    (('maskrcnn', 'A100-SXM4-80GB', 1, 'bf16', 'time_to_train'), 'benchmark maskrcnn is missing, there is ssd'),
    (('ssd', 'H100', 1, 'bf16', 'time_to_train'), 'accelerator H100 is missing, there is A100-SXM4-80GB'),
    (('ssd', 'A100-SXM4-80GB', 4, 'bf16', 'time_to_train'), 'nodes 4 is missing, there is 1, 2'),
    (('ssd', 'A100-SXM4-80GB', 1, 'fp16', 'time_to_train'), 'precision fp16 is missing, there is bf16'),
    (('ssd', 'A100-SXM4-80GB', 2, 'bf16', 'segm_ap'), 'metric segm_ap is missing, there is time_to_train')])
def test_what_is_missing_is_explained(tmp_path: Path, key: tuple[str, str, int, str, str], words: str) -> None:
    found = load_references(write(tmp_path, GOOD)).lookup(*key)
    assert found.reference is None
    assert words in found.reason


@pytest.mark.parametrize(('old', 'new', 'words'), [
    ('ssd:', 'sdd:', "'sdd' is not a benchmark; did you mean 'ssd'?"),
    ('time_to_train: {value: 500', 'time_to_trian: {value: 500', "did you mean 'time_to_train'?"),
    ('      bf16:\n        time', '      bf17:\n        time', "'bf17' is not"),
    ('spread: 3,', 'spraed: 3,', "'spraed' is not a field; did you mean 'spread'?"),
    ('round: v1.1', 'rund: v1.1', "'rund' is not a field; did you mean 'round'?"),
    ('value: 500', 'value: fast', 'Expected `float`, got `str`'),
    ('value: 500', 'value: -5', 'must be positive'),
    ('value: 500', 'value: .nan', 'must be positive'),
    ('unit: s,', 'unit: min,', "time_to_train is given in 's'"),
    ('direction: higher', 'direction: lower', 'higher values are better'),
    ('direction: higher', 'direction: up', 'Invalid enum value'),
    ('spread: 3', 'spread: -3', 'not negative'),
    ('n: 5, spread: 3', 'n: 0, spread: 3', 'at least one run'),
    ('n: 1,', 'n: 1, tolerance: 0.05,', 'tolerance belongs to promised values'),
    (', submitter: Inspur', '', 'needs source.round, source.submitter'),
    (', document: offer 17', '', 'needs source.document'),
    ('date: 2026-03-01,\n                        image', 'date: soon,\n                        image', 'date'),
    ('    2:', '    1:', 'occurs twice'),
    ('    2:', '    two:', 'whole number from 1'),
    (GOOD, '- a list', 'must be a mapping'),
    (GOOD, 'a: [', 'not YAML'),
    (GOOD, '!!python/object/apply:os.system [exit]', 'not YAML'),
])
def test_a_wrong_file_is_refused_with_file_and_field(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_references(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_an_absent_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be read'):
        load_references(tmp_path / 'none.yaml')


def test_an_empty_file_has_no_references(tmp_path: Path) -> None:
    found = load_references(write(tmp_path, '')).lookup(*CASE, 'time_to_train')
    assert found.reference is None
    assert 'no reference' in found.reason


@pytest.mark.parametrize(('probability', 'degrees', 'value'), [
    (0.975, 1, 12.7062047), (0.975, 2, 4.30265273), (0.99, 4, 3.74694739), (0.95, 30, 1.69726089),
    (0.995, 7, 3.49948330), (0.05, 10, -1.81246112)])
def test_quantiles_of_the_published_tables(probability: float, degrees: int, value: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(value, abs=1e-7)
    assert student_t_cdf(value, degrees) == pytest.approx(probability, abs=1e-8)
