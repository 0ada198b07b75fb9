"""Where gates act."""

from fxprune.passes.analyse import analyse
from fxprune.passes.gate import plan_gates
from tests.passes.example import example
from tests.passes.written import graph_of, lettered, lines


def plan_of(text, scatter=False):
    a = analyse(graph_of(text), scatter=scatter)
    return lettered(plan_gates(a.graph, a.types, a.groups, a.branches))


def test_readers_are_masked_and_nothing_else():
    a = example()
    assert lettered(plan_gates(a.graph, a.types, a.groups, a.branches)) == lines(
        """
        b: mask operand 1 along 1 by a:8
        c: mask operand 1 along 1 by b:6
        e: mask operand 1 along 1 by a:8
        h: mask operand 1 along 1 by ((a:8 + c:5) x d:6 x e:6)
        c: operand 1 times gate of d+
        """
    )


def test_normalisation_takes_its_masked_form():
    assert plan_of(
        """
        a[2, 6, 4] = conv(x[2, 3, 4], a.weight[6, 3, 1]) {'sizes': {'g': 1}}
        b[2, 6, 4] = group_norm(a) {'sizes': {'g': 2}, 'slots': {'num_groups': 'g'}}
        c[2, 3, 4] = conv(b, c.weight[3, 6, 1]) {'sizes': {'g': 1}}
        """
    ) == lines(
        """
        c: mask operand 1 along 1 by (a:2 x b:3)
        b: statistics along 1 over (a:2 x b:3)
        """
    )


def test_contraction_of_computed_arrays_masks_the_last():
    assert (
        plan_of(
            """
        a[2, 5, 4] = linear(x[2, 5, 3], a.weight[4, 3])
        b[2, 4, 5] = permute(a) {'order': (0, 2, 1)}
        c[2, 5, 5] = matmul(a, b)
        """
        )
        == "c: mask operand 1 along 1 by a:4"
    )


def test_branch_that_ends_in_no_weight_is_gated_at_the_addition():
    assert (
        plan_of(
            """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4], m.a.bias[4])
        b[2, 4] = elementwise(a)
        c[2, 4] = add(x, b)
        """
        )
        == "c: operand 1 times gate of m+"
    )


def test_branch_that_ends_in_weight_and_bias_is_gated_there():
    assert (
        plan_of(
            """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4], m.a.bias[4])
        c[2, 4] = add(x, a)
        """
        )
        == "a: operand 1, 2 times gate of m+"
    )


def test_scattered_channels_are_masked_where_the_branch_ends_in_weight_and_bias():
    text = """
        s[2, 4] = linear(x[2, 3], s.weight[4, 3])
        a[2, 4] = linear(s, m.a.weight[4, 4], m.a.bias[4])
        c[2, 4] = add(s, a)
        d[2, 3] = linear(c, d.weight[3, 4])
        """
    assert plan_of(text, scatter=True) == lines(
        """
        a: mask operand 1 along 0 by a:4
        a: mask operand 2 along 0 by a:4
        a: operand 1, 2 times gate of m+
        """
    )


def test_scattered_channels_are_masked_at_the_addition_elsewhere():
    text = """
        s[2, 4] = linear(x[2, 3], s.weight[4, 3])
        a[2, 4] = linear(s, m.a.weight[4, 4])
        b[2, 4] = elementwise(a)
        c[2, 4] = add(s, b)
        d[2, 3] = linear(c, d.weight[3, 4])
        """
    assert plan_of(text, scatter=True) == lines(
        """
        c: mask operand 1 along 1 by a:4
        c: operand 1 times gate of m+
        """
    )


def test_pinned_channels_get_no_gate():
    assert plan_of("a[2, 4] = linear(x[2, 3], a.weight[4, 3])") == ""
