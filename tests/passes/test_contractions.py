"""What operators that contract arrays with one another do to axes: a line in, the facts out.

Written as in test_structural.py; the last entry of a case lists the multiply-accumulates as
products of sizes.
"""

import pytest

from fxprune.passes import contractions
from fxprune.passes.infer import infer
from tests.passes.test_structural import apart, found_facts, found_reasons
from tests.passes.written import lines

LSTM = "{'gates': 4, 'states': 2, 'biases': 1, 'layers': 1, 'directions': 1, 'time': 1}"
GRU = "{'gates': 3, 'states': 1, 'biases': 0, 'layers': 2, 'directions': 2, 'time': 0}"
PROJECTED = "{'gates': 4, 'states': 2, 'biases': 0, 'layers': 1, 'directions': 1, 'time': 0}"

CASES = {
    # rule: [(what it shows, line, facts, reasons of pins, products of sizes), ...]
    "matmul": [
        (
            "a weight is read where it is contracted",
            "y[2, 5, 6] = matmul(a.x[2, 5, 4], b.w[4, 6])",
            """
            a.x: a:2 b:5 c:4
            b.w: c:4 d:6
            y: a:2 b:5 d:6
            y reads 1:0 c:4 (contract)
            """,
            [],
            [(2, 5, 6, 4)],
        ),
        (
            "a weight on the left is read as well",
            "z[4, 6] = elementwise(i[4, 6])\ny[5, 6] = matmul(a.w[5, 4], z)",
            """
            i: 4! 6!
            z: 4! 6!
            a.w: a:5 4!
            y: a:5 6!
            y reads 0:1 b:4 (contract)
            """,
            ["network input"],
            [(5, 6, 4)],
        ),
        (
            "matrices are transposed first",
            "y[2, 5, 6] = matmul(a.x[2, 4, 5], b.w[6, 4]) {'transA': True, 'transB': True}",
            """
            a.x: a:2 b:4 c:5
            b.w: d:6 b:4
            y: a:2 c:5 d:6
            y reads 1:1 b:4 (contract)
            """,
            [],
            [(2, 5, 6, 4)],
        ),
        (
            "stacks of one matrix are stretched",
            "y[5, 2, 3, 6] = matmul(a.x[5, 1, 3, 4], b.x[2, 4, 6])",
            """
            a.x: a:5 b:1 c:3 d:4
            b.x: e:2 d:4 f:6
            y: a:5 e:2 c:3 f:6
            y reads 1:1 d:4 (contract)
            """,
            [],
            [(5, 2, 3, 6, 4)],
        ),
        (
            "a stack times a vector",
            "y[2, 5] = matmul(a.x[2, 5, 4], b.x[4])",
            """
            a.x: a:2 b:5 c:4
            b.x: c:4
            y: a:2 b:5
            y reads 1:0 c:4 (contract)
            """,
            [],
            [(2, 5, 4)],
        ),
        (
            "a vector times a stack",
            "y[2, 6] = matmul(a.x[4], b.x[2, 4, 6])",
            """
            a.x: a:4
            b.x: b:2 a:4 c:6
            y: b:2 c:6
            y reads 1:1 a:4 (contract)
            """,
            [],
            [(2, 6, 4)],
        ),
        (
            "two vectors",
            "y[] = matmul(a.x[4], b.x[4])",
            """
            a.x: a:4
            b.x: a:4
            y:
            y reads 1:0 a:4 (contract)
            """,
            [],
            [(4,)],
        ),
    ],
    "heads_attention": [
        (
            "heads are of queries, keys and values; their features are of two kinds",
            "y[2, 5, 9] = heads_attention(a.q[2, 5, 12], b.k[2, 7, 12], c.v[2, 7, 9]) {'heads': 3}",
            """
            a.q: a:2 b:5 (c:3 x d:4)
            b.k: a:2 7! (c:3 x d:4)
            c.v: a:2 7! (c:3 x e:3)
            y: a:2 b:5 (c:3 x e:3)
            y reads 0:2 (c:3 x d:4) (contract)
            y.num_heads[0] is c:3
            y.scale[0] is d:4
            """,
            ["compared in y (heads_attention)"],
            [(2, 5, 7, 3, 4), (2, 5, 7, 3, 3)],
        ),
    ],
    "baddbmm": [
        (
            "matrices are multiplied, what is added has their axes",
            "y[2, 5, 6] = baddbmm(a.x[2, 5, 6], b.x[2, 5, 4], c.x[2, 4, 6])",
            """
            a.x: a:2 b:5 c:6
            b.x: a:2 b:5 d:4
            c.x: a:2 d:4 c:6
            y: a:2 b:5 c:6
            y reads 2:1 d:4 (contract)
            """,
            [],
            [(2, 5, 6, 4)],
        ),
        (
            "what is added is stretched",
            "y[2, 5, 6] = baddbmm(a.b[1, 1, 6], b.w[2, 5, 4], c.x[2, 4, 6])",
            """
            a.b: a:1 b:1 c:6
            b.w: d:2 e:5 f:4
            c.x: d:2 f:4 c:6
            y: d:2 e:5 c:6
            y reads 2:1 f:4 (contract)
            """,
            [],
            [(2, 5, 6, 4)],
        ),
    ],
    "grouped_mm": [
        (
            "rows in runs are multiplied, each run by its own matrix",
            "y[5, 6] = grouped_mm(a.x[5, 4], b.w[3, 4, 6], c.ends[3]) {'multiple': 1}",
            """
            a.x: 5! a:4
            b.w: 3! a:4 b:6
            c.ends: 3!
            y: 5! b:6
            y reads 1:1 a:4 (contract)
            """,
            ["put in runs in y (grouped_mm)", "one for each run in y (grouped_mm)"],
            [(5, 6, 4)],
        ),
        (
            "what has no runs of rows is pinned",
            "y[3, 5, 6] = grouped_mm(a.x[3, 5, 4], b.w[3, 4, 6])",
            """
            a.x: 3! 5! 4!
            b.w: 3! 4! 6!
            y: 3! 5! 6!
            """,
            ["runs of other than rows at y (grouped_mm)"],
            [],
        ),
    ],
    "einsum": [
        (
            "a letter is an axis, and read where it ends",
            "y[2, 5, 7] = einsum(a.x[2, 4, 7], b.w[5, 4])"
            " {'terms': (tuple('bch'), tuple('oc')), 'output': tuple('boh')}",
            """
            a.x: a:2 b:4 c:7
            b.w: d:5 b:4
            y: a:2 d:5 c:7
            y reads 1:1 b:4 (contract)
            """,
            [],
            [(2, 4, 7, 5)],
        ),
        (
            "what dots stand for is stretched",
            "y[2, 3, 5] = einsum(a.x[2, 1, 4], b.w[3, 4, 5])"
            " {'terms': (tuple('10c'), tuple('0co')), 'output': tuple('10o')}",
            """
            a.x: a:2 b:1 c:4
            b.w: d:3 c:4 e:5
            y: a:2 d:3 e:5
            y reads 1:1 c:4 (contract)
            """,
            [],
            [(2, 3, 4, 5)],
        ),
        (
            "an operand that is stretched is not read",
            "y[2] = einsum(a.s[2, 1], b.x[2, 4])"
            " {'terms': (tuple('bc'), tuple('bc')), 'output': ('b',)}",
            """
            a.s: a:2 b:1
            b.x: a:2 c:4
            y: a:2
            y reads 1:1 c:4 (contract)
            """,
            [],
            [(2, 4)],
        ),
        (
            "a diagonal has equal axes",
            "y[4] = einsum(a.x[4, 4], b.x[4]) {'terms': (tuple('cc'), ('c',)), 'output': ('c',)}",
            """
            a.x: a:4 a:4
            b.x: a:4
            y: a:4
            """,
            [],
            [(4,)],
        ),
        (
            "three operands are read once",
            "y[2] = einsum(a.x[2, 4], b.x[2, 4], c.x[4])"
            " {'terms': (tuple('bc'), tuple('bc'), ('c',)), 'output': ('b',)}",
            """
            a.x: a:2 b:4
            b.x: a:2 b:4
            c.x: b:4
            y: a:2
            y reads 2:0 b:4 (contract)
            """,
            [],
            [(2, 4)],
        ),
    ],
    "cosine": [
        (
            "both arrays are read",
            "y[2, 5] = cosine(a.x[2, 4, 5], b.x[4, 1]) {'dim': 1}",
            """
            a.x: a:2 b:4 c:5
            b.x: b:4 d:1
            y: a:2 c:5
            y reads 0:1 b:4 (contract)
            y reads 1:0 b:4 (contract)
            """,
            [],
            [],
        ),
    ],
    "embedding_bag": [
        (
            "rows and bags are found by position, columns stay",
            "y[3, 6] = embedding_bag(i[8], a.w[5, 6], j[3])",
            """
            i: 8!
            j: 3!
            a.w: 5! a:6
            y: 3! a:6
            """,
            [
                "network input",
                "indexed by position in y (embedding_bag)",
                "bags of y (embedding_bag)",
            ],
            [],
        ),
    ],
    "attention": [
        (
            "features are contracted and carried; what is attended to is compared",
            "y[2, 3, 5, 6] = attention(a.q[2, 3, 5, 4], b.k[2, 3, 7, 4], c.v[2, 3, 7, 6])",
            """
            a.q: a:2 b:3 c:5 d:4
            b.k: a:2 b:3 7! d:4
            c.v: a:2 b:3 7! e:6
            y: a:2 b:3 c:5 e:6
            y reads 0:3 d:4 (contract)
            y.scale[0] is d:4
            """,
            ["compared in y (attention)"],
            [(2, 3, 5, 7, 4), (2, 3, 5, 7, 6)],
        ),
        (
            "a mask is stretched to heads and rows",
            "y[2, 3, 5, 6] = attention(a.q[2, 3, 5, 4], b.k[2, 3, 7, 4], c.v[2, 3, 7, 6],"
            " d.m[3, 1, 7])",
            """
            a.q: a:2 b:3 c:5 d:4
            b.k: a:2 b:3 7! d:4
            c.v: a:2 b:3 7! e:6
            d.m: b:3 f:1 7!
            y: a:2 b:3 c:5 e:6
            y reads 0:3 d:4 (contract)
            y.scale[0] is d:4
            """,
            ["compared in y (attention)"],
            [(2, 3, 5, 7, 4), (2, 3, 5, 7, 6)],
        ),
        (
            "grouped heads are a product",
            "y[2, 6, 5, 4] = attention(a.q[2, 6, 5, 4], b.k[2, 3, 7, 4], c.v[2, 3, 7, 4])"
            " {'gqa': True}",
            """
            a.q: a:2 (b:3 x c:2) d:5 e:4
            b.k: a:2 b:3 7! e:4
            c.v: a:2 b:3 7! f:4
            y: a:2 (b:3 x c:2) d:5 f:4
            y reads 0:3 e:4 (contract)
            y.scale[0] is e:4
            """,
            ["compared in y (attention)"],
            [(2, 6, 5, 7, 4), (2, 6, 5, 7, 4)],
        ),
        (
            "a causal mask tells rows apart",
            "y[2, 5, 6] = attention(a.q[2, 5, 4], b.k[2, 7, 4], c.v[2, 7, 6]) {'causal': True}",
            """
            a.q: a:2 5! b:4
            b.k: a:2 7! b:4
            c.v: a:2 7! c:6
            y: a:2 5! c:6
            y reads 0:2 b:4 (contract)
            y.scale[0] is b:4
            """,
            ["compared in y (attention)"],
            [(2, 5, 7, 4), (2, 5, 7, 6)],
        ),
    ],
    "recurrent": [
        (
            "the gates of an LSTM share its hidden units",
            "y[2, 7, 3], h[1, 2, 3], c[1, 2, 3] = recurrent(a.x[2, 7, 5], a.h[1, 2, 3],"
            f" a.c[1, 2, 3], a.wi[12, 5], a.wh[12, 3], a.bi[12], a.bh[12]) {LSTM}",
            """
            a.x: a:2 7! b:5
            a.h: 1! a:2 c:3
            a.c: 1! a:2 c:3
            a.wi: (d:4 x c:3) b:5
            a.wh: (e:4 x c:3) c:3
            a.bi: (f:4 x c:3)
            a.bh: (g:4 x c:3)
            y: a:2 7! c:3
            h: 1! a:2 c:3
            c: 1! a:2 c:3
            y reads 3:1 b:5 (contract)
            y reads 4:1 c:3 (contract)
            """,
            [
                "walked through by y (recurrent)",
                "layers of y (recurrent)",
                "gates of y (recurrent)",
            ],
            [(2, 7, 12, 5), (2, 7, 12, 3)],
        ),
        (
            "both directions of a GRU feed its second layer",
            "y[7, 2, 6], h[4, 2, 3] = recurrent(a.x[7, 2, 4], a.h[4, 2, 3], a.wi[9, 4],"
            " a.wh[9, 3], b.wi[9, 4], b.wh[9, 3], c.wi[9, 6], c.wh[9, 3], d.wi[9, 6], d.wh[9, 3])"
            f" {GRU}",
            """
            a.x: 7! a:2 b:4
            a.h: 4! a:2 c:3
            a.wi: (d:3 x c:3) b:4
            a.wh: (e:3 x c:3) c:3
            b.wi: (f:3 x c:3) b:4
            b.wh: (g:3 x c:3) c:3
            c.wi: (h:3 x c:3) (c:3 + c:3)
            c.wh: (i:3 x c:3) c:3
            d.wi: (j:3 x c:3) (c:3 + c:3)
            d.wh: (k:3 x c:3) c:3
            y: 7! a:2 (c:3 + c:3)
            h: 4! a:2 c:3
            y reads 2:1 b:4 (contract)
            y reads 3:1 c:3 (contract)
            y reads 4:1 b:4 (contract)
            y reads 5:1 c:3 (contract)
            y reads 6:1 (c:3 + c:3) (contract)
            y reads 7:1 c:3 (contract)
            y reads 8:1 (c:3 + c:3) (contract)
            y reads 9:1 c:3 (contract)
            """,
            [
                "walked through by y (recurrent)",
                "layers of y (recurrent)",
                "gates of y (recurrent)",
            ],
            [
                *[(7, 2, 9, 4), (7, 2, 9, 3)] * 2,
                *[(7, 2, 9, 6), (7, 2, 9, 3)] * 2,
            ],
        ),
    ],
    "gemm": [
        (
            "a transposed weight and a bias",
            "y[5, 6] = gemm(a.x[5, 4], b.w[6, 4], c.b[6]) {'transA': False, 'transB': True}",
            """
            a.x: a:5 b:4
            b.w: c:6 b:4
            c.b: c:6
            y: a:5 c:6
            y reads 1:1 b:4 (contract)
            """,
            [],
            [(5, 6, 4)],
        ),
        (
            "a transposed input",
            "y[5, 6] = gemm(a.x[4, 5], b.w[4, 6]) {'transA': True, 'transB': False}",
            """
            a.x: a:4 b:5
            b.w: a:4 c:6
            y: b:5 c:6
            y reads 1:0 a:4 (contract)
            """,
            [],
            [(5, 6, 4)],
        ),
    ],
    "recurrent_layer": [
        (
            "weights stack the gates, a bias those of both weights, and directions stand first",
            "y[7, 1, 2, 3], h[1, 2, 3] = recurrent_layer(a.x[7, 2, 5], a.w[1, 9, 5],"
            " a.r[1, 9, 3], a.b[1, 18], -, a.h[1, 2, 3]) {'gates': 3}",
            """
            a.x: 7! a:2 b:5
            a.w: 1! (c:3 x d:3) b:5
            a.r: e:1 (f:3 x d:3) d:3
            a.b: g:1 (h:6 x d:3)
            a.h: i:1 a:2 d:3
            y: 7! 1! a:2 d:3
            h: 1! a:2 d:3
            y reads 1:2 b:5 (contract)
            y reads 2:2 d:3 (contract)
            y.hidden_size[0] is d:3
            """,
            [
                "walked through by y (recurrent_layer)",
                "directions of y (recurrent_layer)",
                "gates of y (recurrent_layer)",
            ],
            [(7, 2, 1, 9, 5), (7, 2, 1, 9, 3)],
        ),
    ],
    "recurrent_cell": [
        (
            "a step of an LSTM",
            "h[2, 3], c[2, 3] = recurrent_cell(a.x[2, 5], a.h[2, 3], a.c[2, 3], a.wi[12, 5],"
            " a.wh[12, 3], a.bi[12], a.bh[12]) {'gates': 4, 'states': 2}",
            """
            a.x: a:2 b:5
            a.h: a:2 c:3
            a.c: a:2 c:3
            a.wi: (d:4 x c:3) b:5
            a.wh: (e:4 x c:3) c:3
            a.bi: (f:4 x c:3)
            a.bh: (g:4 x c:3)
            h: a:2 c:3
            c: a:2 c:3
            h reads 3:1 b:5 (contract)
            h reads 4:1 c:3 (contract)
            """,
            ["gates of h (recurrent_cell)"],
            [(2, 12, 5), (2, 12, 3)],
        ),
        (
            "a step without biases",
            "h[2, 3] = recurrent_cell(a.x[2, 5], a.h[2, 3], a.wi[3, 5], a.wh[3, 3])"
            " {'gates': 1, 'states': 1}",
            """
            a.x: a:2 b:5
            a.h: a:2 c:3
            a.wi: c:3 b:5
            a.wh: c:3 c:3
            h: a:2 c:3
            h reads 2:1 b:5 (contract)
            h reads 3:1 c:3 (contract)
            """,
            [],
            [(2, 3, 5), (2, 3, 3)],
        ),
    ],
    "weight_norm": [
        (
            "every slice is scaled to a length, so the other axes are read",
            "y[6, 4, 3] = weight_norm(a.v[6, 4, 3], b.g[6, 1, 1]) {'dim': 0}",
            """
            a.v: a:6 b:4 c:3
            b.g: a:6 d:1 e:1
            y: a:6 b:4 c:3
            y reads 0:1 b:4 (contract)
            y reads 0:2 c:3 (contract)
            """,
            [],
            [],
        ),
        (
            "slices may lie along any axis",
            "y[6, 4] = weight_norm(a.v[6, 4], b.g[1, 4]) {'dim': 1}",
            """
            a.v: a:6 b:4
            b.g: c:1 b:4
            y: a:6 b:4
            y reads 0:0 a:6 (contract)
            """,
            [],
            [],
        ),
    ],
}


@pytest.mark.parametrize("rule", contractions.RULES)
def test_every_rule_has_a_case(rule):
    assert rule in CASES


@pytest.mark.parametrize(
    ("line", "expected", "reasons", "macs"),
    [
        pytest.param(*case, id=f"{rule}: {claim}")
        for rule, cases in CASES.items()
        for claim, *case in cases
    ],
)
def test_rule(line, expected, reasons, macs):
    types = infer(apart(line))
    assert found_facts(types) == lines(expected).splitlines()
    assert found_reasons(types) == reasons
    assert [tuple(axis.size for axis in c.axes) for c in types.contractions] == macs


def test_recurrent_layer_with_projections_is_pinned():
    types = infer(
        apart(
            "y[7, 2, 5], h[1, 2, 5], c[1, 2, 6] = recurrent(a.x[7, 2, 4], a.h[1, 2, 5],"
            f" a.c[1, 2, 6], a.wi[24, 4], a.wh[24, 5], a.wr[5, 6]) {PROJECTED}"
        )
    )
    assert all("!" in word for text in found_facts(types) for word in text.split()[1:])
