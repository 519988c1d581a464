"""Open Images' own CSV files: which images belong to a subset, and their boxes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlperf_det.data.cards import ObjectClass, OpenImagesCard, OpenImagesSplit
from mlperf_det.errors import UserError

#: Order of the columns in the file: both x before both y.
CORNERS = ('XMin', 'XMax', 'YMin', 'YMax')
#: 1 yes, 0 no, -1 unknown.
FLAGS = ('IsOccluded', 'IsTruncated', 'IsGroupOf', 'IsDepiction', 'IsInside')
_LISTED = 3
_OTHER_CLASS = -1
_HAS_AREA = (pl.col('XMax') > pl.col('XMin')) & (pl.col('YMax') > pl.col('YMin'))


@dataclass(frozen=True, kw_only=True)
class SubsetBoxes:
    """The images of a subset and their boxes.

    Attributes:
        image_ids: I ids in the order of their text; an image belongs to the subset if it has a listed box.
        boxes: B rows ``image`` (index into ``image_ids``, rising), ``category`` (index into the card's classes),
            XMin, XMax, YMin, YMax (fractions of width and height) and the five flags (-1, 0 or 1). Boxes of one image
            are in the order of the file.
    """

    image_ids: pl.Series
    boxes: pl.DataFrame

    @property
    def unknown_flags(self) -> int:
        """Boxes with a flag that is -1, unknown."""
        return int(self.boxes.select(pl.any_horizontal(pl.col(FLAGS) < 0).sum()).item())


def read_subset(card: OpenImagesCard, split: OpenImagesSplit, root: Path) -> SubsetBoxes:
    """Read the boxes of the listed classes from the CSV of all boxes.

    Raises:
        UserError: a file is absent, cut off or of another form; a listed class is not in the class list, or a box has a
            class that is not; no image is left.
    """
    path = root / split.boxes
    boxes = _read_boxes(path, _category_of_mid(card.classes, root / split.class_list))
    image_ids = boxes['ImageID'].unique()
    _check_image_ids(path, image_ids)
    if split.image_list is not None:
        allowed = _read_image_list(root / split.image_list)
        image_ids = image_ids.filter(image_ids.is_in(allowed.implode()))
    if not len(image_ids):
        raise UserError(f'{path}: has no box of the classes of {card.name}; is it the right file?')
    image_ids = image_ids.sort()
    rows = pl.DataFrame({'ImageID': image_ids, 'image': np.arange(len(image_ids), dtype=np.uint32)})
    boxes = boxes.join(rows, on='ImageID', how='inner', maintain_order='left').drop('ImageID')
    if not boxes['image'].is_sorted():
        boxes = boxes.sort('image', maintain_order=True)
    return SubsetBoxes(image_ids=image_ids, boxes=boxes)


def class_counts(subset: SubsetBoxes, classes: int) -> NDArray[np.int64]:
    """Return how many boxes with an area each class has, (classes,) int64."""
    return np.bincount(subset.boxes.filter(_HAS_AREA)['category'].to_numpy(), minlength=classes)


def group_count(subset: SubsetBoxes) -> int:
    """Return how many boxes with an area are group-of, or not known not to be."""
    return len(subset.boxes.filter(_HAS_AREA & (pl.col('IsGroupOf') != 0)))


def read_class_list(path: Path) -> dict[str, str]:
    """Return machine id -> display name of all classes of a release; a header line is skipped.

    Raises:
        UserError: the file is absent or of another form.
    """
    try:
        with path.open(newline='', encoding='utf-8') as stream:
            rows = [row for row in csv.reader(stream) if row]
    except OSError as error:
        raise UserError(f'{path}: the class list cannot be read ({error.strerror})') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'{path}: is not a class list ({error})') from error
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if wrong is not None or not rows:
        raise UserError(f'{path}: line {wrong or 1}: must be a machine id and a name; fetch the file again')
    return {mid: name for mid, name in rows if mid.startswith('/')}


def renamed_classes(classes: Iterable[ObjectClass], listed: Mapping[str, str]) -> list[str]:
    """Return ``old name -> card's name`` of classes that the release calls otherwise; machine ids decide."""
    return [f'{listed[each.mid]} -> {each.name}' for each in classes if listed.get(each.mid, each.name) != each.name]


def _category_of_mid(classes: Sequence[ObjectClass], path: Path) -> pl.LazyFrame:
    """Return the class list with the category of each class, -1 for those that the card does not list."""
    listed = read_class_list(path)
    absent = [f'{each.mid} ({each.name})' for each in classes if each.mid not in listed]
    if absent:
        raise UserError(f'{path}: lacks {_some(absent)}, which the card lists; fetch the class list of the release '
                        'that the card names')
    categories = {each.mid: index for index, each in enumerate(classes)}
    return pl.LazyFrame({'LabelName': list(listed), 'category': [categories.get(mid, _OTHER_CLASS) for mid in listed]},
                        schema={'LabelName': pl.String, 'category': pl.Int16})


def _read_boxes(path: Path, categories: pl.LazyFrame) -> pl.DataFrame:
    """Return ImageID, category, corners and flags of the boxes of listed classes, in file order."""
    _check_last_line(path)
    types: dict[str, type[pl.DataType]] = {
        'ImageID': pl.String, 'LabelName': pl.String, **dict.fromkeys(CORNERS, pl.Float64),
        **dict.fromkeys(FLAGS, pl.Int8)}
    try:
        table = pl.scan_csv(path, schema_overrides=types)
        absent = set(types) - set(table.collect_schema().names())
        if absent:
            raise UserError(f'{path}: has no column {", ".join(sorted(absent))}; is it the CSV of boxes?')
        boxes = (table.select(list(types)).with_row_index('line', 2)
                 .join(categories, on='LabelName', how='left', maintain_order='left')
                 .filter(pl.col('category').ne_missing(_OTHER_CLASS))
                 .collect(engine='streaming'))
    except pl.exceptions.PolarsError as error:
        raise UserError(f'{path}: is not a CSV of boxes ({str(error).splitlines()[0]})') from error
    unknown = boxes.filter(pl.col('category').is_null())
    if len(unknown):
        labels = [repr(label) for label in unknown['LabelName'].unique(maintain_order=True)]
        raise UserError(f'{path}: line {unknown["line"][0]}: LabelName {_some(labels)} is not in the class list; '
                        'boxes and class list are of two releases, or the file is damaged')
    unusable = [pl.col(*FLAGS, 'ImageID').is_null(), pl.col(CORNERS).is_null(), ~pl.col(CORNERS).is_finite()]
    broken = boxes.filter(pl.any_horizontal(unusable))
    if len(broken):
        raise UserError(f'{path}: line {broken["line"][0]}{_and_more(len(broken))}: a field is empty or not a number; '
                        'the file is damaged, fetch it again')
    return boxes.drop('LabelName', 'line')


def _check_image_ids(path: Path, image_ids: pl.Series) -> None:
    """Image ids become file names and JSON text: letters, digits, '-' and '_' only."""
    strange = image_ids.filter(~image_ids.str.contains('^[0-9A-Za-z_-]+$'))
    if len(strange):
        raise UserError(f'{path}: ImageID {_some([repr(name) for name in strange])} cannot be a file name; '
                        'the file is damaged, fetch it again')


def _check_last_line(path: Path) -> None:
    try:
        with path.open('rb') as stream:
            stream.seek(max(stream.seek(0, 2) - 1, 0))
            last = stream.read(1)
    except OSError as error:
        raise UserError(f'{path}: the CSV of boxes cannot be read ({error.strerror})') from error
    if last != b'\n':
        raise UserError(f'{path}: is empty or ends within a line, so it is cut off; fetch it again')


def _read_image_list(path: Path) -> pl.Series:
    try:
        # Titles of photos are free text in many encodings; only the first column is used.
        return pl.scan_csv(path, schema_overrides={'ImageID': pl.String}, infer_schema=False, encoding='utf8-lossy',
                           truncate_ragged_lines=True).select('ImageID').collect(engine='streaming')['ImageID']
    except FileNotFoundError as error:
        raise UserError(f'{path}: the list of images is absent; download it first') from error
    except pl.exceptions.PolarsError as error:
        raise UserError(f'{path}: is not a list of images ({str(error).splitlines()[0]})') from error


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_LISTED]) + (f' and {len(names) - _LISTED} more' if len(names) > _LISTED else '')


def _and_more(count: int) -> str:
    return f' and {count - 1:,} more' if count > 1 else ''
