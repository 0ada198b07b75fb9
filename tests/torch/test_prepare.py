"""Preparing leaves the model as it is, and what it has beside its layers survives."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.testing import assert_unchanged
from tests.torch.gated import EXACT, assert_loads_as, folded_at_half, gate, loss_of
from tests.torch.models import Residual, assert_equal, half, images, randomise, relative_error


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_prepare_and_fold_leave_the_model_as_found(mode):
    model = randomise(Residual(dropout=0.3))
    model.train(mode != "eval")
    if mode == "mixed":
        model.stem.eval()
        model.stem.requires_grad_(False)
    loss_of(model.train() if mode == "train" else model).backward()
    with assert_unchanged(model):
        gated = fxprune.prepare(model, images(1), target=1.0)
    with assert_unchanged(model), assert_unchanged(gated):
        fxprune.set_keep_set(copy.deepcopy(gated), half(gated))
        folded = fxprune.fold(gated)
    for ours in (gated, folded):
        named = ((k, m) for k, m in ours.named_modules() if not k.startswith("fxprune_gates"))
        modes = {name: module.training for name, module in named}
        assert modes == {name: module.training for name, module in model.named_modules()}
        frozen = [name for name, p in ours.named_parameters() if not p.requires_grad]
        assert frozen == [name for name, p in model.named_parameters() if not p.requires_grad]


def test_gated_and_folded_models_own_their_memory():
    model = randomise(Residual())
    gated = fxprune.prepare(model, images(1))
    folded = fxprune.fold(gated)
    storages = [
        {t.data_ptr() for t in (*m.parameters(), *m.buffers())} for m in (model, gated, folded)
    ]
    assert not storages[0] & storages[1]
    assert not storages[1] & storages[2]
    assert not storages[0] & storages[2]


def test_prepared_model_computes_the_same_bits_in_train_and_eval():
    model = randomise(Residual(dropout=0.3))
    gated = fxprune.prepare(model, images(1))
    for mode in (True, False):
        outputs = []
        for each in (model.train(mode), gated.train(mode)):
            torch.manual_seed(3)
            outputs.append(each(images(4)))
        assert_equal(*outputs)
    assert torch.equal(model.stem[1].running_var, gated.get_buffer("stem.1.running_var"))


def test_prepared_model_has_the_same_gradients():
    model, gated = randomise(Residual()).double(), gate()
    loss_of(model).backward()
    loss_of(gated).backward()
    for name, parameter in model.named_parameters():
        assert relative_error(parameter.grad, gated.get_parameter(name).grad) <= 1e-12, name


# What a module has beside its layers -----------------------------------------------------------


class Belongings(nn.Module):
    """Everything that tracing tends to lose."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 4, 1)  # registered before what runs before it
        self.first = nn.Conv2d(3, 8, 3)
        self.unused = nn.Parameter(torch.randn(7))
        self.unused_layer = nn.Linear(2, 3)
        self.register_buffer("saved", torch.randn(4))
        self.register_buffer("not_saved", torch.randn(8, 1, 1), persistent=False)
        self.register_buffer("unread", torch.randn(2), persistent=False)
        self.config = {"classes": 4, "names": ["a", "b"]}
        self.note = "kept"

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x) + self.not_saved)
        return self.last(x) + self.saved[:, None, None]


def test_belongings_of_a_module_survive():
    model = Belongings()
    gated, folded = folded_at_half(model)
    keys = list(model.state_dict())
    assert [key for key in gated.state_dict() if not key.startswith("fxprune_gates")] == keys
    assert list(folded.state_dict()) == keys
    for each in (gated, folded):
        assert torch.equal(each.unused, model.unused)
        assert torch.equal(each.unused_layer.weight, model.unused_layer.weight)
        assert torch.equal(each.unread, model.unread)
        assert each.config == model.config
        assert each.config is not model.config
        assert each.note == "kept"
    kept = fxprune.keep_set(gated)["first"]
    assert torch.equal(folded.not_saved, model.not_saved[kept])
    fxprune.verify(gated, folded)


class Constants(nn.Module):
    """Tensors that forward makes from nothing, and arithmetic on buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("shift", torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean[:, None, None]) / torch.tensor([0.5, 0.4, 0.3])[:, None, None]
        x = self.first(x) + self.shift.view(-1, 1, 1) * 2
        x = torch.relu(x) * (torch.tensor(0.5) if self.training else torch.tensor(2.0))
        return self.last(x)


def test_constants_and_buffers_of_forward_survive(tmp_path):
    model = randomise(Constants()).double()
    with assert_unchanged(model):
        gated = gate(model)
    for mode in (True, False):
        assert torch.equal(
            model.train(mode)(images().double()), gated.train(mode)(images().double())
        )
    fxprune.set_keep_set(gated, {"first": [True, False] * 4})
    folded = fxprune.fold(gated)
    assert folded.shift.shape == (4,)
    fxprune.verify(gated, folded)
    with torch.no_grad():
        for each in (gated, folded):
            each.mean += 1
    fxprune.verify(gated, folded)
    assert relative_error(model.eval()(images().double()), gated.eval()(images().double())) > 0.01
    fxprune.save(folded, tmp_path)
    assert_loads_as(folded, tmp_path, Constants().double())
    again = gate(folded)
    fxprune.set_keep_set(again, {"first": [True, False] * 2})
    fxprune.verify(again, fxprune.fold(again))


def test_two_groups_of_one_module_have_two_names():
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
            self.bias = nn.Parameter(torch.randn(6, 1, 1))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = Scales()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x) * self.scales.weight) + self.scales.bias)

    gated = fxprune.prepare(Model().double(), images(1).double())
    names = [group.name for group in fxprune.groups(gated)]
    assert len(set(names)) == len(names)
    assert {len(flags) for flags in fxprune.keep_set(gated).values()} == {8, 6}
    fxprune.set_keep_set(gated, half(gated))
    fxprune.verify(gated, fxprune.fold(gated))


def test_hooks_on_layers_are_called_in_all_three_models():
    model = Residual()
    calls: list[str] = []
    model.body[1].register_forward_hook(lambda module, inputs, output: calls.append("after"))
    model.head.register_forward_pre_hook(lambda module, inputs: calls.append("before"))
    gated = fxprune.prepare(model, images(1))
    assert calls == [], "tracing must not run hooks"
    for each in (model, gated, fxprune.fold(gated)):
        calls.clear()
        each(images(2))
        assert calls == ["after", "before"]


def test_hooks_on_the_model_itself_are_called_in_all_three_models():
    model = Residual()
    shapes: list[Any] = []
    model.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    gated = fxprune.prepare(model, images(1))
    for each in (model, gated, fxprune.fold(gated), copy.deepcopy(gated)):
        shapes.clear()
        each(images(2))
        assert shapes == [(2, 5)]


def test_hooks_inside_of_the_model_are_called_in_all_three_models():
    model = Residual()
    widths: list[int] = []
    model.body.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    gated = fxprune.prepare(model, images(1), target=1.0)
    fxprune.set_keep_set(gated, half(gated))
    folded = fxprune.fold(gated)
    for each in (model, gated, folded, copy.deepcopy(folded)):
        widths.clear()
        each(images(2))
        assert widths == [each.body[-1].out_channels]


def test_hooks_that_are_lost_are_named(caplog):
    model = Residual()
    fxprune.prepare(model, images(1), method="consensus")
    assert caplog.text == ""
    model.body.register_forward_hook(lambda module, inputs, output: None)
    fxprune.prepare(model, images(1), method="consensus")
    assert "the forward hooks of body will not be called, because a Residual" in caplog.text


def test_hook_that_changes_an_output_changes_it_after_folding_too():
    model = randomise(Residual()).double()
    model.body[2].register_forward_hook(lambda module, inputs, output: output * 1.5)
    plainly = randomise(Residual()).double()
    gated, folded = folded_at_half(model)
    other, _ = folded_at_half(plainly)
    x = images(2).double()
    assert relative_error(gated.eval()(x), folded.eval()(x)) <= EXACT
    assert relative_error(other.eval()(x), gated(x)) > 1e-3, "the hook has no effect"
