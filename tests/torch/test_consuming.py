"""Models that are changed in place, on request: the same result, or the model as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fxprune
from fxprune.testing import OPS, assert_same_state, assert_unchanged, keep_sets, networks
from fxprune.torch import fold as fold_module
from fxprune.torch.backend import consuming
from fxprune.torch.record import record_of
from tests.faults.test_memory import Walker
from tests.torch.backend.test_depth import Network
from tests.torch.models import Auxiliary, Residual, half, images, randomise
from tests.torch.test_language_models import llama, tokens


class Tied(nn.Module):
    """Two layers that share a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 8)
        self.last.weight = nn.Parameter(torch.randn(8, 6))
        self.again = nn.Linear(6, 6)
        self.again.weight = self.middle.weight

    def forward(self, x):
        return self.last(self.again(self.middle(self.first(x.flatten(2)[..., :8]).relu()).relu()))


def tied_llama() -> Any:
    model = llama()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


Made = tuple[Callable[[], Any], Any]
MODELS: dict[str, Made] = {
    "residual": (lambda: randomise(Residual()), images(1)),
    "shared twice": (lambda: randomise(Auxiliary()), images(1)),
    "recurrent": (lambda: randomise(Walker()), images(1)),
    "tied": (lambda: randomise(Tied()), images(1)),
    "llama": (llama, {"input_ids": tokens()}),
    "tied llama": (tied_llama, {"input_ids": tokens()}),
}


def build(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, example = MODELS[name]
    return make(), example


@pytest.fixture(params=MODELS)
def made(request) -> tuple[nn.Module, Any]:
    return build(request.param)


def test_prune_in_place_gives_the_bits_of_prune(made):
    model, example = made
    expected = fxprune.prune(copy.deepcopy(model), example)
    kind = type(model)
    got = fxprune.prune(model, example, copy=False)
    assert got is model
    assert_same_state(expected.state_dict(), got.state_dict())
    assert type(got) is kind
    assert fxprune.groups(got) == fxprune.groups(expected)
    assert fxprune.report(got, latency=False).after == fxprune.report(expected, latency=False).after


def test_a_model_gated_in_place_learns_and_folds_with_the_parameters_that_it_has(made):
    model, example = made
    own = {id(p) for p in model.parameters()}
    ordinary = fxprune.prepare(copy.deepcopy(model), example, target=1.0)
    gated = fxprune.prepare(model, example, target=1.0, copy=False)
    assert gated is model
    assert own <= {id(p) for p in gated.parameters()}
    keep = half(ordinary, branches=1.0)
    for each in (ordinary, gated):
        fxprune.set_keep_set(each, keep)
    assert_same_state(fxprune.fold(ordinary).state_dict(), fxprune.fold(gated).state_dict())


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_folds_that_consume_are_folds(data):
    network = data.draw(networks([name for name in OPS[2] if name != "dropout"], max_nodes=4))
    options = {name: data.draw(st.booleans(), name) for name in ("scatter", "in_kind")}
    gated = fxprune.prepare(network, network.inputs, target=1.0, **options)
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    expected = fxprune.fold(gated)
    consumed = fxprune.fold(gated, consume=True)
    assert consumed is gated
    assert_same_state(expected.state_dict(), consumed.state_dict())
    with torch.no_grad():
        pairs = zip(consumed.eval()(*network.inputs), expected.eval()(*network.inputs), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)


def test_a_layer_of_which_nothing_is_left_goes_out_in_place():
    gated = fxprune.prepare(Network(), torch.randn(2, 6), target=1.0)
    branches = [group.name for group in fxprune.groups(gated) if group.kind == "branch"]
    fxprune.set_keep_set(gated, {branches[1]: [False]})
    expected = fxprune.fold(gated)
    assert fxprune.fold(gated, consume=True) is gated
    assert len(gated.layers) == 3
    assert_same_state(expected.state_dict(), gated.state_dict())
    assert record_of(gated).history == record_of(expected).history


def test_a_part_is_changed_in_the_model_around_it():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), randomise(Residual()))
    expected = fxprune.prune(copy.deepcopy(model), images(1), scope="1")
    around, part = model[0].weight, model[1]
    got = fxprune.prune(model, images(1), scope="1", copy=False)
    assert got is model and got[1] is part and got[0].weight is around
    assert_same_state(expected.state_dict(), got.state_dict())
    assert torch.equal(got.eval()(images(2)), expected.eval()(images(2)))


def test_a_traced_module_is_folded_in_place_but_not_prepared():
    model = fx.symbolic_trace(randomise(Residual()))
    gated = fxprune.prepare(model, images(1))
    fxprune.reach_target(gated)
    expected = fxprune.fold(gated)
    assert fxprune.fold(gated, consume=True) is gated
    assert_same_state(expected.state_dict(), gated.state_dict())
    assert torch.equal(gated(images(2)), expected(images(2)))
    with pytest.raises(fxprune.InputError, match=r"copy=False: a torch\.fx\.GraphModule"):
        fxprune.prune(model, images(1), copy=False)


def test_frozen_weights_learn_again_after_a_fold_that_consumes():
    gated = fxprune.prepare(
        randomise(Residual()), images(1), method=fxprune.AutoBot(frozen=True), copy=False
    )
    fxprune.reach_target(gated)
    assert all(p.requires_grad for p in fxprune.fold(gated, consume=True).parameters())


def test_gradients_are_let_go():
    gated = fxprune.prepare(randomise(Residual()), images(1))
    gated(images(2)).sum().backward()
    fxprune.reach_target(gated)
    assert all(p.grad is None for p in fxprune.fold(gated, consume=True).parameters())


# What fails -------------------------------------------------------------------------------------


class Broken(Exception):
    """What no code of ours expects."""


def breaks(*args: Any, **options: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("model", ["residual", "recurrent", "tied"])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("fxprune.torch.prepare", "with_gates"),
        ("fxprune.torch.prepare", "attach"),
        ("fxprune.torch.prune", "importance"),
        ("fxprune.torch.prune", "reach_target"),
        ("fxprune.torch.fold", "fold_model"),
        ("fxprune.torch.fold", "rewrite"),
    ],
)
def test_a_model_is_as_it_was_if_anything_fails_before_its_weights_go(
    place, name, model, monkeypatch
):
    model, example = build(model)
    kinds = {path: type(module) for path, module in model.named_modules()}
    own = dict(model.named_parameters())
    monkeypatch.setattr(f"{place}.{name}", breaks)
    with assert_unchanged(model), pytest.raises(Broken):
        fxprune.prune(model, example, copy=False)
    assert {path: type(module) for path, module in model.named_modules()} == kinds
    assert all(p is own[path] for path, p in model.named_parameters())
    assert record_of(model) is None


def test_a_folded_model_remembers_its_history_if_pruning_it_again_fails(monkeypatch):
    folded = fxprune.prune(randomise(Residual()), images(1))
    before = record_of(folded)
    monkeypatch.setattr("fxprune.torch.prune.importance", breaks)
    with pytest.raises(Broken):
        fxprune.prune(folded, images(1), copy=False)
    assert record_of(folded) is before


def test_a_fold_that_fails_leaves_its_gates_where_they_are(monkeypatch):
    gated = fxprune.prepare(randomise(Residual()), images(1))
    fxprune.reach_target(gated)
    monkeypatch.setattr(fold_module, "rewrite", breaks)
    with assert_unchanged(gated), pytest.raises(Broken):
        fxprune.fold(gated, consume=True)
    assert fxprune.keep_set(gated)


def test_a_model_that_lost_weights_is_said_to_be_of_no_use(monkeypatch):
    model, done = randomise(Residual()), []

    def sliced(tensor: Any, slices: Any) -> Any:
        if not tensor.is_meta:
            done.append(tensor)
        if len(done) > 2:
            raise RuntimeError("not enough memory")
        return original(tensor, slices)

    original = consuming.sliced
    monkeypatch.setattr(consuming, "sliced", sliced)
    monkeypatch.setattr(consuming.Promises, "take", only_parameters(consuming.Promises.take))
    said = r"not enough memory; \d+ of \d+ weights of the Residual are gone.*load it again"
    with pytest.raises(fxprune.FxpruneError, match=said):
        fxprune.prune(model, images(1), copy=False)
    assert any(p.is_meta for p in model.parameters())


def only_parameters(take: Any) -> Any:
    """Buffers are sliced at once, which is not what is to fail."""

    def only(promises: Any, tensor: Any, slices: Any) -> Any:
        return take(promises, tensor, slices) if isinstance(tensor, nn.Parameter) else tensor

    return only


def test_a_fold_that_consumes_takes_no_optimizer():
    gated = fxprune.prepare(randomise(Residual()), images(1))
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.1)
    with pytest.raises(fxprune.InputError, match="consume=True lets go of what the optimizer"):
        fxprune.fold(gated, optimizer=optimizer, consume=True)
