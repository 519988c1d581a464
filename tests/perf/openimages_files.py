"""Writes files of the size and form of Open Images' own, with random content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mlperf_det.data.cards import OpenImagesCard, OpenImagesSplit, load_card
from mlperf_det.data.openimages.boxes import FLAGS

#: of the training split of Open Images V6
ROWS, IMAGES, CLASSES = 14_610_229, 1_743_042, 601
#: Share of images whose boxes are all of other classes: 1,170,301 of 1,743,042 stay.
_FOREIGN_SHARE = 1 - 1_170_301 / IMAGES
_ROWS_AT_ONCE = 500_000


def write_openimages(root: Path, scale: float) -> OpenImagesCard:
    """Write the CSV files of a training split at a share of its real size; return a card for it.

    Rows are in the order of the image ids with 20 columns of the published widths; boxes of one image stay together.
    """
    rng = np.random.default_rng(7)
    card = load_card('openimages-mlperf')
    assert isinstance(card, OpenImagesCard)
    folder = root / 'train'
    for name in ('metadata', 'labels', 'data'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    listed = [each.mid for each in card.classes]
    others = [f'/m/0x{number:04d}' for number in range(CLASSES - len(listed))]
    lines = [f'{each.mid},{each.name}\n' for each in card.classes] + [f'{mid},Other {mid}\n' for mid in others]
    (folder / 'metadata' / 'classes.csv').write_text(''.join(lines))
    images, rows = int(IMAGES * scale), int(ROWS * scale)
    ids = np.sort(rng.integers(0, 1 << 63, images, dtype=np.uint64))
    names = pl.Series('ImageID', [f'{number:016x}' for number in ids.tolist()])
    boxes_of = 1 + rng.multinomial(rows - images, np.full(images, 1 / images))
    foreign = rng.random(images) < _FOREIGN_SHARE
    image_of_row = np.repeat(np.arange(images), boxes_of)
    with (folder / 'labels' / 'detections.csv').open('wb') as stream:
        for start in range(0, rows, _ROWS_AT_ONCE):
            rows_here = image_of_row[start:start + _ROWS_AT_ONCE]
            _boxes(names.gather(rows_here), foreign[rows_here], listed, others, rng).write_csv(
                stream, include_header=start == 0, float_precision=6)
    pl.DataFrame({'ImageID': names}).with_columns(
        Subset=pl.lit('train'), OriginalURL=pl.lit('https://farm1.staticflickr.com/5615/15335861457_ec2be7a54a_o.jpg'),
        License=pl.lit('https://creativecommons.org/licenses/by/2.0/'), Author=pl.lit('A name, with a comma'),
        Title=pl.lit('28 Feb "2014" 007'), OriginalSize=pl.lit(8_079_166),
        OriginalMD5=pl.lit('fixA5zYXVSBQ2zFqyHlzEg=='),
    ).write_csv(folder / 'metadata' / 'image_ids.csv')
    split = OpenImagesSplit(
        images='train/data', annotations='train/labels/openimages-mlperf.json', image_count=images,
        annotated_image_count=None, annotation_count=None, boxes='train/labels/detections.csv',
        class_list='train/metadata/classes.csv', image_list='train/metadata/image_ids.csv')
    return OpenImagesCard(name='openimages-scaled', kind='openimages', title='Random boxes', licence={}, categories=264,
                          splits={'train': split}, classes=card.classes)


def _boxes(names: pl.Series, foreign: np.ndarray, listed: list[str], others: list[str], rng: np.random.Generator
           ) -> pl.DataFrame:
    rows = len(names)
    label = np.where(foreign | (rng.random(rows) < 0.1), rng.choice(others, rows), rng.choice(listed, rows))
    x, y = np.sort(rng.random((2, rows, 2)), axis=2)
    flags = (rng.random((rows, 5)) < 0.15).astype(np.int8)
    clicks = rng.random((rows, 8))
    return pl.DataFrame({
        'ImageID': names, 'Source': pl.repeat('xclick', rows, eager=True), 'LabelName': label,
        'Confidence': pl.repeat(1, rows, eager=True),
        'XMin': x[:, 0], 'XMax': x[:, 1], 'YMin': y[:, 0], 'YMax': y[:, 1],
        **{name: flags[:, place] for place, name in enumerate(FLAGS)},
        **{f'XClick{axis}{number}': clicks[:, number - 1 + 4 * (axis == 'Y')]
           for axis in 'XY' for number in range(1, 5)}})
