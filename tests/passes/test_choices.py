"""What a model chooses among, and where the numbers of what it chose go: a line in, the facts out.

Written as in test_structural.py.
"""

import pytest

from fxprune.passes import choices
from fxprune.passes.groups import find_groups
from fxprune.passes.infer import infer
from tests.passes.test_structural import apart, found_facts, found_reasons
from tests.passes.written import graph_of, lines

TOPK = "{'dim': 1, 'k': 2, 'largest': True}"
CHOSEN = f"v[3, 2], n[3, 2] = topk(a.x[3, 5]) {TOPK}\n"
BINS = "{'first': 0, 'last': 4}"

CASES = {
    # rule: [(what it shows, line, facts, reasons of pins), ...]
    "topk": [
        (
            "what is chosen among is read",
            f"v[3, 2], n[3, 2] = topk(a.x[3, 5]) {TOPK}",
            """
            a.x: a:3 b:5
            v: a:3 2!
            n: a:3 2!
            v reads 0:1 b:5 (choose)
            """,
            ["put in order by v (topk)"],
        ),
        (
            "the smallest are not chosen",
            "v[3, 2], n[3, 2] = topk(a.x[3, 5]) {'dim': 1, 'k': 2, 'largest': False}",
            """
            a.x: a:3 5!
            v: a:3 2!
            n: a:3 2!
            """,
            ["put in order by v (topk)"],
        ),
        (
            "who takes all chooses nothing",
            "v[3, 5], n[3, 5] = topk(a.x[3, 5]) {'dim': 1, 'k': 5, 'largest': True}",
            """
            a.x: a:3 5!
            v: a:3 5!
            n: a:3 5!
            """,
            ["put in order by v (topk)"],
        ),
        (
            "arithmetic with numbers of positions pins these",
            f"{CHOSEN}y[3, 2] = elementwise(n)",
            """
            a.x: a:3 5!
            v: a:3 2!
            n: a:3 2!
            y: a:3 2!
            v reads 0:1 b:5 (choose)
            """,
            ["its positions are numbers in y (elementwise)", "put in order by v (topk)"],
        ),
    ],
    "softmax": [
        (
            "what is compared is pinned",
            "y[3, 5] = softmax(a.x[3, 5]) {'dims': (1,)}",
            """
            a.x: a:3 5!
            y: a:3 5!
            """,
            ["compared or mixed along in y (softmax)"],
        ),
        (
            "what is compared and then chosen among is read",
            f"y[3, 5] = softmax(a.x[3, 5]) {{'dims': (1,)}}\nv[3, 2], n[3, 2] = topk(y) {TOPK}",
            """
            a.x: a:3 b:5
            y: a:3 b:5
            v: a:3 2!
            n: a:3 2!
            v reads 0:1 b:5 (choose)
            y reads 0:1 b:5 (normalise)
            """,
            ["put in order by v (topk)"],
        ),
    ],
    "histc": [
        (
            "numbers of positions have a bin each",
            f"{CHOSEN}m[6] = reshape(n)\nc[5] = histc(m) {BINS}",
            """
            a.x: a:3 b:5
            v: a:3 2!
            n: a:3 2!
            m: (a:3 x c:2)
            c: b:5
            v reads 0:1 b:5 (choose)
            m.shape[0] is (a:3 x c:2)
            c.bins[0] is b:5
            """,
            ["put in order by v (topk)"],
        ),
        (
            "other bins are something else",
            f"{CHOSEN}c[5] = histc(n) {{'first': 0, 'last': 5}}",
            """
            a.x: 3! 5!
            v: 3! 2!
            n: 3! 2!
            c: 5!
            v reads 0:1 a:5 (choose)
            """,
            [
                "bins of something else than positions in c (histc)",
                "put in order by v (topk)",
            ],
        ),
    ],
    "cumsum": [
        (
            "sums of numbers so far are pinned",
            "y[3, 5] = cumsum(a.x[3, 5]) {'dims': (1,)}",
            """
            a.x: a:3 5!
            y: a:3 5!
            """,
            ["compared or mixed along in y (cumsum)"],
        ),
        (
            "counts so far are not: an empty one adds nothing",
            f"{CHOSEN}c[5] = histc(n) {BINS}\ny[5] = cumsum(c) {{'dims': (0,)}}",
            """
            a.x: a:3 b:5
            v: a:3 2!
            n: a:3 2!
            c: b:5
            y: b:5
            v reads 0:1 b:5 (choose)
            c.bins[0] is b:5
            """,
            ["put in order by v (topk)"],
        ),
    ],
    "gather": [
        (
            "an axis indexed by an array is pinned, and so is what replaces it",
            "y[2, 5, 6] = gather(a.x[2, 7], i[5, 6]) {'dims': (1,)}",
            """
            i: 5! 6!
            a.x: a:2 7!
            y: a:2 5! 6!
            """,
            ["network input", "indexed by position in y (gather)"],
        ),
        (
            "so is an index that the model owns, which others may read too",
            "y[2, 5] = gather(a.x[2, 7], b.running[5]) {'dims': (1,)}",
            """
            a.x: a:2 7!
            b.running: 5!
            y: a:2 5!
            """,
            ["indexed by position in y (gather)"],
        ),
        (
            "what is indexed by numbers of positions has these",
            f"{CHOSEN}y[3, 2, 4] = gather(b.w[5, 4], n) {{'dims': (0,)}}",
            """
            a.x: 3! a:5
            v: 3! 2!
            n: 3! 2!
            b.w: a:5 b:4
            y: 3! 2! b:4
            v reads 0:1 a:5 (choose)
            """,
            ["indexed by position in y (gather)", "put in order by v (topk)"],
        ),
        (
            "an axis of another size has not",
            f"{CHOSEN}y[3, 2, 4] = gather(b.w[6, 4], n) {{'dims': (0,)}}",
            """
            a.x: 3! 5!
            v: 3! 2!
            n: 3! 2!
            b.w: 6! a:4
            y: 3! 2! a:4
            v reads 0:1 b:5 (choose)
            """,
            ["indexed by position in y (gather)", "put in order by v (topk)"],
        ),
    ],
    "take_along": [
        (
            "axes beside the one that is indexed are those of the index",
            "y[2, 3] = take_along(a.x[2, 7], b.i[2, 3]) {'dim': 1}",
            """
            a.x: a:2 7!
            b.i: a:2 3!
            y: a:2 3!
            """,
            ["indexed by position in y (take_along)", "cuts the input of y (take_along)"],
        ),
        (
            "an axis that the index cuts is pinned",
            "y[1, 3] = take_along(a.x[2, 7], b.i[1, 3]) {'dim': 1}",
            """
            a.x: 2! 7!
            b.i: 1! 3!
            y: 1! 3!
            """,
            [
                "cut by the index of y (take_along)",
                "indexed by position in y (take_along)",
                "cuts the input of y (take_along)",
            ],
        ),
    ],
    "ranked": [
        (
            "positions that are put in order are pinned",
            "y[2, 3], i[2, 3] = ranked(a.x[2, 7]) {'dim': 1}",
            """
            a.x: a:2 7!
            y: a:2 3!
            i: a:2 3!
            """,
            ["put in order by y (ranked)"],
        ),
    ],
}


@pytest.mark.parametrize("rule", choices.RULES)
def test_every_rule_has_a_case(rule):
    assert rule in CASES


@pytest.mark.parametrize(
    ("line", "expected", "reasons"),
    [
        pytest.param(line, expected, reasons, id=f"{rule}: {claim}")
        for rule, cases in CASES.items()
        for claim, line, expected, reasons in cases
    ],
)
def test_rule(line, expected, reasons):
    types = infer(apart(line))
    assert found_facts(types) == lines(expected).splitlines()
    assert found_reasons(types) == reasons


ROUTER = f"""
    x[6, 5] = linear(i[6, 3], router.weight[5, 3])
    v[6, 2], n[6, 2] = topk(x) {TOPK}
    m[12] = reshape(n)
    s[12], order[12] = ranked(m) {{'dim': 0}}
    c[5] = histc(s) {BINS}
    e[5] = cumsum(c) {{'dims': (0,)}}
    y[12, 4] = grouped_mm(r[12, 3], up.weight[5, 3, 4], e) {{'multiple': 1}}
    """


def test_experts_are_what_a_router_chooses_among():
    graph = graph_of(ROUTER)
    (experts,) = (group for group in find_groups(graph, infer(graph)) if not group.pin)
    assert experts.members == ("router.weight:0", "up.weight:0")
    assert experts.numbers.least == 2


def test_numbers_that_the_model_returns_pin_what_they_number():
    types = infer(graph_of(ROUTER, outputs=("y", "n")))
    (space,) = types.axes["router.weight"][:1]
    assert types.pins[space] == "its positions are numbers that the model returns"


def test_ends_that_nobody_counted_pin_the_matrices():
    types = infer(graph_of(ROUTER.replace("up.weight[5, 3, 4], e)", "up.weight[5, 3, 4], j[5])")))
    assert types.pins[types.axes["up.weight"][0]].startswith(("one for each run", "network input"))
