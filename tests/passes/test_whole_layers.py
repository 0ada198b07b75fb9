"""Branches that are all of a layer, joined."""

import itertools

import pytest

from fxprune.errors import KeepSetError
from fxprune.flow import Flow
from fxprune.passes.analyse import Analysis, analyse
from fxprune.passes.fold import plan_fold
from fxprune.passes.whole_layers import (
    LayersOfList,
    check_layers,
    layers_again,
    lists_of_layers,
    put_together,
    taken_apart,
    whole_layers,
    with_layers,
)
from tests.passes.written import graph_of

LAYER = """
    a{n}[2, 4] = linear(h{n}, {path}.attn.weight[4, 4])
    s{n}[2, 4] = add(h{n}, a{n})
    u{n}[2, 6] = linear(s{n}, {path}.up.weight[6, 4])
    m{n}[2, 4] = linear(u{n}, {path}.down.weight[4, 6])
    h{next}[2, 4] = add(s{n}, m{n})
"""
NORMED = LAYER.replace("h{next}[2, 4] = add(s{n}, m{n})", "t{n}[2, 4] = add(s{n}, m{n})") + (
    "h{next}[2, 4] = layer_norm(t{n}, {path}.norm.weight[4], {path}.norm.bias[4]) {{'rank': 1}}"
)


def stack(*layers: tuple[str, str]) -> Analysis:
    """Layers of some text at some paths, one after the other."""
    text = "h0[2, 4] = linear(x[2, 3], stem.weight[4, 3])"
    for number, (layer, path) in enumerate(layers):
        text += layer.format(n=number, next=number + 1, path=path)
    text += f"\ny[2, 3] = linear(h{len(layers)}, head.weight[3, 4])"
    return analyse(graph_of(text))


def paths(analysis: Analysis) -> list[str]:
    return [layer.name for layer in whole_layers(analysis)]


THREE = [(LAYER, f"layers.{number}") for number in range(3)]


def test_a_layer_joins_the_branches_that_have_all_of_its_weights():
    analysis = stack(*THREE)
    layers = whole_layers(analysis)
    assert [layer.label for layer in layers] == [f"layers.{n}: layer" for n in range(3)]
    assert [name for layer in layers for name in layer.joins] == [b.name for b in analysis.branches]
    assert layers[1].places == (("s1", 1), ("h2", 1))
    assert set(layers[1].nodes) == {"a1", "u1", "m1"}


def test_what_keeps_weights_elsewhere_is_no_whole_layer():
    assert paths(stack(THREE[0], (NORMED, "layers.1"), THREE[2])) == ["layers.0", "layers.2"]
    assert paths(stack(*((NORMED, path) for _, path in THREE))) == []


def test_a_norm_that_all_branches_of_a_layer_share_goes_with_them():
    shared = """
        n{n}[2, 4] = layer_norm(h{n}, {path}.norm.weight[4], {path}.norm.bias[4]) {{'rank': 1}}
        a{n}[2, 4] = linear(n{n}, {path}.attn.weight[4, 4])
        s{n}[2, 4] = add(h{n}, a{n})
        m{n}[2, 4] = linear(n{n}, {path}.down.weight[4, 4])
        h{next}[2, 4] = add(s{n}, m{n})
    """
    layers = whole_layers(stack(*((shared, path) for _, path in THREE)))
    assert [set(layer.nodes) for layer in layers] == [{f"{x}{n}" for x in "nam"} for n in range(3)]


def test_branches_that_add_to_something_else_than_one_another_are_no_layer():
    turned = LAYER.replace("linear(s{n},", "linear(r{n},").replace("add(s{n}, m", "add(r{n}, m")
    turned = turned.replace("    u{n}", "    r{n}[2, 4] = elementwise(s{n})\n    u{n}")
    assert paths(stack(*((turned, path) for _, path in THREE))) == []


def test_one_block_alone_is_no_layer_of_a_list():
    assert paths(stack((LAYER, "layers.0"))) == []
    assert paths(stack((LAYER, "first"), (LAYER, "second"))) == []


def test_of_lists_inside_of_one_another_the_outermost_counts():
    inner = [(LAYER, f"stages.{stage}.blocks.{block}") for stage in (0, 1) for block in (0, 1)]
    assert paths(stack(*inner)) == ["stages.0", "stages.1"]
    closed = [*inner, (NORMED, "stages.0.last"), (NORMED, "stages.1.last")]
    assert paths(stack(*closed)) == [path for _, path in inner]


def test_a_layer_costs_what_its_branches_do():
    apart = stack(*THREE)
    joined = with_layers(apart, whole_layers(apart))
    names = [layer.name for layer in joined.branches]
    for flags in itertools.product((0, 1), repeat=3):
        sizes = dict(zip(names, flags, strict=True))
        own = joined.costs.at({**joined.costs.full, **sizes})
        by_branch = taken_apart(sizes, joined.branches)
        assert own == apart.costs.at({**apart.costs.full, **by_branch})
        assert put_together(by_branch, joined.branches) == sizes
        keep = {name: [bool(flag)] for name, flag in sizes.items()}
        plans = (
            plan_fold(each.graph, each.types, each.groups, each.branches, own_keep)
            for each, own_keep in ((joined, keep), (apart, taken_apart(keep, joined.branches)))
        )
        one, other = (sorted(map(str, plan.drops)) + sorted(plan.removed) for plan in plans)
        assert one == other


def test_a_list_keeps_a_layer_where_all_of_it_are_layers():
    apart = stack(*THREE)
    joined = with_layers(apart, whole_layers(apart))
    assert lists_of_layers(joined) == {
        "layers": LayersOfList(("layers.0", "layers.1", "layers.2"), 1)
    }
    keep = {layer.name: [False] for layer in joined.branches}
    with pytest.raises(KeepSetError, match="layers keeps none of 3 layers: keep at least one"):
        check_layers(keep, joined)
    check_layers({**keep, "layers.1": [True]}, joined)
    some = with_layers(apart, whole_layers(apart)[1:])
    assert lists_of_layers(some) == {"layers": LayersOfList(("layers.1", "layers.2"), 0)}
    check_layers({layer.name: [False] for layer in some.branches}, some)


def test_layers_are_found_again_by_their_weights():
    joined = with_layers(stack(*THREE), whole_layers(stack(*THREE)))
    left = stack(THREE[0], THREE[2])
    again = layers_again(left, joined)
    assert [b.name for b in again.branches] == ["layers.0", "layers.2"]
    assert layers_again(left, stack(*THREE)) is left


def test_the_influence_of_a_layer_is_measured_from_its_beginning_to_its_end():
    joined = with_layers(stack(*THREE), whole_layers(stack(*THREE)))
    flow = Flow(joined)
    assert {"h0", "h1", "h2", "h3"} <= flow.names
    assert not {"s0", "s1", "s2"} & set(flow._sums)
