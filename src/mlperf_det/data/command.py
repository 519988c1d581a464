"""``mlperf-det data``: download, prepare, verify and generate datasets; fetch backbone weights."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from mlperf_det.errors import UserError

if TYPE_CHECKING:
    from mlperf_det.data.cards import Card, OpenImagesCard
    from mlperf_det.data.verify import Verification


class _LazyParser(argparse.ArgumentParser):
    """A parser that gets its arguments when it is used, so that help stays quick."""

    add_late: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self.add_late is not None:
            add_late, self.add_late = self.add_late, None
            add_late(self)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(dest='action', metavar='ACTION', required=True, parser_class=_LazyParser)

    action = _add(actions, 'download', 'fetch, check and unpack a dataset', _run_by_kind)
    _add_dataset(action)
    action.add_argument('--split', action='append', default=[], help='fetch only what this split needs (repeatable)')
    action.add_argument('--file', action='append', default=[], help='fetch this file of the card alone (repeatable)')
    action.add_argument('--mirror', metavar='URL', help='folder with the same files: http, https or file address')
    action.add_argument('--keep-archives', action='store_true', help='keep the archives after unpacking them')
    action.add_argument('--connections', type=_positive, default=16, metavar='N',
                        help='images fetched at a time, where a dataset has no archives (default %(default)s)')

    action = _add(actions, 'prepare', 'make the annotation files that training reads', _run_by_kind)
    _add_dataset(action)
    action.add_argument('--keep-keys', action=argparse.BooleanOptionalAction, default=True,
                        help='keep all annotation keys; without, those of the training split are cut to four')
    _add_pretty(action)
    _add_workers(action)

    action = _add(actions, 'prepare-json', 'trim one COCO annotation file', _prepare_json)
    action.add_argument('input', type=Path, help='original annotation file')
    action.add_argument('output', type=Path, help='trimmed annotation file')
    action.add_argument('-k', '--keep-keys', action='store_true',
                        help='keep all annotation keys (needed for scoring); without, four remain')
    _add_pretty(action)

    action = _add(actions, 'verify', 'check a dataset against its card and write its manifest', _run_by_kind)
    _add_dataset(action)
    action.add_argument('--quick', action='store_true', help='read the headers of images instead of decoding them')
    action.add_argument('--split', action='append', default=[], help='verify only this split (repeatable)')
    action.add_argument('--json', action='store_true', help='print the result as JSON')
    _add_workers(action)

    action = _add(actions, 'backbone', 'fetch or check backbone weights, export their arrays', _backbone)
    action.add_argument('name', help='resnet34, resnext50 or r50-msra')
    action.add_argument('--output', type=Path, required=True, metavar='DIR', help='folder for the weights')
    origin = action.add_mutually_exclusive_group()
    origin.add_argument('--from', dest='source', type=Path, metavar='FILE', help='a local file instead of a download')
    origin.add_argument('--mirror', metavar='URL', help='folder with the same file: http, https or file address')
    action.add_argument('--export', choices=('npz', 'safetensors'), help='also write the arrays in this form')

    action = _add(actions, 'generate', 'render a synthetic dataset', _generate)
    action.add_late = _add_generate_arguments


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand; 1: the dataset is not as its card states."""
    try:
        return int(args.run_action(args))
    except BrokenPipeError:
        raise  # the reader of our output has gone
    except OSError as error:
        raise UserError(f'{error.filename or args.action}: {error.strerror or error}; is the folder one that can be '
                        'written, with room?') from error


def _add(actions: Any, name: str, text: str, function: Callable[[argparse.Namespace], int]) -> _LazyParser:
    parser: _LazyParser = actions.add_parser(name, help=text, description=text)
    parser.set_defaults(run_action=function)
    return parser


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', help='dataset card, e.g. coco2017')
    parser.add_argument('--root', type=Path, required=True, metavar='DIR', help='folder of the dataset')


def _add_pretty(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('-p', '--pretty-print', action='store_true', help='indent the output by 4')


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--workers', type=_positive, default=len(os.sched_getaffinity(0)), metavar='N',
                        help='processes (default: the CPUs of this process, %(default)s)')


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is not a positive number')
    return value


def _run_by_kind(args: argparse.Namespace) -> int:
    """Load the card and hand over to what its kind of dataset does for the action."""
    from mlperf_det.data.cards import load_card

    card = load_card(args.name, args.root)
    function = _BY_KIND.get((card.kind, args.action))
    if function is None:
        raise UserError(f'{card.name}: datasets of kind {card.kind!r} have no `data {args.action}`')
    return function(card, args)


def _download_coco(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.download import download

    download(card, args.root, splits=args.split, files=args.file, mirror=args.mirror,
             keep_archives=args.keep_archives, report=_say)
    return 0


def _prepare_coco(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.prepare_coco import prepare_coco

    for trimmed in prepare_coco(card, args.root, keep_keys=args.keep_keys, pretty=args.pretty_print,
                                workers=args.workers):
        _say(f'{trimmed.path}: {trimmed.images} images, {trimmed.annotations} boxes')
    return 0


def _prepare_json(args: argparse.Namespace) -> int:
    from mlperf_det.data.prepare_coco import trim

    trimmed = trim(args.input, args.output, keep_keys=args.keep_keys, pretty=args.pretty_print)
    _say(f'images: {trimmed.images}\nboxes: {trimmed.annotations}')
    return 0


def _verify_coco(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.verify import verify_coco

    result = verify_coco(card, args.root, quick=args.quick, workers=args.workers, splits=args.split)
    return _say_verification(result, args)


def _download_openimages(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.openimages.download import download_openimages

    download_openimages(_openimages(card), args.root, splits=args.split, files=args.file, mirror=args.mirror,
                        connections=args.connections, report=_say)
    return 0


def _prepare_openimages(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.openimages.prepare import prepare_openimages

    for prepared in prepare_openimages(_openimages(card), args.root, workers=args.workers, report=_say):
        counts = '' if prepared.images is None else f', {prepared.images:,} images, {prepared.boxes:,} boxes'
        _say(f'{prepared.path}: {prepared.action}{counts}')
    return 0


def _verify_openimages(card: Card, args: argparse.Namespace) -> int:
    from mlperf_det.data.openimages.verify import verify_openimages

    result = verify_openimages(_openimages(card), args.root, quick=args.quick, workers=args.workers, splits=args.split)
    return _say_verification(result, args)


def _openimages(card: Card) -> OpenImagesCard:
    from mlperf_det.data.cards import OpenImagesCard

    assert isinstance(card, OpenImagesCard)  # by its kind
    return card


def _say_verification(result: Verification, args: argparse.Namespace) -> int:
    _say(_as_json(result) if args.json else _as_text(result))
    return 1 if result.problems else 0


def _backbone(args: argparse.Namespace) -> int:
    from mlperf_det.data.backbone import export_backbone, obtain_backbone

    found = obtain_backbone(args.name, args.output, source=args.source, mirror=args.mirror)
    _say(f'{found.path}: {found.published_as}, SHA-256 {found.sha256}')
    if args.export:
        _say(str(export_backbone(found, args.output, args.export)))
    return 0


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    from mlperf_det.data.scenes.dataset import add_generate_arguments

    add_generate_arguments(parser)


def _generate(args: argparse.Namespace) -> int:
    from mlperf_det.data.scenes.dataset import run_generate

    return int(run_generate(args))


def _as_text(result: Verification) -> str:
    lines = [f'notice: {finding}' for finding in result.notices] + [f'WRONG: {finding}' for finding in result.problems]
    if result.problems:
        lines.append(f'{result.card} in {result.root}: NOT VERIFIED, {len(result.problems)} kinds of problems')
    else:
        counts = ', '.join(f'{name} {split.images:,} images {split.annotations:,} annotations'
                           for name, split in result.splits.items())
        lines.append(f'{result.card} in {result.root}: verified, {counts}; {result.fingerprint}')
    return '\n'.join(lines)


def _as_json(result: Verification) -> str:
    content = {'verified': not result.problems, **msgspec.to_builtins(result, enc_hook=str)}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _say(line: str) -> None:
    sys.stdout.write(f'{line}\n')


#: (kind of dataset, action) -> what does it
_BY_KIND: Mapping[tuple[str, str], Callable[[Card, argparse.Namespace], int]] = MappingProxyType({
    ('coco', 'download'): _download_coco,
    ('coco', 'prepare'): _prepare_coco,
    ('coco', 'verify'): _verify_coco,
    ('openimages', 'download'): _download_openimages,
    ('openimages', 'prepare'): _prepare_openimages,
    ('openimages', 'verify'): _verify_openimages,
})
