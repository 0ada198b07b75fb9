"""What layers are before and after pruning."""

from dataclasses import replace

import pytest

from fxprune.ir import Value, ValueKind
from fxprune.passes.analyse import analyse
from fxprune.passes.layers import layers_of
from tests.passes.example import example
from tests.passes.written import graph_of, lines


def shown(analysis, sizes):
    return "\n".join(map(str, layers_of(analysis, sizes)))


def test_layers_are_what_multiplies_and_what_owns_parameters():
    assert shown(example(), {"a": 5, "b": 2, "d+": 1}) == lines("""
        a (conv): width 8 -> 5, macs 7776 -> 4860, params 224 -> 140
        b (conv): width 6 -> 2, macs 1728 -> 360, params 48 -> 10
        m (batch_norm): width 6 -> 2, macs 0 -> 0, params 12 -> 4
        c (conv): width 8 -> 5, macs 1728 -> 360, params 48 -> 10
        e (conv): width 5 -> 5, macs 1440 -> 900, params 40 -> 25
        h (linear): width 4 -> 4, macs 1872 -> 1440, params 1872 -> 1440
    """)


def test_layers_of_a_closed_branch_are_removed():
    assert shown(example(), {"d+": 0}) == lines("""
        a (conv): width 8 -> 8, macs 7776 -> 7776, params 224 -> 224
        b (conv): width 6 -> removed, macs 1728 -> 0, params 48 -> 0
        m (batch_norm): width 6 -> removed, macs 0 -> 0, params 12 -> 0
        c (conv): width 8 -> removed, macs 1728 -> 0, params 48 -> 0
        e (conv): width 5 -> 5, macs 1440 -> 1440, params 40 -> 40
        h (linear): width 4 -> 4, macs 1872 -> 1872, params 1872 -> 1872
    """)


def check_sums(analysis, sizes):
    layers = layers_of(analysis, sizes)
    full = analysis.costs.full
    for when, costs in (
        ("before", analysis.costs.at(full)),
        ("after", analysis.costs.at({**full, **sizes})),
    ):
        for cost in ("macs", "params"):
            assert sum(getattr(layer, f"{cost}_{when}") for layer in layers) == costs[cost]


@pytest.mark.parametrize("a", [1, 8])
@pytest.mark.parametrize("branch", [0, 1])
def test_layers_add_up_to_costs(a, branch):
    check_sums(example(), {"a": a, "e": 3, "d+": branch})


def test_sums_find_a_layer_that_is_left_out():
    analysis = example()
    types = replace(analysis.types, contractions=analysis.types.contractions[1:])
    with pytest.raises(AssertionError):
        check_sums(replace(analysis, types=types), {})


SHARED = """
    a[2, 4, 6, 6] = conv(x[2, 4, 6, 6], a.weight[4, 4, 1, 1]) {'sizes': {'g': 1}}
    b[2, 4, 6, 6] = conv(a, b.weight[4, 4, 1, 1]) {'sizes': {'g': 1}}
    c[2, 4, 6, 6] = add(a, b)
    d[2, 4, 6, 6] = conv(c, b.weight) {'sizes': {'g': 1}}
"""


def test_shared_parameters_stay_while_one_layer_stays():
    analysis = analyse(graph_of(SHARED))
    (branch,) = analysis.branches
    assert shown(analysis, {branch.name: 0}).splitlines()[1:] == [
        "b (conv): width 4 -> removed, macs 576 -> 0, params 16 -> 16",
        "b (conv): width 4 -> 4, macs 576 -> 576, params 0 -> 0",
    ]
    check_sums(analysis, {branch.name: 0})


def test_parameters_that_nothing_reads_are_layers_of_their_own():
    graph = graph_of(SHARED)
    idle = Value("idle.weight", (3, 5), ValueKind.PARAMETER, trained=True)
    analysis = analyse(replace(graph, parameters=(*graph.parameters, idle)))
    assert str(layers_of(analysis, {})[-1]) == (
        "idle.weight (unread): width 0 -> 0, macs 0 -> 0, params 15 -> 15"
    )
    check_sums(analysis, {})


def test_macs_of_weights_alone_count_whole():
    weights_alone = """
        w[3, 5] = linear(v.weight[3, 4], u.weight[5, 4])
        s[5] = sum(w) {'dims': (0,), 'keepdim': False}
        y[2, 5] = linear(x[2, 3], p.weight[5, 3], s)
    """
    analysis = analyse(graph_of(weights_alone))
    assert [layer.macs_before for layer in layers_of(analysis, {})] == [60, 15]
    check_sums(analysis, {})


def test_macs_of_a_cut_batch_are_rounded_as_those_of_the_model_are():
    films = """
        a[4, 3] = linear(x[4, 3], a.weight[3, 3])
        f[2, 2, 3] = reshape(a)
        m[2, 3] = sum(f) {'dims': (1,), 'keepdim': False}
        b[2, 3] = linear(m, b.weight[3, 3])
        y[2, 5] = linear(b, y.weight[5, 3])
    """
    analysis = analyse(graph_of(films, batch=4))
    assert [layer.macs_before for layer in layers_of(analysis, {})] == [9, 4, 8]
    check_sums(analysis, {})


def test_positions_that_are_added_do_not_count_as_width():
    analysis = analyse(
        graph_of("""
            a[2, 7, 8] = linear(x[2, 7, 3], a.weight[8, 3])
            p[2, 7, 8] = add(a, p.weight[7, 8])
        """)
    )
    assert [layer.width_before for layer in layers_of(analysis, {})] == [8, 8]
