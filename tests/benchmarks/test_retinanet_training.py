"""RetinaNet through ``mlperf-det``: Open Images' files made, prepared, verified and trained on, as a user does it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from mlperf_det.cli import main
from mlperf_det.data.openimages.generate import CARD_NAME
from mlperf_det.mllog.compliance import check_log
from mlperf_det.run_folder import Outcome, read_record
from mlperf_det.training.checkpoint import CheckpointStore, read_checkpoint
from tests.benchmarks.training_program import finish, lines, program

EPOCHS = 3
#: 97 of the scenes have objects; the last batch of an epoch is partial
SCENES, STEPS_PER_EPOCH = 101, 49
#: a target that nothing reaches, so that all epochs are trained
SETTINGS = ('local_batch_size=2', 'eval_batch_size=8', f'epochs={EPOCHS}', 'quality_target={bbox: 0.99}',
            'runtime.precision=fp32', 'runtime.loader_workers=0', 'runtime.log_interval=1', 'warmup_epochs=0')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('openimages') / 'scenes'
    assert main(['data', 'generate', CARD_NAME, '--root', str(root), '--train', str(SCENES), '--val', '8', '--seed',
                 '3', '--classes', '1', '--size', '96', '112']) == 0
    for step in ('prepare', 'verify'):
        assert main(['data', step, CARD_NAME, '--root', str(root)]) == 0
    return root


def command(data: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> list[str]:
    assignments = [word for setting in (*SETTINGS, *settings) for word in ('--set', setting)]
    return ['train', 'retinanet', '--recipe', 'smoke', '--data', str(data), '--output', str(output), '--seed', '11',
            '--device', 'cpu', *assignments, *options]


def losses(folder: Path) -> list[float]:
    return [line['loss'] for line in sorted(lines(folder, 'step'), key=lambda line: line['step'])]


@pytest.fixture(scope='module')
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('undisturbed') / 'run'
    status, error = finish(program(command(data, folder)))
    assert status == 3, error
    assert len(losses(folder)) == EPOCHS * STEPS_PER_EPOCH
    return folder


@pytest.mark.slow
def test_a_run_killed_in_epoch_2_and_resumed_ends_as_one_never_killed(
        data: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    process = program(command(data, folder))
    deadline = time.monotonic() + 120
    while not any(line['step'] > STEPS_PER_EPOCH for line in lines(folder, 'step')):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    assert read_record(folder).outcome is Outcome.RUNNING
    assert STEPS_PER_EPOCH < max(line['step'] for line in lines(folder, 'step')) < 2 * STEPS_PER_EPOCH

    status, error = finish(program(command(data, folder, options=('--resume',))))
    assert status == 3, error
    assert [attempt.resumed_from_step for attempt in read_record(folder).attempts] == [None, STEPS_PER_EPOCH]
    mine, theirs = ([(line['epoch'], line['images'], line['detections'], line['numbers'])
                     for line in lines(run, 'evaluation')] for run in (folder, undisturbed))
    assert mine == theirs
    assert len(mine) == EPOCHS
    assert lines(folder, 'evaluation')[-1]['metrics']['bbox'] > 0, 'evaluations without a hit are all alike'
    assert losses(folder) == losses(undisturbed)
    ours, other = (read_checkpoint(CheckpointStore(run).paths()[0]) for run in (folder, undisturbed))
    assert all(torch.equal(ours.model[name], value) for name, value in other.model.items())


@pytest.mark.long
def test_compiled_training_has_the_losses_of_eager_training(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder, steps = tmp_path / 'run', 6
    process = program(command(data, folder, 'runtime.compile=model', f'max_steps={steps}'),
                      TORCHINDUCTOR_CACHE_DIR=str(tmp_path / 'inductor'))
    status, error = finish(process)
    assert status == 0, error
    assert read_record(folder).runtime['compile'] == 'model'
    assert list((tmp_path / 'inductor').rglob('*.so')), 'nothing was compiled'
    assert losses(folder) == pytest.approx(losses(undisturbed)[:steps], rel=2e-3)


@pytest.mark.parametrize(('ruleset', 'name'), [('4.1.0', 'ssd'), ('5.0.0', 'retinanet')])
def test_the_log_of_a_run_passes_the_checker_of_its_round(
        data: Path, tmp_path: Path, ruleset: str, name: str) -> None:
    folder = tmp_path / 'run'
    assert main(command(data, folder, f'ruleset={ruleset}', 'epochs=1', options=('--cache-cleared',))) == 3
    log = folder / 'result_0.txt'
    assert f'"submission_benchmark", "value": "{name}"' in log.read_text()
    result = check_log(log, ruleset, benchmark=name, division='open')
    assert result.findings == ()


class TestRefusals:
    @pytest.mark.parametrize(('setting', 'message'), [
        ('runtime.decoder=gpu', 'runtime.decoder gpu needs a GPU'),
        ('runtime.cuda_graph=true', 'runtime.cuda_graph needs a GPU')])
    def test_what_the_machine_cannot_do_is_refused_before_the_clock_starts(
            self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str) -> None:
        assert main(command(data, tmp_path / 'run', setting)) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / 'run' / 'run.json').exists()

    def test_an_image_damaged_since_it_was_verified_ends_the_run_with_its_name(
            self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        image = min((data / 'train' / 'data').iterdir())
        whole = image.read_bytes()
        image.write_bytes(whole[:len(whole) // 2])
        try:
            assert main(command(data, tmp_path / 'run')) == 2
        finally:
            image.write_bytes(whole)
        assert f'{image.name}: is not a readable image' in capsys.readouterr().err
        record = read_record(tmp_path / 'run')
        assert record.outcome is Outcome.FAILED
        assert image.name in record.reason
        assert 'run_stop' not in (tmp_path / 'run' / 'result_0.txt').read_text()

    def test_annotations_changed_since_they_were_verified_are_refused(
            self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = data / 'train' / 'labels' / 'openimages-mlperf.json'
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b'"category_id": 0', b'"category_id": 1'))
        columns = path.with_name(path.name + '.columns.safetensors')
        columns.unlink()  # they state what they were made from, so with them the damage would not matter
        try:
            assert main(command(data, tmp_path / 'run')) == 2
        finally:
            path.write_bytes(whole)
        assert 'changed since the dataset was verified' in capsys.readouterr().err

    def test_a_frozen_model_does_not_converge(self, data: Path, tmp_path: Path) -> None:
        assert main(command(data, tmp_path / 'run', 'base_learning_rate=1e-30', 'quality_target={bbox: 0.01}',
                            'epochs=1')) == 3
        assert read_record(tmp_path / 'run').outcome is Outcome.ABORTED
