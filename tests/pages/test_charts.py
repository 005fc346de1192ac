import math
import re
from xml.etree import ElementTree

import pytest

from csc_nets.pages import bars, grid, lines, scatter

POINTS = {"one & two": [(1, 0.5), (2, 0.25), (3, math.nan), (4, 1.0)], "other": [(1, 1), (4, 2)]}


def parsed(svg):
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize("draw", [lines, scatter])
def test_a_chart_has_a_text_alternative_labels_and_a_legend(draw):
    svg = parsed(draw(POINTS, title="loss <over> epochs", x="epoch", y="loss (nats)"))
    assert svg.get("role") == "img" and svg.get("aria-label") == "loss <over> epochs"
    texts = [node.text for node in svg.iter("text")]
    assert {"epoch", "loss (nats)", "one & two", "other"} <= set(texts)
    assert len(list(svg.iter("circle"))) == 5  # a number that is not finite is no point
    assert len(list(svg.iter("polyline"))) == (2 if draw is lines else 0)


def test_points_lie_inside_and_in_order():
    svg = parsed(lines({"a": [(0, 0), (1, 5), (2, 10)]}, title="t", x="x", y="y"))
    _, _, width, height = map(float, svg.get("viewBox").split())
    places = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert all(0 < x < width and 0 < y < height for x, y in places)
    assert places == sorted(places) and [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    # The second point is halfway in both directions.
    assert places[1] == pytest.approx(((places[0][0] + places[2][0]) / 2, (places[0][1] + places[2][1]) / 2), abs=0.11)


def test_a_logarithmic_axis_spaces_powers_of_ten_evenly_and_leaves_out_zero():
    svg = parsed(lines({"a": [(0, 1e-4), (1, 1e-2), (2, 1), (3, 0)]}, title="t", x="x", y="y", log_y=True))
    first, second, third = (float(c.get("cy")) for c in svg.iter("circle"))
    assert first - second == pytest.approx(second - third, abs=0.11)


def test_constant_and_empty_series():
    assert len(list(parsed(lines({"a": [(1, 2), (2, 2)]}, title="t", x="x", y="y")).iter("circle"))) == 2
    assert not list(parsed(lines({}, title="t", x="x", y="y")).iter("circle"))


def test_bars_are_as_long_as_their_values():
    svg = parsed(bars({"a": 10.0, "b": 40.0}, title="t", unit="%"))
    short, long = (float(bar.get("width")) for bar in svg.iter("rect"))
    assert long == pytest.approx(4 * short, rel=0.01)
    assert "40 %" in [node.text for node in svg.iter("text")]


def test_a_confusion_matrix_has_the_counts_and_marks_mistakes():
    text = grid([[8, 2], [0, 5]], ["cat", "dog"], title="t", rows="true", columns="found")
    cells = [(cell.get("class"), float(cell.get("fill-opacity"))) for cell in parsed(text).iter("rect")]
    assert cells == [("right", 0.8), ("wrong", 0.2), ("wrong", 0.0), ("right", 1.0)]
    assert re.search("cat as dog: 2<", text)


@pytest.mark.parametrize("low, high", [(2.261, 2.269), (1e6, 1e6 + 3), (0.1, 0.9), (-3e-9, 5e-9)])
def test_numbers_of_an_axis_differ(low, high):
    text = lines({"a": [(low, low), (high, high)]}, title="t", x="x", y="y")
    for anchor in ("end", "middle"):
        numbers = re.findall(rf'<text x="[^"]+" y="[^"]+" text-anchor="{anchor}">([^<]+)</text>', text)
        assert len(set(numbers)) == len(numbers) >= 4
        assert [float(number) for number in numbers] == sorted(map(float, numbers))
