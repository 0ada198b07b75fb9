"""Which operands of additions can be removed whole."""

from dataclasses import replace

import pytest

from fxprune.passes.branches import find_branches
from tests.passes.written import graph_of

CASES = {
    "the side that is longer is the branch": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = linear(a, m.b.weight[4, 4])
        c[2, 4] = add(x, b)
        """,
        ["m+: operand 1 of c, 2 nodes"],
    ),
    "the order of operands does not matter": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        c[2, 4] = add(a, x)
        """,
        ["m+: operand 0 of c, 1 nodes"],
    ),
    "one of two equal sides stays": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = linear(x, m.b.weight[4, 4])
        c[2, 4] = add(a, b)
        """,
        ["m+: operand 1 of c, 1 nodes"],
    ),
    "nested additions have branches of their own": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = linear(a, m.b.weight[4, 4])
        c[2, 4] = add(a, b)
        d[2, 4] = add(x, c)
        """,
        ["m+: operand 1 of c, 1 nodes", "m++: operand 1 of d, 3 nodes"],
    ),
    "what others read as well is no branch": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(x, a)
        c[2, 4] = elementwise(b, a)
        """,
        [],
    ),
    "branches behind a norm that they share": (
        """
        n[2, 4] = layer_norm(x[2, 4], m.n.weight[4], m.n.bias[4]) {'rank': 1}
        a[2, 4] = linear(n, m.a.weight[4, 4])
        z[2, 4] = elementwise(a, y[2, 4])
        b[2, 4] = linear(n, m.b.weight[4, 4])
        c[2, 4] = add(x, z)
        d[2, 4] = add(c, b)
        """,
        ["m+: operand 1 of c, 2 nodes", "m++: operand 1 of d, 1 nodes"],
    ),
    "keys that others know are made outside": (
        """
        n[2, 4] = layer_norm(x[2, 4], m.n.weight[4], m.n.bias[4]) {'rank': 1}
        k[2, 4] = linear(n, m.k.weight[4, 4])
        q[2, 4] = linear(n, m.q.weight[4, 4])
        z[2, 4] = elementwise(q, k)
        c[2, 4] = add(x, z)
        d[2, 4] = elementwise(c, k)
        """,
        [],
    ),
    "a norm of which only the size is asked beside serves one branch": (
        """
        n[2, 4] = layer_norm(x[2, 4], m.n.weight[4], m.n.bias[4]) {'rank': 1}
        - = size(n) {'feeds': ('d',)}
        a[2, 4] = linear(n, m.a.weight[4, 4])
        z[2, 4] = elementwise(a, y[2, 4])
        c[2, 4] = add(x, z)
        d[2, 4] = elementwise(c)
        """,
        [],
    ),
    "what starts where the skip does may take a mask in": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = elementwise(a, z[2, 4])
        c[2, 4] = add(x, b)
        """,
        ["m+: operand 1 of c, 2 nodes"],
    ),
    "what starts from two other values is no branch": (
        """
        a[2, 4] = linear(w[2, 4], m.a.weight[4, 4])
        b[2, 4] = elementwise(a, z[2, 4])
        c[2, 4] = add(x[2, 4], b)
        """,
        [],
    ),
    "an operand that is stretched is no branch": (
        """
        a[2, 1] = linear(x[2, 4], m.a.weight[1, 4])
        b[2, 4] = add(x, a)
        """,
        [],
    ),
    "a sum with itself has none": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(a, a)
        """,
        [],
    ),
    "a sum with a parameter has none": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(a, m.p[2, 4])
        """,
        [],
    ),
    "what is added to some positions is the branch": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 3] = linear(x, m.b.weight[3, 4])
        c[2, 4] = index_add(a, m.running[3], b) {'dim': 1}
        """,
        ["m+: operand 2 of c, 1 nodes"],
    ),
    "what is added to positions of a parameter is no branch": (
        """
        a[2, 3] = linear(x[2, 4], m.a.weight[3, 4])
        b[2, 4] = index_add(m.p[2, 4], m.running[3], a) {'dim': 1}
        """,
        [],
    ),
    "a sum with what depends on parameters alone has none": (
        """
        p[2, 4] = expand(m.p[1, 4])
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(p, a)
        """,
        [],
    ),
    "a size that is used inside does not keep a branch": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        - = size(a) {'feeds': ('b',)}
        b[2, 4] = reshape(a)
        c[2, 4] = add(x, b)
        """,
        ["m+: operand 1 of c, 2 nodes"],
    ),
    "a size that is used outside keeps what it is asked of": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        - = size(a) {'feeds': ('d',)}
        b[2, 4] = linear(a, n.b.weight[4, 4])
        c[2, 4] = add(x, b)
        d[2, 4] = reshape(c)
        """,
        ["n+: operand 1 of c, 1 nodes"],
    ),
    "what has no parameters is none": (
        """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = relu(a)
        c[2, 4] = add(a, b)
        """,
        [],
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_branches(text, expected):
    assert [str(branch) for branch in find_branches(graph_of(text))] == expected


def test_what_is_returned_is_no_branch():
    text = """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(x, a)
    """
    assert find_branches(graph_of(text, outputs=("a", "b"))) == ()


def test_branch_of_both_modes_is_one_with_two_places():
    text = """
        a[2, 4] = linear(x[2, 4], m.a.weight[4, 4])
        b[2, 4] = add(x, a)
        t[2, 4] = elementwise(x)
        c[2, 4] = linear(t, m.a.weight)
        d[2, 4] = add(t, c)
        e[2, 4] = linear(d, n.a.weight[4, 4])
        f[2, 4] = add(d, e)
    """
    graph = graph_of(text, outputs=("b", "f"))
    expected = {
        "b": ["m+: operand 1 of b and operand 1 of d, 2 nodes"],
        "f": ["m+: operand 1 of d and operand 1 of b, 2 nodes", "n+: operand 1 of f, 1 nodes"],
    }
    for value, other in (graph.outputs, graph.outputs[::-1]):  # of evaluation and of training
        branches = find_branches(replace(graph, results=(value,), others=((other,),)))
        assert [str(branch) for branch in branches] == expected[value.name]


def test_every_addition_keeps_an_operand():
    text = "".join(f"a{i}[2, 4] = linear(x[2, 4], m.{i}.weight[4, 4])\n" for i in range(3))
    graph = graph_of(text + "s[2, 4] = add(a0, a1, a2)")
    assert [branch.places[0][1] for branch in find_branches(graph)] == [1, 2]
