"""The report: one self-contained page of runs and verdicts. The same runs and verdicts give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from mlperf_det import __version__
from mlperf_det.results.judging import Judged
from mlperf_det.results.report.assets import script, script_hash, style
from mlperf_det.results.report.group import TONES, group_section, headline
from mlperf_det.results.report.html import Markup, raw, table, tag
from mlperf_det.results.report.overview import overview, top
from mlperf_det.results.report.regressions_section import for_the_worse, regressions_of, regressions_section
from mlperf_det.results.report.standing import standing_sections
from mlperf_det.results.report.thaisc_tables import thaisc_section
from mlperf_det.results.verdict import State, overall

#: with more groups, details are folded and curves are thinned
MANY_GROUPS = 20
#: with more groups, the navigation leads to the first of them alone
MOST_LINKED = 4

#: what each state says to those who decide
_MEANINGS: Mapping[State, str] = MappingProxyType({
    State.PASS: 'quality reached; performance as good as its references, where there are any',
    State.PASS_SLOW: 'quality reached; slower than the reference, within its limit',
    State.UNSTABLE: 'the runs disagree or are fewer than planned: more are needed before anything can be said',
    State.FAIL_QUALITY: 'the quality target was missed, or the rules of the round were broken',
    State.FAIL_PERF: 'quality reached; performance beyond the limit of a reference or of the contract',
    State.FAIL_INFRA: 'a run died, left no readable log, contradicts itself, or lacks a reference to judge it by',
    State.NOT_RUN: 'there is no run'})


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
    histories, changes = regressions_of(judged.groups)
    regressions = regressions_section(histories, changes, always=nightly)
    standing = standing_sections(judged.groups, [verdict.score for verdict in judged.verdicts[:len(judged.groups)]],
                                 published=options.theme is not Theme.VENDOR)
    beside = [*standing, *([] if nightly else [('regressions', 'Regressions', regressions)])]
    if options.thaisc_nodes:
        beside.append(('thaisc', 'ThaiSC', thaisc_section(judged.groups, options.thaisc_nodes)))
    groups = _groups(judged, published=options.theme is not Theme.VENDOR)
    # The verdict comes first: that of several groups is the overview.
    sections = [*([('overview', 'Overview', overview(judged))] if several else []),
                *([('regressions', 'Regressions', regressions)] if nightly else []),
                *(beside if several else groups), *(groups if several else beside)]
    shown = [(anchor, name, section) for anchor, name, section in sections if section is not None]
    head = tag('head', tag('meta', charset='utf-8'), tag('title', f'{state.value} – {options.title}'),
               tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
               tag('meta', http_equiv='Content-Security-Policy',
                   content=f"default-src 'none'; style-src 'unsafe-inline'; script-src '{script_hash()}'"),
               tag('style', raw(style())))
    body = tag('body', top(judged, options.title, state, for_the_worse(changes)),
               _navigation([each[:2] for each in shown], state), tag('main', *(section for _, _, section in shown)),
               _footer(), tag('script', raw(script())))
    return f'<!doctype html>\n{tag("html", head, body, lang="en")}\n'.encode()


def _navigation(sections: Sequence[tuple[str, str]], state: State) -> Markup | None:
    """Return links to the sections, which stay in sight; of many groups to the first alone. None for one section."""
    links = [(anchor, name) for anchor, name in sections if name]
    if len(links) < 2:
        return None
    tone, sign = TONES[state]
    badge = tag('span', tag('b', sign, aria_hidden='true'), state.value, class_=f'badge {tone}')
    return tag('nav', tag('div', badge, *(tag('a', name, href=f'#{anchor}') for anchor, name in links)),
               aria_label='Sections')


def _groups(judged: Judged, *, published: bool) -> list[tuple[str, str, Markup | None]]:
    """Return anchor, name in the navigation and content of each group, then of each promise without a run."""
    many, linked = len(judged.groups) > MANY_GROUPS, len(judged.verdicts) <= MOST_LINKED
    contents = [group_section(group, verdict, number, judged, many=many, published=published)
                for number, (group, verdict) in enumerate(zip(judged.groups, judged.verdicts, strict=False))]
    for number, verdict in enumerate(judged.verdicts[len(judged.groups):], start=len(judged.groups)):
        contents.append(tag('section', headline(verdict, f'g{number}'), class_=f'group {TONES[verdict.state][0]}'))
    names = [verdict.title if linked else '' for verdict in judged.verdicts]
    if not linked:
        names[0] = f'{len(judged.verdicts)} groups'
    return [(f'g{number}', name, content) for number, (name, content) in enumerate(zip(names, contents, strict=True))]


def _footer() -> Markup:
    states = table(['state', 'it means'], [
        [tag('span', tag('span', f'{sign} {state.value}', class_='state'), class_=tone), _MEANINGS[state]]
        for state, (tone, sign) in TONES.items()], narrow=(0,), titles=(1,), stacked=True,
                   caption='The seven states, and what they mean')
    return tag('footer', tag('details', tag('summary', 'How to read a verdict'), states), tag('p', (
        f'mlperf-det {__version__}. Times are run_stop − run_start; the score is the mean of the times without the '
        'fastest and the slowest run. AP is COCO average precision at IoU 0.50 to 0.95. runs.csv and summary.json '
        'beside this page hold the same figures.')))
