"""Gathering through real gloo processes, and coverage that cannot be short without an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlperf_det.evaluation.gather import CoverageError, check_coverage, gather_rows
from mlperf_det.evaluation.rows import make_rows

#: One rank: for each round, a detection with a mask on each image except the first one seen; prints what it got.
RANK = """
import json, sys
from datetime import timedelta
import numpy as np
import torch.distributed as dist
from mlperf_det.evaluation.gather import CoverageError, gather_rows
from mlperf_det.evaluation.rows import make_rows

rank, store, rounds = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=len(rounds[0]['shares']),
                        timeout=timedelta(seconds=60))
found = []
for given in rounds:
    seen = given['shares'][rank]
    ids = seen[1:]
    rows = make_rows(ids, [rank + 1] * len(ids), np.full((len(ids), 4), float(rank)), [0.5] * len(ids),
                     seen_image_ids=seen, rles=[{'size': [2, 2], 'counts': b'%d' % rank}] * len(ids))
    try:
        got = gather_rows(rows, dist.group.WORLD, expected_image_ids=given['expected'])
        found.append(None if got is None else [
            got.image_ids.tolist(), got.category_ids.tolist(), got.boxes[:, 0].tolist(),
            [rle['counts'].decode() for rle in got.rles], got.seen_image_ids.tolist()])
    except CoverageError as error:
        found.append(str(error))
print(json.dumps(found))
dist.destroy_process_group()
"""


def gather_in_processes(rounds: list[dict[str, Any]], folder: Path) -> list[list[Any]]:
    """Run a process a share, all rounds in each, and return what each rank got in each round."""
    script = folder / 'rank.py'
    script.write_text(RANK)
    processes = [subprocess.Popen([sys.executable, str(script), str(rank), str(folder / 'store'), json.dumps(rounds)],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for rank in range(len(rounds[0]['shares']))]
    found = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        found.append(json.loads(output))
    return found


@pytest.mark.slow
def test_rows_of_all_ranks_reach_rank_0_and_bad_coverage_fails_on_every_rank(tmp_path: Path) -> None:
    first, second, third = gather_in_processes([
        {'shares': [[1, 2, 3], [4], [5, 6]], 'expected': [1, 2, 3, 4, 5, 6]},
        {'shares': [[1, 2], [2, 4], [5]], 'expected': [1, 2, 3, 4, 5]},
        {'shares': [[1], [2], []], 'expected': [1, 2]}], tmp_path)
    assert first[0] == [[2, 3, 6], [1, 1, 3], [0, 0, 2], ['0', '0', '2'], [1, 2, 3, 4, 5, 6]]
    assert (second[0], third[0]) == (None, None)
    assert '1 not inferred (ids 3); 1 inferred more than once (ids 2)' in first[1]
    assert first[1] == second[1] == third[1]
    assert first[2] == [[], [], [], [], [1, 2]]


def test_one_process_is_checked_too() -> None:
    rows = make_rows([], [], [], [], seen_image_ids=[1, 2, 3])
    assert gather_rows(rows, None, expected_image_ids=[3, 2, 1]) is rows
    with pytest.raises(CoverageError, match=r'the 9 images .* 6 not inferred \(ids 4, 5, 6, 7, 8, \.\.\.\)'):
        gather_rows(rows, None, expected_image_ids=range(1, 10))


def test_images_of_another_split_are_named() -> None:
    with pytest.raises(CoverageError, match=r'1 not in the annotation file \(ids 99\)'):
        check_coverage([1, 99], [1])
