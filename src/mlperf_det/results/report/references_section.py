"""What was measured against references and promises: figures in a table, and how far from the reference in a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mlperf_det.results.performance import JUDGED, Judgement, Standing, amount_text
from mlperf_det.results.references.table import Direction, Reference, SourceKind
from mlperf_det.results.report.figures import percent_text
from mlperf_det.results.report.html import Markup, join, table, tag, two_lines
from mlperf_det.results.report.svg_rows import Dots, dot_chart
from mlperf_det.results.run import Run
from mlperf_det.tables import counted

METRIC_NAMES: Mapping[str, str] = MappingProxyType({
    'time_to_train': 'Time to train', 'images_per_second': 'Throughput'})
_OUTCOMES: Mapping[Standing, tuple[str, str]] = MappingProxyType({
    Standing.GOOD: ('good', '✓ as good'), Standing.SLOW: ('warn', '! within the limit'),
    Standing.UNDECIDED: ('warn', '? undecided'), Standing.BEYOND: ('bad', '✕ beyond the limit'),
    Standing.NO_LIMIT: ('bad', '! no usable limit'), Standing.NO_REFERENCE: ('bad', '! no reference')})


def references_section(runs: Sequence[Run], judgements: Sequence[Judgement], *, terse: bool,
                       published: bool) -> Markup | None:
    """Return table and chart of the metrics that have a reference; None without any.

    Args:
        runs, judgements: of one group.
        terse: leave out the chart.
        published: say who published a reference.
    """
    judged = [each for each in judgements if each.reference is not None]
    if not judged:
        return None
    parts = [tag('h3', 'Against the references'), _table(judged, published=published)]
    chart = None if terse else _chart(runs, judged)
    return join([*parts, chart] if chart else parts)


def sureness(judgement: Judgement) -> tuple[str, str] | None:
    """Return how sure it is, and on which side of the limit the runs lie; None: nothing can be said of one run."""
    if judgement.sure is None:
        return None
    side, share = ('within', judgement.sure) if judgement.sure >= 0.5 else ('beyond', 1 - judgement.sure)
    return f'{"> 99.9" if share > 0.999 else format(100 * share, ".1f")} %', side


def _source(reference: Reference, *, published: bool) -> str:
    """Return where a reference comes from, and how many runs it stands on."""
    source = reference.source
    if source.kind is SourceKind.PUBLISHED:
        where = f'{source.round} {source.submitter}' if published else ''
    else:
        where = source.document or source.note or ', '.join(source.runs[:1])
    words = f'{source.kind.value}: {where}' if where else source.kind.value
    return words if source.kind is SourceKind.PROMISED else f'{words}, n = {reference.n}'


def _table(judged: Sequence[Judgement], *, published: bool) -> Markup:
    rows = []
    for each in judged:
        reference = each.reference
        assert reference is not None
        tone, words = _OUTCOMES[each.standing]
        more = '' if each.more_runs is None else f'{counted(each.more_runs, "further run")} would settle it'
        rows.append([
            METRIC_NAMES[each.metric], tag('span', tag('span', words, class_='state'), class_=tone),
            two_lines(amount_text(each.metric, each.mean), counted(each.n, 'run')),
            two_lines(amount_text(each.metric, reference.value), _source(reference, published=published)),
            percent_text(each.mean / reference.value - 1),
            '–' if each.limit is None else amount_text(each.metric, each.limit),
            two_lines(' '.join(sureness(each) or ('one run: cannot be said',)), more)])
    return table(['metric', 'outcome', 'measured', 'reference', 'to it', 'limit', 'how sure'], rows,
                 numeric=(2, 3, 4, 5), narrow=(0, 1), stacked=True, caption=(
                     'Measured: the geometric mean of the runs. How sure: that it lies on this side of the limit'))


def _in_words(loss: float) -> str:
    """Return a distance from the reference in per cent: in a chart of losses, signs of rates would be reversed."""
    text = f'{abs(loss):.1f} %'
    return text if text == '0.0 %' else f'{text} {"worse" if loss > 0 else "better"}'


def _chart(runs: Sequence[Run], judged: Sequence[Judgement]) -> Markup | None:
    """Draw each run and the mean as a distance from the reference; to the right is worse, whatever the metric."""
    rows = []
    for each in judged:
        reference = each.reference
        if reference is None or each.limit is None:
            continue
        sign, aim = (1 if reference.direction is Direction.LOWER else -1), reference.value

        def worse(value: float, sign: int = sign, aim: float = aim) -> float:
            return 100 * sign * (value / aim - 1)

        values = [value for run in runs if (run.converged or run.finished_steps)
                  and (value := JUDGED[each.metric](run)) is not None]
        rows.append(Dots(
            label=METRIC_NAMES[each.metric], note=_in_words(worse(each.mean)), mean=worse(each.mean),
            interval=None if each.interval is None else (worse(each.interval[0]), worse(each.interval[1])),
            tip=f'mean of {each.n}: {amount_text(each.metric, each.mean)}', tolerance=(0.0, worse(each.limit)),
            points=[(worse(value), amount_text(each.metric, value), 'soft') for value in values]))
    if not rows:
        return None
    said = 'Dots: runs. Diamond: their mean, with its interval. Shaded: the tolerance from the reference to the limit.'
    title = 'Distance from the reference: right is worse'
    return tag('figure', tag('h4', title), dot_chart(title, said, rows, '% from the reference'),
               tag('figcaption', said), class_='one')
