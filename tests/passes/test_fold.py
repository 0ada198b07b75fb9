"""Which edits make a model smaller."""

import pytest

from fxprune.errors import KeepSetError
from fxprune.passes.analyse import analyse
from fxprune.passes.fold import plan_fold
from tests.passes.example import example
from tests.passes.written import graph_of, lines

HALF = {"a": [True] * 4 + [False] * 4, "b": [True, False] * 3}


def plan_of(keep):
    a = example()
    return plan_fold(a.graph, a.types, a.groups, a.branches, keep)


def test_parameters_are_sliced_and_sizes_rewritten():
    assert str(plan_of(HALF)) == lines(
        """
        a.weight: keep 4 of axis 0
        a.bias: keep 4 of axis 0
        b.weight: keep 3 of axis 0
        b.weight: keep 4 of axis 1
        m.running: keep 3 of axis 0
        v.running: keep 3 of axis 0
        n.weight: keep 3 of axis 0
        n.bias: keep 3 of axis 0
        c.weight: keep 4 of axis 0
        c.weight: keep 3 of axis 1
        e.weight: keep 4 of axis 1
        h.weight: keep 324 of axis 1
        a: out_channels[0] = 4
        b: out_channels[0] = 3
        n: num_features[0] = 3
        c: out_channels[0] = 4
        g: shape[1] = 324
        """
    )


def test_kept_positions_are_those_of_the_keep_set():
    kept = {(s.parameter, s.dim): s.kept for s in plan_of(HALF).slices}
    assert kept["c.weight", 0] == (0, 1, 2, 3)
    assert kept["c.weight", 1] == (0, 2, 4)
    flat = [channel * 36 + pixel for channel in (0, 1, 2, 3, *range(8, 13)) for pixel in range(36)]
    assert kept["h.weight", 1] == tuple(flat)


SCATTERED = """
    s[2, 4] = linear(x[2, 3], s.weight[4, 3])
    a[2, 4] = linear(s, m.a.weight[4, 4], m.a.bias[4])
    c[2, 4] = add(s, a)
    d[2, 3] = linear(c, d.weight[3, 4])
    """


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (
            {"m.a": [True, False, False, True]},
            """
            m.a.weight: keep 2 of axis 0
            m.a.bias: keep 2 of axis 0
            c: add operand 1 to 2 of axis 1
            """,
        ),
        (
            {"m.a": [True, False, False, True], "m+": [False]},
            """
            m.a.weight: keep 2 of axis 0
            m.a.bias: keep 2 of axis 0
            c: drop operand 1
            a: remove
            """,
        ),
        ({"m.a": [True] * 4}, ""),
    ],
)
def test_scattered_operands_are_added_to_what_they_keep(keep, expected):
    a = analyse(graph_of(SCATTERED), scatter=True)
    assert str(plan_fold(a.graph, a.types, a.groups, a.branches, keep)) == lines(expected)


def test_closed_branch_goes_with_everything_only_it_needs():
    assert str(plan_of({"d+": [False]})) == lines(
        """
        d: drop operand 1
        c: remove
        n: remove
        b: remove
        """
    )


def test_literals_of_removed_nodes_are_left_alone():
    plan = plan_of({**HALF, "d+": [False]})
    assert {literal.node for literal in plan.literals} == {"a", "g"}


@pytest.mark.parametrize("keep", [{}, {"a": [True] * 8, "d+": [True]}])
def test_open_keep_set_plans_nothing(keep):
    assert str(plan_of(keep)) == ""


def test_same_plan_twice():
    assert str(plan_of(HALF)) == str(plan_of(HALF))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"z": [True]}, "no group or branch is called 'z'; see fxprune.groups"),
        ({"h": [True] * 4}, r"group h is pinned \(network output\): leave it out"),
        ({"a": [True] * 7}, "a has 8 positions, the keep-set 7"),
        ({"a": [False] * 8}, "a keeps nothing: keep at least one of 8 positions"),
        ({"d+": [True, True]}, r"d\+ has 1 positions, the keep-set 2"),
    ],
)
def test_bad_keep_set_is_refused(keep, message):
    with pytest.raises(KeepSetError, match=message):
        plan_of(keep)


def test_branch_may_keep_nothing():
    assert plan_of({"d+": [False]}).drops
