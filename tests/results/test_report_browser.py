"""The report in a real browser: its toggles work, nothing complains, nothing is loaded, nothing overflows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.run_folder import Outcome
from tests.results import chromium
from tests.results.conftest import FolderMaker, log_text

pytestmark = pytest.mark.slow
#: a promise that is kept when the page has been drawn anew
FRAMES = 'new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))'


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        pytest.skip(f'no browser: none of {", ".join(chromium.PROGRAMS)} is installed (apt-get install chromium)')
    with chromium.Browser(program, tmp_path_factory.mktemp('profile')) as found:
        yield found


@pytest.fixture
def page(make_run: FolderMaker, tmp_path: Path) -> Path:
    for number in range(3):
        make_run(f'runs/run_{number}', log=log_text(epoch_seconds=30 + number))
    make_run('runs/zero', recipe={'name': '</script><img src=x>'}, log=log_text((0.1,), status='aborted'),
             outcome=Outcome.ABORTED)
    assert main(['report', str(tmp_path / 'runs'), '-o', str(tmp_path / 'out'), '--thaisc', '250']) == 0
    return tmp_path / 'out' / 'report.html'


def test_toggles_work_and_nothing_complains_or_is_loaded(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    shown = "[...document.querySelectorAll('section[aria-labelledby]')].filter(each => !each.hidden).length"
    assert browser.evaluate(shown) == 2
    assert browser.evaluate("[...document.querySelectorAll('.toolbar button')].map(each => each.textContent)") == [
        'FAIL-QUALITY', 'PASS']
    browser.evaluate("document.querySelector('.toolbar button').click()")
    assert browser.evaluate(shown) == 1
    assert browser.evaluate("document.querySelector('.toolbar button').getAttribute('aria-pressed')") == 'false'
    browser.evaluate("document.querySelector('.toolbar button').click()")
    browser.evaluate("{ const field = document.querySelector('.toolbar input'); field.value = 'no such group';"
                     "  field.dispatchEvent(new Event('input')); }")
    assert browser.evaluate(shown) == 0
    browser.evaluate("{ const field = document.querySelector('.toolbar input'); field.value = '';"
                     "  field.dispatchEvent(new Event('input')); }")
    curve = "getComputedStyle(document.querySelector('.charts g.c1')).display"
    assert browser.evaluate(curve) != 'none'
    browser.evaluate("document.querySelectorAll('section > p.legend .key')[1].click()")
    assert browser.evaluate(curve) == 'none'
    width = "document.querySelector('.charts figure').getBoundingClientRect().width"
    before = browser.evaluate(width)
    browser.evaluate("document.querySelector('.charts figure .enlarge').click()")
    assert browser.evaluate(width) > 1.5 * before
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.evaluate("document.querySelectorAll('img').length") == 0


def test_the_navigation_stays_in_sight_and_tells_where_one_is(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    links = browser.evaluate("[...document.querySelectorAll('nav a')].map(each => each.getAttribute('href'))")
    assert links == ['#overview', '#thaisc', '#g0', '#g1']
    browser.evaluate("document.querySelectorAll('nav a')[3].click()")
    assert browser.evaluate("document.querySelector('nav').getBoundingClientRect().top") == 0
    covered = ("document.querySelector('#g1').getBoundingClientRect().top"
               " - document.querySelector('nav').getBoundingClientRect().bottom")
    assert browser.evaluate(covered) >= 0
    current = "document.querySelector('nav a[aria-current]')?.getAttribute('href')"
    browser.evaluate(FRAMES, wait=True)
    assert browser.evaluate(current) in ('#g0', '#g1')    # the last section may not reach the top
    assert browser.complaints() == []


def test_what_is_near_the_pointer_says_what_it_is(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelector('.charts circle').scrollIntoView({block: 'center'})")
    browser.evaluate(FRAMES, wait=True)    # a page that scrolls hides what was said
    box = browser.evaluate("(() => { const {x, y, width, height} = document.querySelector('.charts circle')"
                           ".getBoundingClientRect(); return [x + width / 2, y + height / 2]; })()")
    browser.command('Input.dispatchMouseEvent', type='mouseMoved', x=box[0] + 8, y=box[1] + 3)
    tip = "document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').textContent"
    assert 'epoch 1' in browser.evaluate(tip)
    browser.command('Input.dispatchMouseEvent', type='mouseMoved', x=2, y=2)
    assert browser.evaluate(tip) == ''
    assert browser.complaints() == []


def test_keys_do_what_the_mouse_does(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('section > p.legend .key')[1].focus()")
    curve = "getComputedStyle(document.querySelector('.charts g.c1')).display"
    browser.press('Enter')
    assert browser.evaluate(curve) == 'none'
    browser.press('Enter')
    assert browser.evaluate(curve) != 'none'
    browser.evaluate("document.querySelector('.toolbar button').focus()")
    browser.press('Enter')
    assert browser.evaluate("document.querySelector('.toolbar button').getAttribute('aria-pressed')") == 'false'
    assert browser.complaints() == []


def test_what_a_screen_reader_is_told(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    nodes = browser.command('Accessibility.getFullAXTree')['nodes']
    named = [(node['role']['value'], node.get('name', {}).get('value', '')) for node in nodes
             if not node['ignored'] and 'role' in node]
    for role in ('image', 'button', 'link', 'heading', 'region', 'searchbox'):
        names = [name for found, name in named if found == role]
        assert names, role
        assert all(names), role
    images = [name for role, name in named if role == 'image']
    assert any(name.startswith(
        'bbox AP over time: 3 of 3 runs reached 0.3. Best bbox AP 0.3400, target 0.3.') for name in images)
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(each => +each.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


@pytest.mark.parametrize('dark', [False, True])
def test_texts_stand_out_from_their_ground(browser: chromium.Browser, page: Path, dark: bool) -> None:
    """WCAG 2, level AA: a contrast of 4.5 for every text of the page, the badges included."""
    browser.emulate(dark=dark)
    try:
        browser.open(page)
        worst = browser.evaluate(CONTRAST)
    finally:
        browser.emulate()
    assert worst['ratio'] >= 4.5, worst


#: the text with the least contrast to the first ground behind it that is not transparent
CONTRAST = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((each) => each / 255).map(
      (each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
  };
  let worst = {ratio: 99};
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || ['SCRIPT', 'title'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const colours = [light(element.ownerSVGElement ? style.fill : style.color), light(ground(element))];
    const ratio = (Math.max(...colours) + 0.05) / (Math.min(...colours) + 0.05);
    if (ratio < worst.ratio) worst = {ratio, tag: element.tagName, text: element.textContent.slice(0, 40)};
  }
  return worst;
})()"""


@pytest.mark.parametrize('width', [390, 820, 1400])
def test_the_page_fits_every_width(browser: chromium.Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.evaluate('document.documentElement.scrollWidth') <= width
    stacked = browser.evaluate("getComputedStyle(document.querySelector('#overview td')).display") == 'block'
    assert stacked == (width < 640)


def test_paper_shows_everything_and_the_verdicts_on_the_first_sheet(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    browser.emulate(media='print')
    try:
        assert browser.evaluate("getComputedStyle(document.querySelector('.toolbar')).display") == 'none'
        # A4 less its margins, in pixels of 1/96 inch.
        assert browser.evaluate("document.querySelector('#overview').getBoundingClientRect().bottom") < 1000
        inside = "[...document.querySelectorAll('details > :not(summary)')].map(each => each.getBoundingClientRect())"
        assert browser.evaluate(f'{inside}.every(each => each.height > 0)')
    finally:
        browser.emulate()
    assert 3 <= browser.pdf_pages() <= 30


def test_the_verdict_on_a_single_group_stands_on_the_first_sheet(browser: chromium.Browser, make_run: FolderMaker,
                                                                 tmp_path: Path) -> None:
    make_run('runs/run_0')
    assert main(['report', str(tmp_path / 'runs'), '-o', str(tmp_path / 'out')]) == 0
    browser.open(tmp_path / 'out' / 'report.html')
    browser.emulate(media='print')
    try:
        assert browser.evaluate("getComputedStyle(document.querySelector('main > section')).breakBefore") == 'auto'
    finally:
        browser.emulate()


@pytest.mark.shared
def test_a_page_of_many_groups_lays_out_only_what_is_in_sight(browser: chromium.Browser, shared_data: Path,
                                                              tmp_path: Path) -> None:
    logs = [str(shared_data / 'mlperf-logs' / f'{name}.tar.xz') for name in ('v4.0', 'v4.1', 'v5.0', 'v5.1')]
    assert main(['report', *logs, '-o', str(tmp_path / 'out')]) == 0
    browser.open(tmp_path / 'out' / 'report.html')
    assert browser.evaluate("document.querySelectorAll('section.many').length") > 50
    start = browser.metrics()
    assert start['LayoutObjects'] < 0.35 * start['Nodes']
    browser.evaluate("document.querySelector('#g40').scrollIntoView()")
    assert browser.evaluate("document.querySelector('#g40').getBoundingClientRect().top") == pytest.approx(0, abs=60)
    assert browser.metrics()['LayoutObjects'] < 0.5 * start['Nodes']
    assert browser.complaints() == []


def test_the_page_is_complete_without_its_script(browser: chromium.Browser, page: Path) -> None:
    browser.open(page)
    texts = "[...document.querySelectorAll('main section')].map(each => each.innerText.length).reduce((a, b) => a + b)"
    with_script = browser.evaluate(texts)
    browser.command('Emulation.setScriptExecutionDisabled', value=True)
    try:
        browser.open(page)
        assert browser.complaints() == []
        assert browser.evaluate("document.querySelectorAll('.toolbar, .enlarge').length") == 0
        assert browser.evaluate(texts) > 0.9 * with_script
    finally:
        browser.command('Emulation.setScriptExecutionDisabled', value=False)
