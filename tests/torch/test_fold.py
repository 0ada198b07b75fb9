"""The folded model is an ordinary module."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import fxprune
from tests.torch.gated import EXACT, folded_at_half, gate, loss_of, params, train
from tests.torch.models import (
    Auxiliary,
    Residual,
    assert_equal,
    half,
    images,
    randomise,
    relative_error,
)


def test_folded_module_switches_between_training_and_evaluation():
    gated, folded = folded_at_half(randomise(Residual(dropout=0.5)).double())
    assert isinstance(folded, nn.Module)
    x = images(6).double()
    before = folded.stem[1].running_mean.clone()
    folded.eval()
    assert torch.equal(folded(x), folded(x))
    assert torch.equal(folded.stem[1].running_mean, before)
    folded.train()
    assert not torch.equal(folded(x), folded(x)), "dropout is off"
    assert not torch.equal(folded.stem[1].running_mean, before)
    for each in (gated, folded):
        each.train().stem[1].reset_running_stats()
        each.dropout.eval()
    assert relative_error(gated(x), folded(x)) <= EXACT
    kept = fxprune.keep_set(gated)["stem.0"]
    assert relative_error(gated.stem[1].running_var[kept], folded.stem[1].running_var) <= EXACT


def test_folded_module_is_smaller_in_its_attributes_too():
    gated, folded = folded_at_half()
    stem, body = (int(fxprune.keep_set(gated)[name].sum()) for name in ("stem.0", "body.0"))
    assert (folded.stem[0].in_channels, folded.stem[0].out_channels) == (3, stem)
    assert folded.stem[1].num_features == stem
    assert (folded.body[0].in_channels, folded.body[0].out_channels) == (stem, body)
    assert (folded.head.in_features, folded.head.out_features) == (stem, 5)
    assert not [name for name in folded.state_dict() if "fxprune" in name]
    assert type(folded) is Residual


def test_folded_module_copies():
    _, folded = folded_at_half()
    clone = copy.deepcopy(folded)
    x = images(2).double()
    expected = folded.eval()(x)
    with torch.no_grad():
        folded.head.weight.zero_()
    assert torch.equal(clone.eval()(x), expected)
    assert fxprune.report(clone, latency=False) == fxprune.report(folded, latency=False)


@pytest.mark.parametrize("model", [Residual, Auxiliary])
def test_gated_and_folded_modules_pickle_whole(model):
    for module in folded_at_half(randomise(model()).double()):
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        assert isinstance(again, nn.Module)
        assert list(again.state_dict()) == list(module.state_dict())
        x = images(3).double()
        for mode in (True, False):
            assert_equal(module.train(mode)(x), again.train(mode)(x))
        assert str(fxprune.report(again, latency=False)) == str(
            fxprune.report(module, latency=False)
        )


def test_unpickled_gated_module_trains_on():
    gated = gate(steps=4)
    file = io.BytesIO()
    torch.save(gated, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for each in (gated, again):
        train(each, torch.optim.SGD(each.parameters(), lr=0.05), 4)
    for name, tensor in gated.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not fxprune.keep_set(again)["body.0"].all()


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("model", [Residual, Auxiliary])
def test_folded_module_compiles(model, mode):
    _, folded = folded_at_half(randomise(model()).double())
    folded.train(mode)
    compiled = torch.compile(copy.deepcopy(folded), backend="eager")
    assert_equal(compiled(images(3).double()), folded(images(3).double()))


def test_folded_module_that_branches_on_its_mode_goes_through_torch_export():
    _, folded = folded_at_half(randomise(Auxiliary()).double())
    x = images(3).double()
    for mode in (True, False):
        exported = torch.export.export(copy.deepcopy(folded).train(mode), (x,))
        assert_equal(exported.module()(x), folded.train(mode)(x))


def test_gated_module_compiles():
    gated = gate()
    fxprune.set_keep_set(gated, half(gated))
    compiled = torch.compile(copy.deepcopy(gated), backend="eager")
    assert_equal(compiled(images(3).double()), gated(images(3).double()))


def test_folded_module_trains_like_any_other():
    _, folded = folded_at_half()
    optimizer = torch.optim.Adam(folded.parameters(), lr=0.02)
    before = loss_of(folded).item()
    for _ in range(20):
        train(folded, optimizer, 1)
    assert loss_of(folded).item() < 0.7 * before


def test_folded_module_is_prepared_and_folded_again():
    gated, folded = folded_at_half()
    again = gate(folded, target=0.6)
    x = images(2).double()
    assert torch.equal(again.eval()(x), folded.eval()(x))
    fxprune.set_keep_set(again, half(again, seed=5))
    smaller = fxprune.fold(again).eval()
    assert params(smaller) < params(folded)
    assert relative_error(again(x), smaller(x)) <= EXACT
    figures = fxprune.report(smaller, latency=False)
    assert figures.source == "Residual"
    assert figures.before == fxprune.report(gated, latency=False).before
    assert figures.after["params"] == params(smaller)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_folded_recurrent_layer_is_prepared_again(kind):
    class Walker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.walk = nn.Linear(3, 8), kind(8, 6, batch_first=True)
            self.last = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.walk(self.first(x))[0])

    x = torch.randn(2, 5, 3)
    folded = fxprune.fold(fxprune.prepare(Walker(), x, target=1.0))
    again = fxprune.prepare(folded, x, target=1.0)
    assert fxprune.groups(again) == fxprune.groups(folded)
    assert torch.equal(again(x), folded(x))


def test_fold_with_everything_open_is_the_identity():
    model = randomise(Residual()).double()
    folded = fxprune.fold(gate(model, target=1.0))
    for (name, expected), (other, got) in zip(
        model.state_dict().items(), folded.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(expected, got)
    assert torch.equal(model.eval()(images().double()), folded.eval()(images().double()))


def test_model_that_branches_on_its_mode_folds_in_both():
    gated, folded = folded_at_half(randomise(Auxiliary()).double())
    x = images(4).double()
    for mode in (True, False):
        expected, got = gated.train(mode)(x), folded.train(mode)(x)
        assert isinstance(got, tuple) == isinstance(expected, tuple) == mode
        assert relative_error(expected, got) <= EXACT
    assert folded.get_parameter("aux.0.weight").shape[0] < 6, "the head of training is pruned too"
