"""``python -m tests.perf.full_openimages``: the conversion of the whole training split, by hand, as it takes minutes.

Writes 2.3 GB of CSV with random content (kept below ``--root``), converts them, prints seconds and memory.
Image headers are not part of it: `bench_openimages` measures them. Exit status 1: over 60 seconds or 8 GiB.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import sys
import time
from pathlib import Path

import numpy as np

from mlperf_det.data.openimages.boxes import read_subset
from mlperf_det.data.openimages.coco_json import write_annotations
from tests.perf.openimages_files import write_openimages

MOST_SECONDS, MOST_GIB = 60, 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', type=Path, required=True, help='folder for 6 GB of files')
    parser.add_argument('--scale', type=float, default=1.0, help='share of the real size')
    parser.add_argument('--workers', type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    card_file = args.root / 'card.pickle'
    if not card_file.exists():
        # A process of its own, so that its memory is not counted.
        if (process := os.fork()) == 0:
            card_file.parent.mkdir(parents=True, exist_ok=True)
            content = pickle.dumps(write_openimages(args.root, args.scale))
            card_file.write_bytes(content)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
    card = pickle.loads(card_file.read_bytes())  # noqa: S301 - written above
    split = card.splits['train']
    began, cpu = time.perf_counter(), time.process_time()
    subset = read_subset(card, split, args.root)
    sizes = np.random.default_rng(0).integers(600, 1025, (len(subset.image_ids), 2)).astype(np.int32)
    write_annotations(args.root / split.annotations, card.title, card.classes, subset, sizes, workers=args.workers)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'{len(subset.image_ids):,} images, {len(subset.boxes):,} boxes: {seconds:.1f} s, {cpu:.1f} CPU s, '
          f'{gib:.1f} GiB, {(args.root / split.annotations).stat().st_size / 1e9:.2f} GB written')
    return int(seconds > MOST_SECONDS or gib > MOST_GIB)


if __name__ == '__main__':
    sys.exit(main())
