"""The report in a real browser: its toggles work, nothing complains, nothing is loaded, nothing overflows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlperf_det.cli import main
from mlperf_det.run_folder import Outcome
from tests.results import chromium
from tests.results.conftest import FolderMaker, log_text

pytestmark = pytest.mark.slow


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
        'PASS', 'FAIL-QUALITY']
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


@pytest.mark.parametrize('width', [360, 800, 1600])
def test_the_page_fits_every_width(browser: chromium.Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    assert browser.evaluate('document.documentElement.scrollWidth') <= width


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
