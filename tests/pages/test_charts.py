"""What is drawn."""

import pytest

from fxprune.errors import InputError
from fxprune.pages.charts import costs, scatter, ticks, widths
from tests.pages.reports import POINTS, report


def test_profiles_show_the_layers_that_multiply():
    found = report(layers=10)
    assert str(widths(found.layers)) == (
        "Width of 11 layers: 168 channels before, 92 after, 1 layers removed"
    )
    assert sum(bar.after for bar in costs(found.layers).bars) == found.after["macs"]
    assert widths(found.layers).top == 16
    assert str(widths(())) == "Width of 0 layers: 0 channels before, 0 after, 0 layers removed"


def test_front_has_what_no_other_point_exceeds():
    found = scatter(POINTS)
    assert found is not None
    assert [(p.target, p.accuracy) for p in found.front] == [(0.3, 84.0), (0.5, 86.0)]
    assert [found.across(p.target) for p in found.points] == pytest.approx(
        [1 / 12, 0.5, 0.5, 11 / 12]
    )
    assert all(0 < found.up(p.accuracy) < 1 for p in found.points)


def test_equal_points_are_both_on_the_front():
    found = scatter([(0.5, 80), (0.5, 80, "again")])
    assert found is not None
    assert len(found.front) == 2
    assert found.x[0] < 0.5 < found.x[1]


def test_no_points_are_no_figure():
    assert scatter([]) is None


@pytest.mark.parametrize("point", [0.5, (0.5,), ("a", 1), (0.5, float("nan")), (1, 2, "x", "y")])
def test_points_that_are_none_are_refused(point):
    with pytest.raises(InputError, match=r"a point is \(target, accuracy\)"):
        scatter([point])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.14, 0.86), [0.2, 0.4, 0.6, 0.8]),
        ((79.0, 87.6), [80, 82, 84, 86]),
        ((-1.0, 1.0), [-1, -0.5, 0, 0.5, 1]),
        ((1e6, 4e6), [1e6, 2e6, 3e6, 4e6]),
    ],
)
def test_ticks_are_round_numbers(bounds, expected):
    assert ticks(bounds) == expected
