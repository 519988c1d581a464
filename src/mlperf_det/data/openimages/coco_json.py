"""Writing the COCO form of an Open Images subset: millions of boxes to text in native code, not record by record.

The form is that of the MLPerf RetinaNet reference (FiftyOne's COCO export, then ``iscrowd`` set from ``IsGroupOf``):
separators, key order and numbers are what Python's ``json.dump`` writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlperf_det.data.bounded_map import bounded_map
from mlperf_det.data.cards import ObjectClass
from mlperf_det.data.openimages.boxes import FLAGS, SubsetBoxes
from mlperf_det.data.progress import Progress

#: Part of ``info.description``: how a file of ours is told from an export of another program.
MADE_BY = 'converted by mlperf-det'
#: Rows that become text at once; some 40 MB of memory a worker. Does not show in the file.
_CHUNK = 1 << 15
#: Below this, polars (0.00001) and Python (1e-05) write numbers in different ways.
_TINY = 1e-4


def write_annotations(path: Path, title: str, classes: Sequence[ObjectClass], subset: SubsetBoxes,
                      sizes: NDArray[np.int32], *, workers: int = 1) -> None:
    """Write ``images``, ``annotations`` and ``categories`` of a subset; the bytes do not depend on ``workers``.

    Image and annotation ids count from 1, category ids from 0. ``bbox`` is XMin * W, YMin * H, (XMax - XMin) * W,
    (YMax - YMin) * H in pixels, not rounded; ``area`` is its width * height; flags are true where they are not 0, also
    where they are -1, unknown; ``iscrowd`` is ``IsGroupOf``.

    Args:
        path: the file, which appears complete or not at all.
        title: of the dataset, for the file's ``info``.
        classes: in the order of their category ids.
        subset: images and boxes.
        sizes: (I, 2) int32, height and width of each image in pixels.
        workers: threads.

    Raises:
        OSError: the file cannot be written.
    """
    info = {'year': '', 'version': '', 'description': f'{title}, {MADE_BY}', 'contributor': '', 'url': '',
            'date_created': ''}
    categories = [{'id': index, 'name': each.name, 'supercategory': None} for index, each in enumerate(classes)]
    images = pl.DataFrame({'name': subset.image_ids, 'height': sizes[:, 0], 'width': sizes[:, 1]})
    temporary = path.with_name(f'.{path.name}.part')
    try:
        with (temporary.open('wb') as stream, Progress(path.name, len(images) + len(subset.boxes), 'records') as bar,
              ThreadPoolExecutor(workers) as pool):
            stream.write(f'{{"info": {json.dumps(info)}, "licenses": [], "categories": {json.dumps(categories)}, '
                         '"images": ['.encode())
            _write_records(stream, pool, workers, bar, _image_text, images)
            stream.write(b'], "annotations": [')
            _write_records(stream, pool, workers, bar, lambda rows, first: _box_text(rows, first, sizes), subset.boxes)
            stream.write(b']}')
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_records(stream: IO[bytes], pool: ThreadPoolExecutor, workers: int, bar: Progress,
                   to_text: Callable[[pl.DataFrame, int], bytes], table: pl.DataFrame) -> None:
    """Write the records of a table, made chunk by chunk on all workers, in order."""
    starts = range(0, len(table), _CHUNK)
    texts = bounded_map(pool, lambda start: to_text(table.slice(start, _CHUNK), start + 1), starts, ahead=workers + 1)
    for start, text in zip(starts, texts, strict=True):
        stream.write(b', ' * (start > 0) + text)
        bar.advance(min(_CHUNK, len(table) - start))


def _image_text(rows: pl.DataFrame, first: int) -> bytes:
    return _joined(rows.with_row_index('id', first), [
        '{"id": ', 'id', ', "file_name": "', 'name', '.jpg", "height": ', 'height', ', "width": ', 'width',
        ', "license": null, "coco_url": null}'])


def _box_text(rows: pl.DataFrame, first: int, sizes: NDArray[np.int32]) -> bytes:
    of_image = sizes[rows['image'].to_numpy()].astype(np.float64)
    height, width = pl.lit(pl.Series(of_image[:, 0])), pl.lit(pl.Series(of_image[:, 1]))
    numbers = rows.select(
        x=pl.col('XMin') * width, y=pl.col('YMin') * height, w=(pl.col('XMax') - pl.col('XMin')) * width,
        h=(pl.col('YMax') - pl.col('YMin')) * height).with_columns(area=pl.col('w') * pl.col('h'))
    texts = [_as_python(numbers[name]) for name in ('x', 'y', 'w', 'h', 'area')]
    combination = rows.select(pl.sum_horizontal(
        (pl.col(flag) != 0).cast(pl.UInt8) * (1 << place) for place, flag in enumerate(FLAGS))).to_series()
    table = rows.select('category', image_id=pl.col('image') + 1)
    pieces = ['{"id": ', 'id', ', "image_id": ', 'image_id', ', "category_id": ', 'category', ', "bbox": [', 'x', ', ',
              'y', ', ', 'w', ', ', 'h', '], "area": ', 'area', ', ', 'flags', '}']
    flags = _flag_texts().gather(combination).alias('flags')
    return _joined(table.with_row_index('id', first).hstack([*texts, flags]), pieces)


def _flag_texts() -> pl.Series:
    """Return the text of each combination of flags; bit ``k`` of its place is the ``k``-th flag."""
    return pl.Series([f'"iscrowd": {place >> FLAGS.index("IsGroupOf") & 1}, ' + ', '.join(
        f'"{flag}": {"true" if place >> bit & 1 else "false"}' for bit, flag in enumerate(FLAGS))
        for place in range(1 << len(FLAGS))])


def _as_python(numbers: pl.Series) -> pl.Series:
    """Return the shortest text that reads back as the same number, in the form of Python's ``repr``."""
    text = numbers.cast(pl.String)
    differing = ((numbers.abs() < _TINY) & (numbers != 0)).arg_true()
    if len(differing):
        text = text.scatter(differing, [repr(number) for number in numbers.gather(differing)])
    return text


def _joined(table: pl.DataFrame, pieces: Sequence[str]) -> bytes:
    """Return all rows as text, separated by ', ': literal pieces at even places, names of columns at odd ones."""
    columns = [pl.col(piece) if place % 2 else pl.lit(piece) for place, piece in enumerate(pieces)]
    text: str = table.select(pl.concat_str(columns).str.join(', ')).item()
    return text.encode()
