"""``mlperf-det reference``: proposes a diff, overwrites nothing, and every value says where it comes from."""

from __future__ import annotations

import csv
import datetime
import subprocess
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.results.published import published_result, published_results
from mlperf_det.results.references.edit import with_references
from mlperf_det.results.references.lint import findings
from mlperf_det.results.references.scaled import expect
from mlperf_det.results.references.table import Direction, Reference, ReferenceSource, SourceKind, load_references
from mlperf_det.results.scaling import fit, modelled_reference, published_law
from tests.results.conftest import FolderMaker, log_text

KEPT = '''# ours
ssd:
  # the old machine
  cpu:
    1:
      fp32:
        time_to_train:   # by hand
          value: 70
          unit: s
          direction: lower
          n: 5
          spread: 1
          date: 2026-01-01
          source: {kind: measured, runs: [a]}

# the end
'''


@pytest.mark.shared
def test_the_table_is_what_was_published(shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data.parent / 'spec' / 'published-results.csv').open()))
    assert len(rows) == len(published_results()) == 154
    for row in rows:
        ours = published_result({'ssd300': 'ssd'}.get(row['model'], row['model']), row['accelerator'],
                                int(row['count']))
        assert ours is not None
        assert (ours.best_minutes, ours.median_minutes, ours.round, ours.submitter, ours.system) == (
            float(row['best_minutes']), float(row['median_minutes']), row['best_round'], row['best_submitter'],
            row['best_system'])


def test_every_published_result_is_a_reference_with_provenance(tmp_path: Path) -> None:
    new = {(result.benchmark, result.accelerator, result.accelerators, 'mixed', metric): reference
           for result in published_results() for metric in ('time_to_train', 'images_per_second')
           if (reference := result.reference(metric)) is not None}
    assert len(new) == 2 * 154
    some = dict(list(new.items())[::25])
    path = tmp_path / 'references.yaml'
    path.write_text(with_references('', some, path))
    assert dict(load_references(path).items()) == some
    assert all(reference.source.round and reference.limit() for reference in new.values())


@pytest.mark.parametrize('benchmark', ['ssd', 'retinanet', 'maskrcnn'])
@pytest.mark.parametrize('metric', ['time_to_train', 'images_per_second'])
def test_the_scaling_law_covers_what_it_has_not_seen(benchmark: str, metric: str) -> None:
    """Leave one out: about 95 % of the results lie in the stated interval, and it is no trivial one."""
    results = tuple(result for result in published_results() if result.benchmark == benchmark)
    inside, told = 0, 0
    for result in results:
        found = fit(tuple(other for other in results if other is not result), metric).predict(
            result.accelerator, result.accelerators)
        if found is not None:
            low, high = found.interval()
            told += 1
            inside += low <= (result.median_minutes * 60 if metric == 'time_to_train'
                              else result.images_per_second) <= high
            assert high / low < 6
    assert told > 20
    assert inside / told >= 0.85


def test_modelled_values_are_marked_and_do_not_reach_far() -> None:
    reference = modelled_reference('retinanet', 'H100-SXM5-80GB', 128, 'time_to_train')
    assert reference is not None
    assert reference.source.kind is SourceKind.MODELLED
    assert 'scaling law fitted to published results with 4, 8' in reference.source.note
    assert 130 < reference.value < 372    # between the published values of 512 and 64 accelerators
    law = published_law('retinanet', 'time_to_train')
    assert law.predict('H100-SXM5-80GB', 100_000) is None
    assert law.predict('no such accelerator', 8) is None


@pytest.mark.parametrize('benchmark', ['ssd', 'retinanet', 'maskrcnn'])
@pytest.mark.parametrize('metric', ['time_to_train', 'images_per_second'])
def test_scaling_from_the_nearest_measured_size_covers_what_was_published(benchmark: str, metric: str) -> None:
    """From each published number of accelerators to the next of the same kind, by a law that knows neither."""
    results = tuple(result for result in published_results() if result.benchmark == benchmark)
    inside, told = 0, 0
    for one in results:
        for other in results:
            if one.accelerator != other.accelerator or not 1 < other.accelerators / one.accelerators <= 2:
                continue
            law = fit(tuple(each for each in results if each not in (one, other)), metric)
            before, after = ((each.median_minutes * 60 if metric == 'time_to_train' else each.images_per_second)
                             for each in (one, other))
            low, high = expect(law, before, 0.01 * before, one.accelerators, other.accelerators).interval()
            told += 1
            inside += low <= after <= high
            assert high / low < 6
    assert told > 10
    assert inside / told >= 0.85


def test_what_the_site_measured_is_scaled_to_other_node_counts(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    """An accelerator that nobody published, measured on one node."""
    path = tmp_path / 'references.yaml'
    path.write_text(KEPT.replace('cpu', 'MI300X').replace('fp32', 'bf16'))
    words = ['--modelled', '--accelerator', 'MI300X', '--benchmark', 'ssd', '--nodes', '1,2,16', '--precision', 'bf16']
    apply(tmp_path, propose(tmp_path, capsys, *words))
    known = dict(load_references(path).items())
    assert set(known) == {('ssd', 'MI300X', nodes, 'bf16', 'time_to_train') for nodes in (1, 2)}
    scaled = known['ssd', 'MI300X', 2, 'bf16', 'time_to_train']
    assert scaled.source.kind is SourceKind.MODELLED
    assert 'scaled from 1 measured node(s)' in scaled.source.note
    assert scaled.source.runs == ('a',)
    assert 70 / 2 < scaled.value < 70
    assert scaled.spread is not None
    assert scaled.spread > 2 * 1    # more doubt than in what was measured
    assert main(['reference', 'propose', str(path), *words]) == 0
    assert 'no published value for MI300X on 16 node(s)' in capsys.readouterr().err


def test_what_was_published_comes_before_what_is_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'references.yaml'
    path.write_text(KEPT.replace('cpu', 'A100-SXM4-80GB').replace('fp32', 'mixed').replace('    1:', '    8:'))
    apply(tmp_path, propose(tmp_path, capsys, '--modelled', '--accelerator', 'A100-SXM4-80GB', '--benchmark', 'ssd',
                            '--nodes', '1,5,8,12'))
    kinds = {key[2]: (reference.source.kind.value, reference.source.note.partition(' ')[0])
             for key, reference in load_references(path).items() if key[4] == 'time_to_train'}
    assert kinds == {1: ('published', 'spread'), 5: ('modelled', 'scaled'), 8: ('measured', ''),
                     12: ('modelled', 'scaled')}


def propose(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(['reference', 'propose', str(tmp_path / 'references.yaml'), *words]) == 0
    return capsys.readouterr().out


def apply(tmp_path: Path, diff: str) -> None:
    done = subprocess.run(['patch', '--force', str(tmp_path / 'references.yaml')], input=diff, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_measured_values_are_proposed_as_a_diff_that_applies(make_run: FolderMaker, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    for number, seconds in enumerate((30, 31, 32)):
        make_run(f'runs/run_{number}', log=log_text(epoch_seconds=seconds))
    path = tmp_path / 'references.yaml'
    path.write_text(KEPT)
    proposed = propose(tmp_path, capsys, str(tmp_path / 'runs'))
    assert path.read_text() == KEPT
    assert '-          value: 70' in proposed
    apply(tmp_path, proposed)
    text = path.read_text()
    assert all(line in text for line in ('# ours', '  # the old machine', '# the end'))
    reference = load_references(path).lookup('ssd', 'cpu', 1, 'fp32', 'time_to_train').reference
    assert reference is not None
    assert (reference.value, reference.spread, reference.n) == (93.0, 3.0, 3)
    assert reference.source.runs == tuple(str(tmp_path / 'runs' / f'run_{number}') for number in range(3))
    assert reference.date == datetime.date(2025, 10, 9)
    assert propose(tmp_path, capsys, str(tmp_path / 'runs')) == ''


def test_a_published_value_never_displaces_a_measured_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'references.yaml'
    path.write_text(KEPT.replace('cpu', 'A100-SXM4-80GB').replace('fp32', 'mixed'))
    words = ['--published', '--accelerator', 'A100-SXM4-80GB', '--benchmark', 'ssd', '--nodes', '1,8,64']
    assert main(['reference', 'propose', str(path), *words]) == 0
    out, err = capsys.readouterr()
    assert 'the measured value stays, the published one is left out' in err
    assert 'no published value for A100-SXM4-80GB on 64 node(s)' in err
    assert '-          value: 70' not in out
    assert out.count('+          source: {kind: published, round:') == 3


def test_each_benchmark_without_a_value_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RTX-PRO-6000: eight of them were published with RetinaNet, and with nothing else."""
    assert main(['reference', 'propose', str(tmp_path / 'r.yaml'), '--published', '--accelerator', 'RTX-PRO-6000']) == 0
    out, err = capsys.readouterr()
    assert 'retinanet' in out
    assert [line.split()[1] for line in err.splitlines()] == ['ssd:', 'maskrcnn:']


def test_modelled_and_promised_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acceptance = tmp_path / 'acceptance.yaml'
    acceptance.write_text('promises: [{benchmark: ssd, accelerator: A100-SXM4-80GB, nodes: 3, accelerators_per_node: 8,'
                          ' runs: 5, time_to_train: {value: 4, unit: min, tolerance: 0.1}, document: offer 17}]')
    out = propose(tmp_path, capsys, '--modelled', '--accelerator', 'A100-SXM4-80GB', '--nodes', '2', '--benchmark',
                  'ssd', '--acceptance', str(acceptance))
    assert 'kind: modelled' in out
    assert 'kind: promised, document: offer 17' in out
    (tmp_path / 'references.yaml').write_text('')
    apply(tmp_path, out)
    promised = load_references(tmp_path / 'references.yaml').lookup('ssd', 'A100-SXM4-80GB', 3, 'mixed',
                                                                    'time_to_train')
    assert promised.upper == pytest.approx(264)


def test_proposing_from_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['reference', 'propose', str(tmp_path / 'r.yaml')]) == 2
    assert 'nothing to propose from' in capsys.readouterr().err
    assert main(['reference', 'propose', str(tmp_path / 'r.yaml'), '--published']) == 2
    assert '--accelerator: needed' in capsys.readouterr().err


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'r.yaml').write_text(KEPT)
    assert main(['reference', 'show', str(tmp_path / 'r.yaml')]) == 0
    assert 'measured: a' in capsys.readouterr().out
    assert main(['reference', 'show', '--accelerator', 'L4']) == 0
    assert 'xFusion' in capsys.readouterr().out
    assert main(['reference', 'show', '--accelerator', 'nothing']) == 1


def test_lint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'r.yaml'
    path.write_text(KEPT)
    assert findings(load_references(path), datetime.date(2026, 2, 1)) == []
    old, = findings(load_references(path), datetime.date(2028, 1, 1))
    assert 'more than 400 days ago' in old
    path.write_text(KEPT.replace('spread: 1\n', 'spread: 40\n').replace('runs: [a]', 'runs: []').replace('cpu', 'H100'))
    text = '\n'.join(findings(load_references(path), datetime.date(2025, 2, 1)))
    for words in ('57% of the value', 'lies in the future', 'does not say which runs', "under 'H100-SXM5-80GB'"):
        assert words in text
    path.write_text('')
    assert main(['reference', 'lint', str(path)]) == 1
    assert 'has no reference at all' in capsys.readouterr().out


def test_an_entry_in_braces_is_not_edited(tmp_path: Path) -> None:
    reference = Reference(value=1.0, unit='s', direction=Direction.LOWER, n=1, date=datetime.date(2026, 1, 1),
                          source=ReferenceSource(kind=SourceKind.MEASURED))
    path = tmp_path / 'r.yaml'
    with pytest.raises(Exception, match='is written in braces'):
        with_references('ssd: {cpu: {1: {}}}\n', {('ssd', 'cpu', 1, 'fp32', 'time_to_train'): reference}, path)
