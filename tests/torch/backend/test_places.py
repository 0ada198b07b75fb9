from types import SimpleNamespace

import pytest
import torch
from torch import nn

import fxprune
from fxprune.torch.backend.places import count_on, first_ones, numbered_in
from fxprune.torch.frontend.modes import in_evaluation


class Counting(nn.Module):
    """A part of a layer that writes down its number where it is told to, as attention does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer_idx = number
        self.linear = nn.Linear(4, 4)

    def forward(self, x, cache=None):
        if cache is not None:
            cache.update(self.layer_idx)
        return self.linear(x)


class Layer(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.part = Counting(number)

    def forward(self, x, cache=None):
        return x + self.part(x, cache=cache).tanh()


class Network(nn.Module):
    def __init__(self, layers: int = 3, kinds: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config = SimpleNamespace(to_dict=dict, kinds=list(kinds))
        self.layers = nn.ModuleList(map(Layer, range(layers)))

    def forward(self, x, cache=None):
        for layer in self.layers:
            x = layer(x, cache=cache)
        return x


class Cache(list):
    update = list.append


def test_numbers_are_found_by_what_they_are_and_not_by_name():
    network = Network()
    for number, layer in enumerate(network.layers):
        layer.__dict__["place"] = number
        layer.__dict__["width"] = 4
        layer.__dict__["later"] = number + 1
    found = {(each.attribute, each.paths[1]) for each in numbered_in(network)}
    assert found == {("place", "layers.1"), ("layer_idx", "layers.1.part")}


@pytest.mark.parametrize(
    ("gone", "numbers"), [((0,), [0, 1]), ((1,), [0, 1]), ((0, 1), [0]), ((), [0, 1, 2])]
)
def test_what_is_left_counts_on(gone, numbers):
    full, small = Network(), Network()
    for layer in gone:
        small.layers[layer].part = nn.Identity()
    count_on(full, small)
    left = [m.layer_idx for m in small.modules() if isinstance(m, Counting)]
    assert left == numbers
    assert [m.layer_idx for m in full.modules() if isinstance(m, Counting)] == [0, 1, 2]


def test_layers_of_different_kinds_keep_their_numbers_and_the_first_stays():
    full, small = (Network(kinds=("a", "b", "a")) for _ in range(2))
    small.layers[0].part = nn.Identity()
    count_on(full, small)
    assert [layer.part.layer_idx for layer in small.layers[1:]] == [1, 2]
    assert first_ones(full) == ["layers.0.part"]
    assert first_ones(Network(kinds=("a", "a", "a"))) == []
    full.layers[2].part = nn.Identity()  # no number here
    assert first_ones(full) == ["layers.0.part"]


@pytest.mark.parametrize("gone", range(3))
def test_a_folded_network_numbers_what_it_has(gone):
    gated = fxprune.prepare(Network(), torch.randn(2, 4), target=1.0)
    keep = fxprune.keep_set(gated)
    branches = [name for name in keep if name.endswith("+")]
    fxprune.set_keep_set(gated, {**keep, branches[gone]: [False]})
    folded = fxprune.fold(gated)
    cache = Cache()
    with in_evaluation(folded):
        folded(torch.randn(2, 4), cache)
    assert cache == [0, 1]
