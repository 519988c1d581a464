"""The report: one self-contained page of runs and verdicts. The same runs and verdicts give the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mlperf_det import __version__
from mlperf_det.results.judging import Judged
from mlperf_det.results.report.assets import script, script_hash, style
from mlperf_det.results.report.group import TONES, group_section, headline
from mlperf_det.results.report.html import Markup, raw, tag
from mlperf_det.results.report.overview import overview, top
from mlperf_det.results.report.regressions_section import regressions_of, regressions_section
from mlperf_det.results.report.standing import standing_sections
from mlperf_det.results.report.thaisc_tables import thaisc_section
from mlperf_det.results.verdict import overall

#: with more groups, details are folded and curves are thinned
MANY_GROUPS = 20


class Theme(str, Enum):
    """Whom a report is for."""

    ACCEPTANCE = 'acceptance'    # verdicts first, with the place among published systems
    NIGHTLY = 'nightly'          # what turned worse first
    VENDOR = 'vendor'            # a vendor's own systems alone: nothing of others is in it


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a report is written.

    Attributes:
        title: headline of the page.
        theme: whom it is for.
        thaisc_nodes: proposed node count for ThaiSC's tables; None: without these tables.
    """

    title: str = 'Acceptance report'
    theme: Theme = Theme.ACCEPTANCE
    thaisc_nodes: int | None = None


def build_report(judged: Judged, options: Options = Options()) -> bytes:
    """Return the page as UTF-8. Nothing in it is loaded from anywhere; texts from logs are escaped."""
    state = overall(judged.verdicts)
    nightly, several = options.theme is Theme.NIGHTLY, len(judged.verdicts) > 1
    regressions = regressions_section(*regressions_of(judged.groups), always=nightly)
    standing = standing_sections(judged.groups, [verdict.score for verdict in judged.verdicts[:len(judged.groups)]],
                                 published=options.theme is not Theme.VENDOR)
    beside = [*standing, None if nightly else regressions]
    if options.thaisc_nodes:
        beside.append(thaisc_section(judged.groups, options.thaisc_nodes))
    groups = _groups(judged, published=options.theme is not Theme.VENDOR)
    # The verdict comes first: that of several groups is the overview.
    sections = [overview(judged) if several else None, regressions if nightly else None,
                *(beside if several else groups), *(groups if several else beside)]
    head = tag('head', tag('meta', charset='utf-8'), tag('title', f'{state.value} – {options.title}'),
               tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
               tag('meta', http_equiv='Content-Security-Policy',
                   content=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{script_hash()}'"),
               tag('style', raw(style())))
    body = tag('body', top(judged, options.title, state), tag('main', *sections), _footer(),
               tag('script', raw(script())))
    return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'.encode()


def _groups(judged: Judged, *, published: bool) -> list[Markup]:
    """Return a section for each group, then one for each promise without a run."""
    many = len(judged.groups) > MANY_GROUPS
    sections = [group_section(group, verdict, number, judged, many=many, published=published)
                for number, (group, verdict) in enumerate(zip(judged.groups, judged.verdicts, strict=False))]
    for number, verdict in enumerate(judged.verdicts[len(judged.groups):], start=len(judged.groups)):
        sections.append(tag('section', headline(verdict, f'g{number}'), class_=f'group {TONES[verdict.state][0]}'))
    return sections


def _footer() -> Markup:
    return tag('footer', tag('p', (
        f'mlperf-det {__version__}. Times are run_stop − run_start; the score is the mean of the times without the '
        'fastest and the slowest run. AP is COCO average precision at IoU 0.50 to 0.95. runs.csv and summary.json '
        'beside this page hold the same figures.')))
