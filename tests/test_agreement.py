"""Errors, what is accepted of them, and what a comparison shows: on plain arrays."""

import numpy as np
import pytest

from fxprune.agreement import (
    CAPS,
    TOLERANCES,
    Comparison,
    Run,
    Verdict,
    accepted_error,
    compared,
    error_of,
    handed_through,
    silent_outputs,
    telling,
)
from fxprune.errors import VerificationError

NAN, INF = np.nan, np.inf


def numbers(*values, dtype=np.float32):
    return np.array(values, dtype)


@pytest.mark.parametrize(
    ("expected", "found", "error"),
    [
        (numbers(1, 4), numbers(1, 5), 0.25),
        (numbers(1, INF), numbers(1, INF), 0.0),
        (numbers(2, INF), numbers(1, INF), 0.5),
        (numbers(1, INF), numbers(1, -INF), INF),
        (numbers(1, NAN), numbers(1, NAN), 0.0),
        (numbers(1, NAN), numbers(1, INF), INF),
        (numbers(1, NAN), numbers(NAN, 1), INF),
        (numbers(1, 2), numbers(1, NAN), INF),
        (numbers(NAN), numbers(NAN), 0.0),
        (numbers(1), numbers(1, dtype=np.float64), INF),
        (numbers(1), numbers(1, 1), INF),
        (numbers(7, dtype=np.int64), numbers(8, dtype=np.int64), INF),
        (numbers(2**62, dtype=np.int64), numbers(2**62 + 1, dtype=np.int64), INF),
        (numbers(True, dtype=bool), numbers(True, dtype=bool), 0.0),
        (numbers(), numbers(), 0.0),
        (numbers(2j, dtype=np.complex64), numbers(1j, dtype=np.complex64), 0.5),
        ([numbers(1, 2), numbers(4)], [numbers(1, 2), numbers(5)], 0.25),
        ([numbers(1, 2), numbers(4)], [numbers(1, 2)], INF),
        ([numbers(1), [numbers(2, 3)]], [numbers(1), [numbers(2, 3)]], 0.0),
        ([numbers(1), numbers(2)], [numbers(1), [numbers(2)]], INF),
        ({"a": numbers(1)}, {"b": numbers(1)}, INF),
        ({"a": numbers(1)}, {"a": numbers(1)}, 0.0),
        ([None], [None], 0.0),
        ([None], [numbers(1)], INF),
        ("cat", "cat", 0.0),
        (np.array(["cat"], object), np.array(["dog"], object), INF),
        ([], [], 0.0),
        ([], [numbers(1)], INF),
    ],
)
def test_errors_are_relative_and_what_has_another_form_or_kind_differs(expected, found, error):
    assert error_of(expected, found) == error


def test_rounding_explains_something_up_to_the_cap_of_the_precision():
    assert accepted_error("float32") == TOLERANCES["float32"]
    assert accepted_error("float32", 7e-4) == pytest.approx(2.8e-3)
    assert accepted_error("float32", 0.5) == CAPS["float32"]
    assert accepted_error("float64", 0.5) == CAPS["float64"]
    assert accepted_error("float64", 0.5, "float16") == CAPS["float16"]
    assert accepted_error("float32", INF) == accepted_error("float32", NAN) == 1e-4
    assert accepted_error("int64", 0.5) == 0


def test_every_output_of_either_side_is_compared():
    found = compared("a == b", 1, {"x": numbers(1)}, {"x": numbers(1), "y": numbers(1)})
    assert [name for name, item in found.items() if not item.agrees] == ["y"]
    found = compared("a == b", 1, {"x": numbers(1), "y": numbers(1)}, {"x": numbers(1)})
    assert [name for name, item in found.items() if not item.agrees] == ["y"]


def runs(*pairs):
    return [Run({"x": given}, {"y": returned}) for given, returned in pairs]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (numbers(1, 1), numbers(1, 1)),
        (numbers(1, 1), numbers(1, 1.0001)),
        (numbers(NAN), numbers(NAN)),
        (numbers(INF), numbers(-INF)),
        (numbers(), numbers()),
        (numbers(3, dtype=np.int64), numbers(3, dtype=np.int64)),
        ([], []),
    ],
)
def test_what_stays_or_is_nowhere_finite_shows_nothing(first, second):
    told = telling(runs((numbers(1), first), (numbers(2), second)), {"y": 1e-4})
    assert not told
    with pytest.raises(VerificationError, match="nothing was shown, as y has the same"):
        silent_outputs(["y"], told, (), "a == b")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (numbers(1, 1), numbers(1, 1.001)),
        (numbers(NAN), numbers(1)),
        (numbers(1), numbers(1, 2)),
        (numbers(3, dtype=np.int64), numbers(4, dtype=np.int64)),
        ([numbers(1)], [numbers(1), numbers(2)]),
    ],
)
def test_what_moves_shows_something(first, second):
    told = telling(runs((numbers(1), first), (numbers(2), second)), {"y": 1e-4})
    assert told == {"y"}
    assert silent_outputs(["y"], told, (), "a == b") == ()


def test_inputs_of_two_shapes_do_not_show_that_an_output_moves():
    assert not telling(runs((numbers(1), numbers(1)), (numbers(1, 2), numbers(2))), {})


def test_a_model_without_inputs_is_shown_by_one_run():
    assert telling([Run({}, {"y": numbers(1)})], {}) == {"y"}
    assert not telling([Run({}, {"y": numbers(NAN)})], {})


def test_an_input_that_is_handed_through_shows_nothing_of_what_is_computed():
    given = [numbers(1), numbers(2)]
    found = [Run({"x": x}, {"same": x, "y": numbers(0)}) for x in given]
    told, handed = telling(found, {}), handed_through(found)
    assert told == handed == {"same"}
    with pytest.raises(VerificationError, match="nothing was shown, as y"):
        silent_outputs(["same", "y"], told, handed, "a == b")
    assert silent_outputs(["same"], told, handed, "a == b") == ()


def test_a_verdict_says_what_it_does_not_show():
    item = Comparison("a == b", 1, "float32", 0.0, 1e-4)
    verdict = Verdict((item,), ("label",), ("x [2, 3]",))
    assert "nothing is shown of label" in str(verdict)
    assert "not compared, as the first model fails: x [2, 3]" in str(verdict)
    both = verdict.joined(Verdict((item,), ("label", "other")))
    assert both.comparisons == (item, item)
    assert both.shows_nothing == ("label", "other")
    assert both.left_out == ("x [2, 3]",)
