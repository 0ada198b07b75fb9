"""How many elements are alive at one time, compared with an evaluation that is watched."""

import itertools
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, fx, nn

import fxprune
from fxprune.passes.analyse import analyse
from fxprune.testing import keep_sets, networks
from fxprune.torch.frontend.program import read_model
from fxprune.torch.measuring import costs_of
from fxprune.torch.record import attach, record_of
from fxprune.torch.recorded import recorded
from tests.passes.written import graph_of
from tests.torch.models import Residual, half, images, randomise
from tests.vision import torchvision

WATCHED = """
    conv activation normalisation concatenation split_and_join depthwise grouped strided transposed
    tied pooling layer_scale squeeze_excitation channel_slice channel_padding gated_unit dropout
    activation_module
"""
"""Kinds of steps that write nothing in place and whose views torch makes without copying."""


class Watch(fx.Interpreter):
    """Runs a graph and drops what no later node reads; arrays are told apart by their memory."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        owned = (*module.parameters(), *module.buffers())
        self.owned = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self.most = 0

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op not in ("placeholder", "output"):
            values = torch.utils._pytree.tree_leaves((list(self.env.values()), result))
            self.most = max(self.most, self.alive(values))
        return result

    def alive(self, values: list[object]) -> int:
        """Elements of all distinct arrays; a part of one is an array of its own."""
        arrays = {}
        for x in values:
            if isinstance(x, Tensor):
                memory = x.untyped_storage()
                elements = min(x.numel(), memory.nbytes() // x.element_size())
                arrays[memory.data_ptr(), x.storage_offset(), elements] = elements
        return sum(n for (memory, *_), n in arrays.items() if memory not in self.owned)


def watched(model: nn.Module, x: Tensor) -> int:
    """The most elements that are alive while a traced module is evaluated."""
    watch = Watch(recorded(model.eval()))
    with torch.no_grad():
        watch.run(x)
    return watch.most


def check_peak(model: nn.Module, x: Tensor) -> None:
    """What is predicted for a folded model is what is seen when it runs."""
    predicted, seen = costs_of(model)["peak"], watched(model, x)
    assert predicted == seen, f"predicted {predicted}, seen {seen}"


def vision(name: str) -> nn.Module:
    """A torchvision model that writes nothing in place."""
    model = torchvision.models.get_model(name, weights=None).eval()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("branches", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_peak_of_folded_model_is_what_is_seen(name, branches, seed):
    x = torch.zeros(1, 3, 64, 64)
    gated = fxprune.prepare(vision(name), x, target=1.0)
    fxprune.set_keep_set(gated, half(gated, seed, branches=branches))
    check_peak(fxprune.fold(gated), x)


def test_peak_of_concatenations_is_what_is_seen():
    x = torch.zeros(1, 3, 32, 32)
    gated = fxprune.prepare(vision("densenet121"), x, target=1.0)
    fxprune.set_keep_set(gated, half(gated))
    check_peak(fxprune.fold(gated), x)


class Skips(nn.Module):
    """A chain of residual blocks inside a skip, and two values that live long."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.ModuleList(nn.Conv2d(8, 10 * (i + 1), 3, padding=1) for i in range(depth))
        self.back = nn.ModuleList(nn.Conv2d(10 * (i + 1), 8, 3, padding=1) for i in range(depth))
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.stem(x)
        for wide, back in zip(self.wide, self.back, strict=True):
            y = y + back(wide(y))
        y = self.last(y).sin()
        return self.head(torch.cat([y.cos().exp(), first], dim=1))


@pytest.mark.parametrize("kept", list(itertools.product([0, 1], repeat=3)))
def test_peak_knows_what_stands_for_a_closed_branch(kept):
    gated = fxprune.prepare(randomise(Skips()), images(1), target=1.0)
    names = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    assert len(names) == 3
    fxprune.set_keep_set(gated, {name: [flag] for name, flag in zip(names, kept, strict=True)})
    check_peak(fxprune.fold(gated), images(1))


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(networks(WATCHED.split()), st.data())
def test_peak_of_random_networks_is_what_is_seen(network, data):
    gated = fxprune.prepare(network.eval(), network.inputs, target=1.0)
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    folded = fxprune.fold(gated)
    predicted, seen = costs_of(folded)["peak"], watched(folded, *network.inputs)
    assert predicted == seen // len(network.inputs[0])


def test_watching_finds_a_wrong_peak():
    model = fxprune.fold(fxprune.prepare(randomise(Residual()), images(1)))
    other = analyse(read_model(Skips(), [(images(2),)]).ir)
    attach(model, replace(record_of(model), analysis=other))
    with pytest.raises((AssertionError, KeyError)):
        check_peak(model, images(1))


CHAIN = """
    a[2, 8, 6] = conv(x[2, 3, 6], a.weight[8, 3, 1]) {'sizes': {'g': 1}}
    b[2, 8, 6] = elementwise(a)
    c[2, 8, 6] = elementwise(b)
    v[2, 48] = reshape(c)
    y[2, 5] = linear(v, y.weight[5, 48])
"""


def test_points_that_others_exceed_are_left_out():
    assert str(analyse(graph_of(CHAIN)).costs.polynomials["peak"]) == "max(18 + 6*a, 12*a)"


def test_views_are_the_array_that_they_show():
    grown = CHAIN.replace("reshape(c)", "mystery(c)")
    found = [analyse(graph_of(text)).costs for text in (CHAIN, grown)]
    assert [c.at(c.full)["peak"] for c in found] == [2 * 48, 2 * 48]
    grown = CHAIN.replace("elementwise(b)", "identity(b)")
    assert analyse(graph_of(grown)).costs.at({"a": 8})["peak"] == 2 * 48


def test_many_blocks_inside_a_skip_cost_no_more_than_is_safe():
    gated = fxprune.prepare(randomise(Skips(12)), images(1), target=1.0)
    assert len(str(record_of(gated).analysis.costs.polynomials["peak"])) < 20_000
    for seed in range(4):
        fxprune.set_keep_set(gated, half(gated, seed, branches=0.5))
        folded = fxprune.fold(gated)
        assert costs_of(gated)["peak"] >= watched(folded, images(1))
