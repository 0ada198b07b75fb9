"""Layers of which nothing is left go out of their list, and the model is that of fewer layers."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

import fxprune
from fxprune.torch.backend.depth import moved_up, renamed, sayable_layers
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.frontend.modes import in_evaluation
from fxprune.torch.precision import relative_error


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(x).tanh()


class Activated(Layer):
    """A layer of which something is left without its branch."""

    def forward(self, x):
        return super().forward(x).relu()


class Network(nn.Module):
    def __init__(self, kind: type[Layer] = Layer, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(kind(6) for _ in range(layers))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class ByNumber(Network):
    """A network in which each layer is scaled by its place."""

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x) * (1 + number)
        return self.head(x)


def without(model: nn.Module, example: Any, *places: str) -> Any:
    """A model gated, and folded without the branches of some layers."""
    gated = fxprune.prepare(model, example, target=1.0)
    keep = {name: torch.ones_like(flags) for name, flags in fxprune.keep_set(gated).items()}
    for name, flags in keep.items():
        if name.endswith("+") and name.rstrip("+") in places:
            flags.zero_()
    fxprune.set_keep_set(gated, keep)
    return gated, fxprune.fold(gated)


@pytest.mark.parametrize("gone", [(0,), (3,), (1, 2)])
def test_layers_that_hand_on_what_they_are_given_go(gone):
    model, x = Network(), torch.randn(5, 6)
    gated, folded = without(model, x, *(f"layers.{layer}" for layer in gone))
    assert len(folded.layers) == 4 - len(gone)
    assert generated_code(folded) == {}
    left = [layer for number, layer in enumerate(model.layers) if number not in gone]
    for now, before in zip(folded.layers, left, strict=True):
        assert torch.equal(now.linear.weight, before.linear.weight)
    with in_evaluation(gated), in_evaluation(folded):
        assert torch.equal(gated(x), folded(x))
    assert fxprune.verify(gated, folded)


def test_the_file_of_a_shorter_model_loads_with_plain_torch_and_by_load(tmp_path):
    model, x = Network(), torch.randn(5, 6)
    _, folded = without(model, x, "layers.1")
    plain = Network(layers=3)
    plain.load_state_dict(folded.state_dict())
    assert torch.equal(plain(x), folded(x))
    fxprune.save(folded, tmp_path / "folded")
    assert torch.equal(fxprune.load(tmp_path / "folded", Network())(x), folded(x))


def test_a_shorter_model_is_prepared_and_folded_again_and_saved(tmp_path):
    model, x = Network(), torch.randn(5, 6)
    _, once = without(model, x, "layers.1")
    gated, twice = without(once, x, "layers.0", "layers.2")
    assert len(twice.layers) == 1
    assert torch.equal(twice.layers[0].linear.weight, model.layers[2].linear.weight)
    fxprune.save(twice, tmp_path / "folded")
    assert torch.equal(fxprune.load(tmp_path / "folded", Network())(x), twice(x))
    assert fxprune.verify(gated, twice)


def test_an_optimizer_has_the_parameters_of_the_shorter_model():
    gated, _ = without(Network(), torch.randn(5, 6), "layers.1")
    optimizer = torch.optim.Adam(gated.parameters())
    gated(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    folded, smaller = fxprune.fold(gated, optimizer=optimizer)
    held = {id(p) for group in smaller.param_groups for p in group["params"]}
    assert held == {id(p) for p in folded.parameters()}
    assert all(smaller.state[p]["exp_avg"].shape == p.shape for p in folded.parameters())


@pytest.mark.parametrize("model", [Network(Activated), ByNumber()])
def test_layers_stay_where_the_model_would_not_be_the_same_without(model):
    x = torch.randn(5, 6)
    gated, folded = without(model, x, "layers.1")
    assert len(folded.layers) == 4
    with in_evaluation(gated), in_evaluation(folded):
        assert relative_error(gated(x), folded(x)) < 1e-6


def test_all_layers_gone_leave_the_list_as_it_is():
    _, folded = without(Network(), torch.randn(5, 6), *(f"layers.{n}" for n in range(4)))
    assert len(folded.layers) == 4


def test_a_training_that_shrinks_keeps_its_layers_until_the_fold():
    gated, _ = without(Network(), torch.randn(5, 6), "layers.1")
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
    fxprune.shrink(gated, optimizer)
    assert len(gated.layers) == 4
    assert len(fxprune.fold(gated).layers) == 3


def test_names_move_up_where_they_count():
    assert moved_up(["0", "1", "2"], ["1"]) == {"0": "0", "2": "1"}
    assert moved_up(["first", "second", "third"], ["second"]) == {
        "first": "first",
        "third": "third",
    }
    model = Network()
    assert renamed("layers.3.linear.weight", model, ["layers.0", "layers.2"]) == (
        "layers.1.linear.weight"
    )
    assert renamed("layers.2.linear", model, ["layers.2"]) is None
    assert renamed("head.weight", model, ["layers.2"]) == "head.weight"


def test_what_a_checkpoint_takes_out_has_to_be_there(tmp_path):
    model, x = Network(), torch.randn(5, 6)
    _, folded = without(model, x, "layers.1")
    fxprune.save(folded, tmp_path / "folded")
    with pytest.raises(fxprune.CheckpointError, match="nothing to take out"):
        fxprune.load(tmp_path / "folded", ByNumber(Activated))


def test_layers_that_no_number_leaves_out_are_told_from_those_that_one_does():
    config = DeepseekV3Config(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, first_k_dense_replace=1
    )
    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(config)
    layers = [f"model.layers.{number}" for number in range(3)]  # the first has no experts
    assert sayable_layers(model, layers) == {"model.layers.1", "model.layers.2"}
    assert sayable_layers(Network(), ["layers.0", "layers.1"]) == {"layers.0", "layers.1"}
