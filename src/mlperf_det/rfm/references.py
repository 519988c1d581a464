"""What a metric is held against here: the site's references in the form in which ReFrame checks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_det.recipes.recipe import Recipe
from mlperf_det.results.references.table import PRECISIONS, Lookup, References, load_references
from mlperf_det.rfm.metrics import ACCURACIES, Metric

#: (value, lower bound, upper bound, unit), bounds as fractions of the value, None: unbounded
Bounds = tuple[float, float | None, float | None, str]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What references are kept by.

    Attributes:
        file: the site's references; None: it has none.
        accelerator: product name in the spelling of references, e.g. ``H100-SXM5-80GB``.
        nodes: nodes of the run.
        precision: of the run; None: not known before it runs, so any counts.
    """

    file: Path | None
    accelerator: str
    nodes: int
    precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The references of one case: metric -> bounds, and what is missing (empty where nothing is)."""

    bounds: dict[str, Bounds]
    missing: str = ''


def find(recipe: Recipe, metrics: Sequence[Metric], place: Place) -> Found:
    """Look up every metric; accuracies are held against the quality target of the recipe.

    Raises:
        UserError: the site's references cannot be read.
    """
    known = load_references(place.file) if place.file else None
    bounds: dict[str, Bounds] = {}
    missing = []
    for metric in metrics:
        target = recipe.quality_target.get(ACCURACIES.get(metric.name, ''), 0.0)
        if target > 0:
            bounds[metric.name] = (target, 0.0, None, metric.unit)
            continue
        lookup = _look_up(known, recipe, metric, place)
        if lookup.reference is not None and not lookup.reason:
            bounds[metric.name] = to_bounds(lookup)
        elif not metric.informative:
            missing.append(lookup.reason)
    return Found(bounds=bounds, missing='; '.join(missing))


def to_bounds(lookup: Lookup) -> Bounds:
    """Return a reference as ReFrame wants it: the range as fractions of the value, the lower one at least -1."""
    assert lookup.reference is not None
    value = lookup.reference.value
    lower = None if lookup.lower is None else max(-1.0, lookup.lower / value - 1)
    upper = None if lookup.upper is None else lookup.upper / value - 1
    return (value, lower, upper, lookup.reference.unit)


def _look_up(known: References | None, recipe: Recipe, metric: Metric, place: Place) -> Lookup:
    if known is None:
        return Lookup(reference=None, reason=(
            f'the site has no references.yaml, so {metric.name} of {recipe.benchmark} on {place.nodes} node(s) of '
            f'{place.accelerator} has no reference'))
    lookups = [known.lookup(recipe.benchmark, place.accelerator, place.nodes, precision, metric.name)
               for precision in ([place.precision] if place.precision else PRECISIONS)]
    return next((lookup for lookup in lookups if lookup.reference), lookups[0])
