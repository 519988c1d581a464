"""The charts of the report: well-formed, in their places, and readable without colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlperf_det.results.report.downsample import downsample
from mlperf_det.results.report.figures import column_texts, percent_text
from mlperf_det.results.report.svg import Axis, Band, Rule, Series, line_chart, numbers, ticks
from mlperf_det.results.report.svg_rows import Bar, Dots, bar_chart, dot_chart
from mlperf_det.results.report.svg_scatter import Cloud, scatter_chart


def test_charts_are_well_formed_and_carry_their_data() -> None:
    svg = line_chart('A & B', 'desc', [Series(name='<x>', points=[(0, 1), (1, 2)], tips=['first', 'second'])],
                     Axis(title='x', low=0.0), Axis(title='y', low=0.0), [Rule(value=1.5, label='target')])
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    assert root.attrib['aria-label'] == 'A & B. desc'
    circles = list(root.iter('circle'))
    assert [circle.findtext('title') for circle in circles] == ['first', 'second']
    first, second = ((float(circle.attrib['cx']), float(circle.attrib['cy'])) for circle in circles)
    assert first[0] < second[0]
    assert first[1] > second[1]    # larger values are higher up
    rule = next(element for element in root.iter('line') if 'target' in element.attrib['class'])
    assert second[1] < float(rule.attrib['y1']) < first[1]


def test_a_band_lies_behind_the_curves_and_a_terse_chart_says_less() -> None:
    arguments = ('t', 'd', [Series(name='run', points=[(0, 1), (1, 2)], tips=['first', 'last'])],
                 Axis(title='x', low=0.0), Axis(title='y', low=0.0), [], Band(points=[(0, 1, 3), (2, 2, 4)], tip='b'))
    root = ElementTree.fromstring(line_chart(*arguments))  # noqa: S314 - our own
    paths = [path.attrib['class'] for path in root.iter('path')]
    assert paths.index('band') < paths.index('curve')
    band = next(path for path in root.iter('path') if path.attrib['class'] == 'band')
    corners = [tuple(map(float, corner.split())) for corner in band.attrib['d'].strip('MZ').split('L')]
    assert len(corners) == 4
    assert corners[0][1] > corners[3][1]    # at the same x, the upper bound lies above the lower
    assert corners[0][0] == corners[3][0]
    short = line_chart(*arguments, terse=True)
    assert len(short) < len(line_chart(*arguments))
    assert 'run: last' in short
    assert '<circle' not in short


def test_bars_are_as_long_as_their_values() -> None:
    bars = [Bar(label='a', parts=[(1, 'p'), (3, 'q')]), Bar(label='b', parts=[(2, 'p')])]
    root = ElementTree.fromstring(bar_chart('t', 'd', bars, 's'))  # noqa: S314 - our own
    widths = [float(element.attrib['width']) for element in root.iter('rect')]
    assert widths == pytest.approx([widths[0], widths[0] * 3, widths[0] * 2], rel=0.01)


def test_dots_keep_their_places_beside_marks_and_the_tolerance() -> None:
    rows = [Dots(label='a', points=[(27.0, 'a', 'c0')]), Dots(label='b', points=[(33.0, 'b', 'c1')]),
            Dots(label='m', points=(), mean=30.0, interval=(28.5, 31.5), tolerance=(28.0, 29.0))]
    marks = [Rule(value=28.0, label='promised 28'), Rule(value=29.0, label='limit 29', kind='limit')]
    root = ElementTree.fromstring(dot_chart('t', 'd', rows, 'min', marks))  # noqa: S314 - our own
    first, second = (float(circle.attrib['cx']) for circle in root.iter('circle'))
    scale = (second - first) / 6.0
    lines = {line.attrib['class']: line for line in root.iter('line')}
    assert float(lines['rule target'].attrib['x1']) == pytest.approx(first + scale, abs=0.2)
    assert float(lines['rule limit'].attrib['x1']) == pytest.approx(first + 2 * scale, abs=0.2)
    assert (float(lines['interval'].attrib['x1']), float(lines['interval'].attrib['x2'])) == pytest.approx(
        (first + 1.5 * scale, first + 4.5 * scale), abs=0.2)
    shaded = [(float(rect.attrib['x']), float(rect.attrib['width'])) for rect in root.iter('rect')]
    assert shaded == [pytest.approx((first + scale, scale), abs=0.2)] * 2    # of all rows, and of the third
    names = {text.text: text for text in root.iter('text')}
    assert names['promised 28'].attrib['y'] != names['limit 29'].attrib['y']    # they cannot hide each other


@pytest.mark.parametrize('values', [(5.0,), (5.0, 5.0), ()])
def test_dots_without_any_spread_are_inside_their_chart(values: tuple[float, ...]) -> None:
    rows = [Dots(label='a', points=[(value, '', 'c0')]) for value in values]
    root = ElementTree.fromstring(dot_chart('t', 'd', rows, 'min'))  # noqa: S314 - our own
    assert all(124 < float(circle.attrib['cx']) < 396 for circle in root.iter('circle'))


@pytest.mark.parametrize(('values', 'texts'), [
    ([14, 14.667, None], ['14.00', '14.67', '']), ([4.0, 12.0], ['4', '12']), ([1234.5, 1.0], ['1,234.5', '1.0'])])
def test_the_points_of_a_column_stand_under_each_other(values: list[float | None], texts: list[str]) -> None:
    assert column_texts(values) == texts


@pytest.mark.parametrize(('values', 'labels'), [
    ([0, 0.1, 0.25], ['0', '0.10', '0.25']), ([27.5, 30], ['27.5', '30.0']), ([0, 5000, 10000], ['0', '5k', '10k']),
    ([-5, 0, 5], ['−5', '0', '5']), ([], [])])
def test_the_numbers_of_an_axis_have_the_same_decimals(values: list[float], labels: list[str]) -> None:
    assert numbers(values) == labels


def test_a_share_has_its_sign() -> None:
    texts = [percent_text(share) for share in (0.029, -0.029, 0.0004, -0.0004)]
    assert texts == ['+2.9 %', '−2.9 %', '±0.0 %', '±0.0 %']


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert len(found) <= 12
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in found)


def test_thinned_curves_keep_ends_and_spikes() -> None:
    points = [(float(x), 100.0 if x == 500 else 1.0) for x in range(1000)]
    thin = downsample(points, 50)
    assert len(thin) == 50
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert (500.0, 100.0) in thin
    assert downsample(points[:50], 50) == points[:50]


def test_labels_of_points_that_lie_close_hide_no_other_label() -> None:
    points = [(8.0, 36.32), (8.0, 33.98), (4.0, 71.13), (2.0, 172.84)]
    cloud = Cloud(points=points, tips=[str(point) for point in points], kind='s0', diamond=True)
    text = str(scatter_chart('title', 'description', [cloud], [], 'accelerators', 'minutes'))
    assert re.findall(r'rulelabel"[^>]*>([\d.]+)<', text) == ['36.32', '71.13', '172.84']
    assert all(str(point).replace("'", '') in text for point in points), 'each has a tooltip'
