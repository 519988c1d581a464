"""``mlperf-det evaluate``: score a COCO result file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from mlperf_det.evaluation.coco import ENGINES, IOU_TYPES, CocoSummary, score
from mlperf_det.evaluation.ground_truth import read_ground_truth
from mlperf_det.evaluation.result_file import read_result_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('--annotations', type=Path, required=True, metavar='A.json', help='COCO annotation file')
    parser.add_argument('--detections', type=Path, required=True, metavar='D.json', help='COCO result file')
    parser.add_argument('--iou-type', choices=IOU_TYPES, required=True, help='score boxes or masks')
    parser.add_argument('--engine', choices=ENGINES, default=ENGINES[0],
                        help='pycocotools is the reference, about 60 times slower; the numbers are equal')
    parser.add_argument('--json', action='store_true', help='print one JSON object with all digits')


def run(args: argparse.Namespace) -> int:
    """Print the twelve COCO numbers and return 0; bad input is a `UserError` (exit status 2)."""
    ground_truth = read_ground_truth(args.annotations)
    rows = read_result_file(args.detections, ground_truth, args.iou_type)
    summary = score(ground_truth, rows, [args.iou_type], engine=args.engine)[args.iou_type]
    if args.json:
        facts = {'iou_type': args.iou_type, 'engine': args.engine, 'annotations': str(args.annotations),
                 'detections': str(args.detections), 'images': len(ground_truth.image_ids),
                 'detection_count': len(rows), 'metrics': summary.numbers()}
        sys.stdout.write(msgspec.json.encode(facts).decode() + '\n')
    else:
        sys.stdout.write(f'{args.iou_type}: {len(rows)} detections on {len(ground_truth.image_ids)} images\n')
        sys.stdout.write(_table(summary))
    return 0


def _table(summary: CocoSummary) -> str:
    return ''.join(f'{name:<9} {"no ground truth" if value < 0 else f"{value:.4f}"}\n'
                   for name, value in summary.numbers().items())
