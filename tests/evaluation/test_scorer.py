"""The scoring process: same numbers, never in the way, never silent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlperf_det.errors import UserError
from mlperf_det.evaluation.coco import score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.rows import empty_rows, make_rows
from mlperf_det.evaluation.scorer import AsyncScorer, ScorerError

TIMEOUT = 60.0


@pytest.fixture
def case(nasty_case: Callable[..., Any]) -> Any:
    return next(c for seed in range(50) if len((c := nasty_case(seed, masks=True)).rows) > 50)


def test_scores_arrive_in_order_and_equal_those_computed_here(case: Any) -> None:
    truth = read_ground_truth(case.annotations)
    with AsyncScorer(case.annotations, ['bbox', 'segm'], list(truth.category_names), niceness=5) as scorer:
        assert scorer.poll() is None
        scorer.submit(5, case.rows)
        scorer.submit(10, empty_rows(masks=True))
        first, second = scorer.wait(TIMEOUT), scorer.wait(TIMEOUT)
        assert scorer.pending == 0
        assert scorer.poll() is None
    assert (first.epoch, second.epoch) == (5, 10)
    assert first.summaries == score(truth, case.rows, ['bbox', 'segm'])
    assert second.summaries['bbox'].AP == 0.0
    assert first.seconds > 0


def test_poll_finds_the_score_without_blocking(case: Any) -> None:
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, case.rows)
        deadline = time.monotonic() + TIMEOUT
        while (scored := scorer.poll()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert scored.epoch == 1


def test_submit_does_not_wait_for_the_worker(case: Any) -> None:
    rows = make_rows(np.full(500_000, case.rows.image_ids[0]), np.full(500_000, case.rows.category_ids[0]),
                     np.ones((500_000, 4)), np.ones(500_000), seen_image_ids=[])
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        started = time.perf_counter()
        for epoch in range(4):
            scorer.submit(epoch, rows)
        took = time.perf_counter() - started
        scored = [scorer.wait(TIMEOUT) for _ in range(4)]
    assert [s.epoch for s in scored] == [0, 1, 2, 3]
    assert took < sum(s.seconds for s in scored) / 2


def test_wrong_detections_raise_what_scoring_here_would(case: Any) -> None:
    rows = make_rows([10**7], [1], [[0, 0, 1, 1]], [0.5], seen_image_ids=[])
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, rows)
        with pytest.raises(UserError, match='another image_id than'):
            scorer.wait(TIMEOUT)


def test_wrong_annotations_and_categories_show_at_the_first_look(case: Any, tmp_path: Path) -> None:
    for path, categories, message in (
            (tmp_path / 'absent.json', [], 'absent.json: cannot be read'),
            (case.annotations, [10**6], '1 category ids of the dataset are not in it, first 1000000')):
        with AsyncScorer(path, ['bbox'], categories) as scorer:
            scorer.submit(1, case.rows)
            with pytest.raises(UserError, match=message):
                scorer.wait(TIMEOUT)


def test_an_unforeseen_error_brings_its_traceback(case: Any) -> None:
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, case.rows)
        scorer.wait(TIMEOUT)
        assert scorer._connection is not None
        scorer._pending += 1
        scorer._connection.send_bytes(b'\1' * 8)
        scorer._connection.send_bytes(b'no packed rows')
        with pytest.raises(ScorerError, match=r'(?s)failed:\nTraceback.*rows\.py.*unpack'):
            scorer.wait(TIMEOUT)


def test_a_killed_worker_is_reported(case: Any) -> None:
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, case.rows)
        scorer.wait(TIMEOUT)
        assert scorer._process is not None
        os.kill(scorer._process.pid or 0, signal.SIGKILL)
        scorer.submit(2, case.rows)
        with pytest.raises(ScorerError, match=r'died \(exit status -9\) with 1 evaluations pending'):
            scorer.wait(TIMEOUT)


def test_signals_of_a_scheduler_leave_the_worker_alone(case: Any) -> None:
    with AsyncScorer(case.annotations, ['bbox'], []) as scorer:
        scorer.submit(1, case.rows)
        scorer.wait(TIMEOUT)
        assert scorer._process is not None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(scorer._process.pid or 0, number)
        scorer.submit(2, case.rows)
        assert scorer.wait(TIMEOUT).epoch == 2


def test_misuse_is_told(case: Any) -> None:
    scorer = AsyncScorer(case.annotations, ['bbox'], [])
    with pytest.raises(RuntimeError, match=r'call start\(\) first'):
        scorer.submit(1, case.rows)
    with scorer:
        with pytest.raises(ScorerError, match='no evaluation has been submitted'):
            scorer.wait(1)
        with pytest.raises(RuntimeError, match='started already'):
            scorer.start()
    scorer.close()


def test_an_interpreter_that_forgets_to_close_ends_at_once(case: Any, tmp_path: Path) -> None:
    script = tmp_path / 'forgetful.py'
    script.write_text(
        'import sys\nfrom pathlib import Path\n'
        'from mlperf_det.evaluation.rows import empty_rows\nfrom mlperf_det.evaluation.scorer import AsyncScorer\n'
        'if __name__ == "__main__":\n'
        '    scorer = AsyncScorer(Path(sys.argv[1]), ["bbox"], [])\n    scorer.start()\n'
        '    scorer.submit(1, empty_rows())\n    scorer.wait(60)\n    print(scorer._process.pid)\n'
        '    scorer.submit(2, empty_rows())\n')
    command = [sys.executable, str(script), str(case.annotations)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, '')
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_worker_whose_training_was_killed_ends_quietly(case: Any, tmp_path: Path) -> None:
    script = tmp_path / 'killed.py'
    script.write_text(
        'import os, sys, time\nfrom pathlib import Path\nimport numpy as np\n'
        'from mlperf_det.evaluation.rows import make_rows\nfrom mlperf_det.evaluation.scorer import AsyncScorer\n'
        'if __name__ == "__main__":\n'
        '    image, category, count = int(sys.argv[2]), int(sys.argv[3]), 500_000\n'
        '    rows = make_rows(np.full(count, image), np.full(count, category), np.ones((count, 4)), np.ones(count),\n'
        '                     seen_image_ids=[])\n'
        '    scorer = AsyncScorer(Path(sys.argv[1]), ["bbox"], [])\n    scorer.start()\n'
        '    scorer.submit(1, rows)\n    scorer.wait(60)\n'
        '    scorer.submit(2, rows)\n    time.sleep(0.2)\n    os._exit(9)\n')
    command = [sys.executable, str(script), str(case.annotations), str(case.rows.image_ids[0]),
               str(case.rows.category_ids[0])]
    # Returns when the worker has ended too: it holds the other end of the same pipes.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (9, '')
