"""The verbs, as a user's training script meets them: prepare, train, fold, go on, save, export."""

import copy
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune
from fxprune.passes.operators import OPERATORS, _operators
from fxprune.testing import assert_unchanged
from fxprune.testing.torch.checkers import count_macs
from fxprune.torch.storage import DESCRIPTION, WEIGHTS
from tests.torch.models import (
    Auxiliary,
    Residual,
    assert_equal,
    half,
    images,
    plain,
    randomise,
    relative_error,
)

EXACT = 1e-10


def gate(model: nn.Module | None = None, **settings: Any) -> Any:
    """A gated residual network (or `model`) in float64."""
    model = randomise(Residual()).double() if model is None else model
    dtype = next(model.parameters()).dtype
    return fxprune.prepare(model, images(1).to(dtype), **settings)


def folded_at_half(model: nn.Module | None = None, seed: int = 0) -> tuple[Any, Any]:
    """A gated model at a random keep-set of about half of it, and what it folds to."""
    gated = gate(model)
    fxprune.set_keep_set(gated, half(gated, seed, branches=1.0))
    return gated, fxprune.fold(gated)


def loss_of(model: nn.Module, seed: int = 0, batch: int = 8) -> Tensor:
    """Cross entropy on random images and labels."""
    parameter = next(model.parameters())
    labels = torch.arange(batch) % 5
    return F.cross_entropy(model(images(batch, seed).to(parameter)), labels)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, seed=step).backward()
        optimizer.step()


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# prepare: the model stays as it is -------------------------------------------------------------


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


def test_hooks_that_are_lost_are_named(caplog):
    model = Residual()
    fxprune.prepare(model, images(1))
    assert caplog.text == ""
    model.body.register_forward_hook(lambda module, inputs, output: None)
    fxprune.prepare(model, images(1))
    assert "the forward hooks of body will not be called" in caplog.text


def test_hook_that_changes_an_output_changes_it_after_folding_too():
    model = randomise(Residual()).double()
    model.body[2].register_forward_hook(lambda module, inputs, output: output * 1.5)
    plainly = randomise(Residual()).double()
    gated, folded = folded_at_half(model)
    other, _ = folded_at_half(plainly)
    x = images(2).double()
    assert relative_error(gated.eval()(x), folded.eval()(x)) <= EXACT
    assert relative_error(other.eval()(x), gated(x)) > 1e-3, "the hook has no effect"


# Groups and keep-sets --------------------------------------------------------------------------


def test_groups_name_size_members_and_pins():
    lines = {group.name: group for group in fxprune.groups(gate())}
    assert {name: (g.kind, g.size, g.pin) for name, g in lines.items()} == {
        "stem.0": ("channel", 8, ""),
        "stem.0.weight:1": ("channel", 3, "network input"),
        "body.0": ("channel", 12, ""),
        "head": ("channel", 5, "network output"),
        "body+": ("branch", 1, ""),
    }
    assert lines["stem.0"].members == (
        "stem.0.weight:0", "stem.0.bias:0", "stem.1.weight:0", "stem.1.bias:0",
        "stem.1.running_mean:0", "stem.1.running_var:0", "body.0.weight:1", "body.3.weight:0",
        "body.3.bias:0", "head.weight:1",
    )  # fmt: skip


def test_groups_of_a_folded_model_are_those_of_its_fold():
    gated, folded = folded_at_half()
    assert fxprune.groups(folded) == fxprune.groups(gated)


def test_keep_set_reads_back_what_was_set():
    gated = gate()
    keep = half(gated)
    fxprune.set_keep_set(gated, keep)
    got = fxprune.keep_set(gated)
    assert list(got) == list(keep)
    for name, flags in keep.items():
        assert got[name].dtype is torch.bool
        assert torch.equal(got[name], flags)


@pytest.mark.parametrize(
    "flags", [[1, 0] * 4, (True, False) * 4, torch.tensor([1.0, 0.0] * 4), [[True, False]] * 4]
)
def test_keep_set_takes_any_sequence_of_bools(flags):
    gated = gate()
    fxprune.set_keep_set(gated, {"stem.0": flags})
    assert fxprune.keep_set(gated)["stem.0"].tolist() == [True, False] * 4
    assert fxprune.keep_set(gated)["body.0"].all()


def test_keep_set_that_is_returned_is_a_copy():
    gated = gate()
    fxprune.keep_set(gated)["stem.0"].zero_()
    assert fxprune.keep_set(gated)["stem.0"].all()


def test_keep_set_that_was_set_is_not_learned_away():
    gated = gate(target=0.3, steps=4)
    keep = half(gated)
    fxprune.set_keep_set(gated, keep)
    resumed = gate(target=0.3, steps=4)
    resumed.load_state_dict(gated.state_dict())
    for model in (gated, resumed):
        train(model, torch.optim.SGD(model.parameters(), lr=0.01), steps=6)
        for name, flags in fxprune.keep_set(model).items():
            assert torch.equal(flags, keep[name])


def test_closed_positions_do_not_matter():
    gated = gate()
    fxprune.set_keep_set(gated, {"stem.0": [True] * 4 + [False] * 4})
    x = images(2).double()
    expected = gated.eval()(x)
    with torch.no_grad():
        gated.get_parameter("stem.0.weight")[4:] = 9.0
        gated.get_parameter("stem.1.bias")[4:] = -5.0
    assert torch.equal(gated(x), expected)
    with torch.no_grad():
        gated.get_parameter("stem.0.weight")[3] += 1.0
    assert not torch.equal(gated(x), expected)


def test_closed_branch_is_removed_with_its_layers():
    gated = gate()
    fxprune.set_keep_set(gated, {"body+": [False]})
    folded = fxprune.fold(gated)
    assert not any(name.startswith("body") for name, _ in folded.named_modules())
    x = images(2).double()
    assert relative_error(gated.eval()(x), folded.eval()(x)) <= EXACT


def test_ignored_modules_keep_their_outputs():
    by_name = fxprune.groups(gate(ignore=["stem"]))
    assert {g.name: g.pin for g in by_name}["stem.0"] == "ignored by the caller"
    model = randomise(Residual()).double()
    by_module = gate(model, ignore=[model.body[0], "head"])
    pins = {g.name: g.pin for g in fxprune.groups(by_module)}
    assert (pins["stem.0"], pins["body.0"]) == ("", "ignored by the caller")
    assert "body+" not in pins, "a branch with an ignored layer may not be removed"
    fxprune.reach_target(by_module)
    assert fxprune.fold(by_module).get_parameter("body.0.weight").shape[0] == 12


# Targets ---------------------------------------------------------------------------------------


def closed_units(gated: nn.Module, round_to: int = 1) -> list[dict[str, Tensor]]:
    """Every keep-set that has one more unit open than the present one."""
    keep = fxprune.keep_set(gated)
    sizes = {group.name: group.kind for group in fxprune.groups(gated)}
    larger = []
    for name, flags in keep.items():
        closed = (~flags).nonzero().flatten()
        width = round_to if sizes[name] == "channel" else 1
        if len(closed):
            more = flags.clone()
            more[closed[:width]] = True
            larger.append({**keep, name: more})
    return larger


def costs(gated: nn.Module, keep: dict[str, Tensor] | None = None) -> dict[str, int]:
    """MACs and parameters counted on the folded model."""
    gated = copy.deepcopy(gated)
    if keep is not None:
        fxprune.set_keep_set(gated, keep)
    folded = fxprune.fold(gated, settle=False).eval()
    return {"macs": count_macs(folded, [images(1).to(next(gated.parameters()))]),
            "params": params(folded)}  # fmt: skip


@pytest.mark.parametrize(
    ("target", "limits"),
    [
        (0.5, {"macs": 0.5}),
        (0.21, {"macs": 0.21}),
        ({"params": 0.6}, {"params": 0.6}),
        ({"macs": 0.7, "params": 0.4}, {"macs": 0.7, "params": 0.4}),
        ({"macs": 60_000}, {"macs": 60_000}),
        (1, {"macs": 1.0}),
    ],
)
def test_target_is_met_to_within_one_position(target, limits):
    gated = gate(target=target)
    full = costs(gated)
    limit = {name: v * full[name] if v <= 1 else v for name, v in limits.items()}
    loss_of(gated).backward()
    torch.optim.SGD(gated.parameters(), lr=0.0).step()
    fxprune.reach_target(gated)
    reached = costs(gated)
    assert all(reached[name] <= limit[name] for name in limit), (reached, limit)
    for keep in closed_units(gated):
        more = costs(gated, keep)
        assert any(more[name] > limit[name] for name in limit), (reached, more, limit)


@pytest.mark.parametrize("round_to", [2, 4, 8])
def test_groups_keep_multiples(round_to):
    gated = gate(Residual(width=28).double(), target=0.45, round_to=round_to)
    loss_of(gated).backward()
    torch.optim.SGD(gated.parameters(), lr=0.0).step()
    fxprune.reach_target(gated)
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    full = {"stem.0": 28, "body.0": 32}
    for name, size in full.items():
        assert sizes[name] == size or sizes[name] % round_to == 0, sizes
    assert sizes["stem.0"] < 28 or sizes["body.0"] < 32
    limit = 0.45 * costs(gate(Residual(width=28).double()))["macs"]
    assert costs(gated)["macs"] <= limit
    for keep in closed_units(gated, round_to):
        assert costs(gated, keep)["macs"] > limit


@pytest.mark.parametrize("target", [0.05, 0.3])
def test_no_group_is_ever_empty(target):
    gated = gate(target=target, steps=6)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05)
    for step in range(8):
        train(gated, optimizer, 1, first=step)
        keep = fxprune.keep_set(gated)
        assert keep["stem.0"].any()
        assert keep["body.0"].any()
    assert fxprune.fold(gated)(images(2).double()).shape == (2, 5)


# Training --------------------------------------------------------------------------------------


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "groups"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clipped", [False, True])
def test_unchanged_loop_reaches_the_target(kind, accumulate, clipped):
    model = randomise(Residual(dropout=0.1))
    gated = fxprune.prepare(model, images(1), target=0.4, steps=10)
    optimizer = {
        "sgd": lambda: torch.optim.SGD(
            gated.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01
        ),
        "adamw": lambda: torch.optim.AdamW(gated.parameters(), lr=0.01, weight_decay=0.1),
        "groups": lambda: torch.optim.AdamW(fxprune.parameter_groups(gated, lr=0.01)),
    }[kind]()
    full = count_macs(model.eval(), [images(1)])
    gated.train()
    for step in range(12):
        optimizer.zero_grad()
        for part in range(accumulate):
            (loss_of(gated, seed=step * accumulate + part) / accumulate).backward()
        if clipped:
            clip(gated)
        optimizer.step()
        share = count_macs(fxprune.fold(gated, settle=False).eval(), [images(1)]) / full
        assert (share <= 0.4) or step < 9
        assert (share > 0.4) or step > 3, "too early"
    assert all(bool(tensor.isfinite().all()) for tensor in gated.state_dict().values())
    fxprune.verify(gated, fxprune.fold(gated))


def test_gates_leave_weight_decay_and_learning_rate_alone():
    gated = gate(steps=5)
    optimizer = torch.optim.AdamW(gated.parameters(), lr=0.5, weight_decay=0.5)
    train(gated, optimizer, 7)
    scores = [p for name, p in gated.named_parameters() if name.startswith("fxprune_gates")]
    assert len(scores) == 1
    assert torch.equal(scores[0], torch.zeros_like(scores[0]))


def test_important_positions_stay():
    """Half of the channels have no way to the output but through tiny weights."""
    model = randomise(Residual()).double()
    with torch.no_grad():
        model.body[3].weight[:, ::2] *= 1e-3
    gated = gate(model, target={"params": 0.7}, steps=5)
    train(gated, torch.optim.SGD(gated.parameters(), lr=1e-3), 5)
    kept = fxprune.keep_set(gated)["body.0"]
    assert kept[1::2].sum() > kept[::2].sum(), kept


def test_fold_warns_if_the_optimizer_lacks_the_gates(caplog):
    model = randomise(Residual())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # of the model, not of `gated`
    gated = fxprune.prepare(model, images(1), steps=3)
    train(gated, optimizer, 3)
    with caplog.at_level(logging.WARNING, "fxprune"):
        fxprune.fold(gated)
    assert "build it from gated.parameters(), after prepare" in caplog.text


def test_fold_warns_before_the_target_is_reached_and_not_after(caplog):
    gated = gate(steps=4)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.01)
    train(gated, optimizer, 2)
    fxprune.fold(gated, settle=False)
    assert "folding after 2 of 4 steps" in caplog.text
    caplog.clear()
    train(gated, optimizer, 2)
    fxprune.fold(gated)
    assert caplog.text == ""
    early = gate(steps=4)
    fxprune.reach_target(early)
    fxprune.fold(early)
    assert caplog.text == ""


def test_two_gated_models_train_side_by_side():
    gates = gate(steps=3), gate(steps=30)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.01) for each in gates]
    for step in range(3):
        for each, optimizer in zip(gates, optimizers, strict=True):
            train(each, optimizer, 1, first=step)
    full = costs(gate())["macs"]
    assert costs(gates[0])["macs"] <= 0.5 * full < costs(gates[1])["macs"]


def test_state_dict_resumes_bit_by_bit():
    def begin() -> tuple[Any, torch.optim.Optimizer]:
        gated = gate(target=0.4, steps=8)
        return gated, torch.optim.SGD(gated.parameters(), lr=0.05, momentum=0.9)

    straight, optimizer = begin()
    train(straight, optimizer, 8)
    broken, optimizer = begin()
    train(broken, optimizer, 5)
    file = io.BytesIO()
    torch.save([broken.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    resumed, optimizer = begin()
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.mul_(3)
    states = torch.load(file, weights_only=True)
    resumed.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    train(resumed, optimizer, 3, first=5)
    expected = straight.state_dict()
    assert list(expected) == list(resumed.state_dict())
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not all(flags.all() for flags in fxprune.keep_set(resumed).values())


@pytest.mark.parametrize("use_buffers", [False, True])
def test_moving_average_of_a_gated_model_folds_exactly(use_buffers):
    gated = gate(target=0.4, steps=6)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=use_buffers)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.05)
    for step in range(6):
        train(gated, optimizer, 1, first=step)
        average.update_parameters(gated)
        x = images(2, seed=step).double()
        folded = fxprune.fold(average.module).eval()
        assert relative_error(average.eval()(x), folded(x)) <= EXACT
    for step in range(6, 16):
        train(gated, optimizer, 1, first=step)
        average.update_parameters(gated)
    for name, flags in fxprune.keep_set(average.module).items():
        assert torch.equal(flags, fxprune.keep_set(gated)[name]), "the average lags for ever"


def test_copies_of_a_gated_model_are_independent():
    gated = gate(steps=4)
    clone = copy.deepcopy(gated)
    x = images(2).double()
    expected = clone.eval()(x)
    train(gated.train(), torch.optim.SGD(gated.parameters(), lr=0.05), 4)
    assert torch.equal(clone(x), expected)
    assert all(flags.all() for flags in fxprune.keep_set(clone).values())
    train(clone.train(), torch.optim.SGD(clone.parameters(), lr=0.05), 4)
    for name, tensor in gated.state_dict().items():
        assert torch.equal(clone.state_dict()[name], tensor), name


# Optimizer state -------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.9, nesterov=True),
    "sgd without momentum": lambda groups: torch.optim.SGD(groups, lr=0.02),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, amsgrad=True, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.05),
}


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights with decay, biases and norms (and gates) without and at another rate."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.03}, {"params": vectors, "lr": 0.005}]


def kept_indices(gated: nn.Module, keep: dict[str, Tensor], name: str) -> list[list[int]]:
    """For every axis of a parameter the kept positions, from the members of the groups."""
    shape = gated.get_parameter(name).shape
    kept = [list(range(size)) for size in shape]
    for group in fxprune.groups(gated):
        for member in group.members if group.name in keep and group.kind == "channel" else ():
            parameter, _, dim = member.rpartition(":")
            if parameter == name:
                kept[int(dim)] = keep[group.name].nonzero().flatten().tolist()
    return kept


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("branch", [True, False])
def test_optimizer_goes_on_after_folding(kind, branch):
    gated = gate()
    optimizer = OPTIMIZERS[kind](decay_groups(gated))
    train(gated, optimizer, 3)
    keep = {**half(gated), "body+": torch.tensor([branch])}
    fxprune.set_keep_set(gated, keep)
    with assert_unchanged(gated):
        state = copy.deepcopy(optimizer.state_dict())
        folded, continued = fxprune.fold(gated, optimizer=optimizer)
        assert str(state) == str(optimizer.state_dict())
    assert type(continued) is type(optimizer)
    names = {id(p): name for name, p in folded.named_parameters()}
    held = [[names[id(p)] for p in group["params"]] for group in continued.param_groups]
    assert sorted(name for group in held for name in group) == sorted(names.values())
    for group, expected in zip(continued.param_groups, optimizer.param_groups, strict=True):
        settings = {k: v for k, v in group.items() if k != "params"}
        assert settings == {k: v for k, v in expected.items() if k != "params"}
    for step in range(3, 6):
        train(gated, optimizer, 1, first=step)
        train(folded, continued, 1, first=step)
        for name, parameter in folded.named_parameters():
            expected = gated.get_parameter(name)
            for dim, kept in enumerate(kept_indices(gated, keep, name)):
                expected = expected.index_select(dim, torch.tensor(kept))
            assert expected.shape == parameter.shape
            assert (expected - parameter).abs().max() <= 1e-9 * expected.abs().max(), name


def test_optimizer_that_has_not_stepped_is_folded():
    gated = gate()
    fxprune.set_keep_set(gated, half(gated))
    folded, optimizer = fxprune.fold(gated, optimizer=torch.optim.Adam(gated.parameters()))
    assert not optimizer.state
    train(folded, optimizer, 1)


# The folded model is an ordinary module --------------------------------------------------------


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
    assert "fxprune" not in str(folded.graph)


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


# Example inputs --------------------------------------------------------------------------------


def test_example_inputs_are_inferred_and_said(caplog):
    model = randomise(Residual())
    with assert_unchanged(model), caplog.at_level(logging.WARNING, "fxprune"):
        gated = fxprune.prepare(model)
    assert re.search(
        r"no example_inputs given: assumed one tensor of shape \(2, 3, \d+, \d+\), because its "
        r"first layer is stem\.0 \(Conv2d\)",
        caplog.text,
    )
    assert gated(images()).shape == (2, 5)


def test_example_inputs_of_a_configuration_are_used(caplog):
    model = randomise(Residual())
    model.pretrained_cfg = {"input_size": (3, 20, 24)}
    with caplog.at_level(logging.WARNING, "fxprune"):
        fxprune.prepare(model)
    assert "shape (2, 3, 20, 24), as its pretrained_cfg says" in caplog.text


def test_inference_of_example_inputs_that_fails_says_what_was_tried():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain()

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x + y)

    model = Two()
    match = r"cannot infer what Two takes .*\(2, 3, 224, 224\).*pass example_inputs"
    with assert_unchanged(model), pytest.raises(fxprune.InputError, match=match):
        fxprune.prepare(model)
    match = r"cannot infer what Sequential takes .*nothing: no first layer is known"
    with pytest.raises(fxprune.InputError, match=match):
        fxprune.prepare(nn.Sequential(nn.ReLU()))


# Save and load ---------------------------------------------------------------------------------


def assert_loads_as(folded: nn.Module, folder: Path, model: nn.Module) -> nn.Module:
    with assert_unchanged(model):
        loaded = fxprune.load(folder, model)
    assert list(loaded.state_dict()) == list(folded.state_dict())
    for name, tensor in folded.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = images(3).to(next(folded.parameters()))
    assert_equal(folded.eval()(x), loaded.eval()(x))
    assert_equal(folded.train()(x), loaded.train()(x))
    return loaded


@pytest.mark.parametrize("branch", [True, False])
def test_checkpoint_comes_back_onto_the_constructor(tmp_path, branch):
    gated = gate()
    fxprune.set_keep_set(gated, {**half(gated), "body+": [branch]})
    folded = fxprune.fold(gated)
    train(folded, torch.optim.SGD(folded.parameters(), lr=0.05), 2)
    with assert_unchanged(folded):
        folder = fxprune.save(folded, tmp_path / "new" / "checkpoint")
    assert sorted(file.name for file in folder.iterdir()) == sorted([WEIGHTS, DESCRIPTION])
    assert_loads_as(folded, folder, randomise(Residual(), seed=9).double())


def test_checkpoint_of_two_folds_comes_back(tmp_path):
    _, folded = folded_at_half()
    again = gate(folded, ignore=["head"])
    fxprune.set_keep_set(again, half(again, seed=3))
    smaller = fxprune.fold(again)
    fxprune.save(smaller, tmp_path)
    loaded = assert_loads_as(smaller, tmp_path, Residual().double())
    assert fxprune.report(loaded, latency=False) == fxprune.report(smaller, latency=False)
    fxprune.save(loaded, tmp_path / "copy")
    assert_loads_as(smaller, tmp_path / "copy", Residual().double())


class Tied(nn.Module):
    """Two layers with one weight, registered under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 3, padding=1)
        self.right.weight = self.left.weight
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.right(torch.relu(self.left(self.first(x))))))


def test_tied_parameters_stay_tied(tmp_path):
    gated, folded = folded_at_half(randomise(Tied()).double())
    assert folded.left.weight is folded.right.weight
    assert folded.left.weight.shape[0] < 8
    fxprune.verify(gated, folded)
    fxprune.save(folded, tmp_path)
    loaded = assert_loads_as(folded, tmp_path, Tied().double())
    assert loaded.left.weight is loaded.right.weight


def test_model_that_branches_on_its_mode_is_saved(tmp_path):
    _, folded = folded_at_half(randomise(Auxiliary()).double())
    fxprune.save(folded, tmp_path)
    assert_loads_as(folded, tmp_path, Auxiliary().double())


def test_checkpoint_is_numbers_and_json_and_nothing_else(tmp_path):
    _, folded = folded_at_half()
    fxprune.save(folded, tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    description = json.loads(header.pop("__metadata__")["fxprune"])
    assert description == json.loads((tmp_path / DESCRIPTION).read_text())
    assert header.keys() == folded.state_dict().keys()
    assert len(data) == 8 + length + max(item["data_offsets"][1] for item in header.values())


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_failure_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch, moment):
    _, folded = folded_at_half()
    fxprune.save(folded, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    _, other = folded_at_half(seed=4)

    def fail(*args: Any, **kwargs: Any) -> None:
        if moment == "write":
            Path(args[1]).write_bytes(b"half a file")
        raise OSError("no space left on device")

    name = "fxprune.torch.storage.save_file" if moment == "write" else "fxprune.files.os.replace"
    with monkeypatch.context() as patch, pytest.raises(fxprune.InputError, match="no space left"):
        patch.setattr(name, fail)
        fxprune.save(other, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert_loads_as(folded, tmp_path, Residual().double())
    fxprune.save(other, tmp_path)
    assert_loads_as(other, tmp_path, Residual().double())


# Export ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Any, Any, Path]:
    gated, folded = folded_at_half(randomise(Residual()))
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    with assert_unchanged(folded):
        assert fxprune.export_onnx(folded, path) == path
    return gated, folded, path


def test_export_is_one_file_that_onnx_runtime_agrees_with(exported):
    gated, folded, path = exported
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    verdict = fxprune.verify(gated, folded, path, inputs=[images(7)], batch_sizes=(1, 4))
    seen = {(item.what, item.batch, item.dtype) for item in verdict.comparisons}
    assert {("folded == onnxruntime", batch, "float32") for batch in (1, 4, 7)} <= seen
    assert {("gated == folded", batch, "float64") for batch in (1, 4, 7)} <= seen
    assert verdict.worst["gated == folded float64"] <= EXACT
    assert verdict.worst["folded == onnxruntime float32"] <= 1e-4


def test_exported_file_tells_our_figures(exported):
    _, folded, path = exported
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    before = randomise(Residual())
    assert properties["fxprune_version"] == fxprune.__version__
    assert properties["fxprune_source"] == "Residual"
    assert properties["fxprune_params"] == str(params(folded))
    assert properties["fxprune_params_before"] == str(params(before))
    assert properties["fxprune_macs"] == str(count_macs(folded.eval(), [images(1)]))
    assert properties["fxprune_macs_before"] == str(count_macs(before.eval(), [images(1)]))
    assert float(properties["fxprune_targets"].partition(":")[2].strip("} ")) > 1


def local_names() -> list[bytes]:
    """What would give this machine away."""
    names = [os.getcwd(), str(Path(__file__).parent), str(Path.home()), "site-packages"]
    names += [Path(torch.__file__).parent.as_posix(), __file__]
    return [name.encode() for name in names if len(name) > 4]


def test_exported_file_has_no_paths_of_this_machine(exported):
    data = exported[2].read_bytes()
    for name in local_names():
        assert name not in data, name
    assert b".py" not in data


def test_search_for_local_paths_finds_those_of_torch(tmp_path):
    path = tmp_path / "plain.onnx"
    program = torch.onnx.export(plain().eval(), (images(2),), dynamo=True, verbose=False)
    program.save(path)
    data = path.read_bytes()
    assert any(name in data for name in local_names())


def test_exported_batch_is_dynamic(exported):
    model = onnx.load(exported[2])
    shape = model.graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param
    assert [dim.dim_value for dim in shape.dim][1:] == [3, 8, 8]
    onnx.checker.check_model(model, full_check=True)


def test_plain_models_are_exported_too(tmp_path):
    model = randomise(Residual()).eval()
    with assert_unchanged(model):
        path = fxprune.export_onnx(model, tmp_path / "plain.onnx", images(1))
    assert path.stat().st_size > 4 * params(model)


def test_what_torch_cannot_export_is_said_in_its_own_words(tmp_path, monkeypatch):
    def failing(*_: object, **__: object) -> None:
        try:
            raise AssertionError("only 4D query")
        except AssertionError as error:
            raise RuntimeError("much advice") from error

    monkeypatch.setattr(torch.onnx, "export", failing)
    with pytest.raises(fxprune.FxpruneError, match="cannot express this model: only 4D query"):
        fxprune.export_onnx(nn.Linear(3, 2), tmp_path / "model.onnx", torch.randn(2, 3))
    assert not list(tmp_path.iterdir())


def test_model_in_training_is_exported_as_it_evaluates(tmp_path):
    _, folded = folded_at_half(randomise(Auxiliary()))
    path = fxprune.export_onnx(folded.train(), tmp_path / "auxiliary.onnx")
    assert folded.training
    assert len(onnx.load(path).graph.output) == 1


# Verify ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("stem.0.weight", r"stem_0 \(conv, stem\.0\)"),
        ("body.1.running_mean", r"body_1 \(batch_norm, body\.1\)"),
        ("body.3.bias", r"body_3 \(conv, body\.3\)"),
        ("head.bias", r"head \(linear, head\)"),
    ],
)
def test_verify_names_the_first_layer_that_differs(name, place):
    gated, folded = folded_at_half()
    fxprune.verify(gated, folded)
    with torch.no_grad():
        folded.state_dict()[name].view(-1)[0] += 1e-4
    with pytest.raises(fxprune.VerificationError, match=f"first difference at {place}"):
        fxprune.verify(gated, folded)


def test_verify_finds_a_model_of_another_shape():
    gated, folded = folded_at_half()
    folded.head = nn.Linear(folded.head.in_features + 1, 5).double()
    with pytest.raises(fxprune.VerificationError, match="relative error inf"):
        fxprune.verify(gated, folded)


def test_verify_finds_what_only_an_input_of_the_user_shows():
    model = nn.Sequential(plain(), nn.Threshold(50.0, 0.0))
    gated = fxprune.prepare(model, images(1))
    folded = fxprune.fold(gated)
    with torch.no_grad():
        folded.get_parameter("0.2.weight").mul_(1.1)
    fxprune.verify(gated, folded)
    with pytest.raises(fxprune.VerificationError, match="first difference at _0_2"):
        fxprune.verify(gated, folded, inputs=[1e4 * images(1)])


def test_verify_finds_the_file_of_another_model(exported, tmp_path):
    gated, folded, _ = exported
    _, other = folded_at_half(randomise(Residual(), seed=1), seed=1)
    path = fxprune.export_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(fxprune.VerificationError, match="folded == onnxruntime, batch 1"):
        fxprune.verify(gated, folded, path)


@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_verify_finds_a_missing_or_damaged_file(exported, tmp_path, share):
    gated, folded, path = exported
    broken = tmp_path / "broken.onnx"
    if share is not None:
        broken.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(fxprune.VerificationError, match="ONNX Runtime does not load"):
        fxprune.verify(gated, folded, broken)


def test_verify_leaves_everything_as_found():
    gated, folded = folded_at_half()
    with assert_unchanged(gated), assert_unchanged(folded):
        fxprune.verify(gated.train(), folded.train())


# Report ----------------------------------------------------------------------------------------


def test_report_prints_groups_pins_and_costs():
    gated, folded = folded_at_half()
    report = fxprune.report(gated)
    text = str(report)
    for word in ("Residual", "stem.0", "body+", "branch", "network output", "macs", "latency"):
        assert word in text
    assert f"{params(folded):,}" in text
    assert f"{params(Residual()):,}" in text
    numbers = report.as_dict()
    assert numbers["params_before"] == params(Residual())
    assert numbers["params_after"] == params(folded)
    assert numbers["macs_after"] == count_macs(folded.eval(), [images(1).double()])
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert numbers["latency_ms_before"] > 0
    assert numbers["latency_ms_after"] > 0


def test_report_of_gated_and_folded_agree():
    gated, folded = folded_at_half()
    with assert_unchanged(gated), assert_unchanged(folded):
        before, after = (fxprune.report(each, latency=False) for each in (gated, folded))
    assert before.file_bytes["after"] == after.file_bytes["after"]
    assert replace(before, file_bytes={}) == replace(after, file_bytes={})
    assert not before.latency_ms
    rows = {row.name: (row.size, row.kept) for row in after.rows}
    assert rows["stem.0"] == (8, int(fxprune.keep_set(gated)["stem.0"].sum()))


# Operators of one's own ------------------------------------------------------------------------


class Rotation(nn.Module):
    """Mixes channels by a matrix, with an operator that fxprune does not know."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(channels, channels) / channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensordot(self.matrix, x, dims=([1], [1])).movedim(0, 1)


def scaled(x: Tensor, factor: Tensor) -> Tensor:
    """A function with a name of its own."""
    return x * factor[:, None, None]


class WithOwnOperators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.factor = nn.Parameter(torch.rand(8) + 0.5)
        self.rotation = Rotation(8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rotation(scaled(torch.sigmoid(self.first(x)), self.factor)))


@pytest.fixture
def own_operators() -> Iterator[None]:
    """Registers both operators for one test."""
    before = set(OPERATORS)
    fxprune.register_operator(
        "tests.torch.test_api.Rotation", "b i *x, o i -> b o *x", macs="b i o x"
    )
    fxprune.register_operator("tests.torch.test_api.scaled", "b c *x, c -> b c *x")
    yield
    for name in set(OPERATORS) - before:
        _operators.pop(name)


def test_own_operators_are_pinned_until_they_are_registered_well():
    with pytest.raises(fxprune.NothingToPruneError, match="unknown operator tensordot"):
        gate(WithOwnOperators().double())
    with pytest.raises(fxprune.InputError, match="unexpected '%'"):
        fxprune.register_operator("tests.torch.test_api.scaled", "b c% -> b c")
    with pytest.raises(fxprune.InputError, match="conv is already registered as"):
        fxprune.register_operator("conv", "b c -> b c")


def test_own_operators_are_pruned_once_registered(own_operators):
    gated = gate(randomise(WithOwnOperators()).double())
    groups = {g.name: g for g in fxprune.groups(gated)}
    assert not groups["first"].pin
    assert {"factor:0", "rotation.matrix:1"} <= set(groups["first"].members)
    rotated = next(g for g in groups.values() if "rotation.matrix:0" in g.members)
    assert not rotated.pin
    assert "last.weight:1" in rotated.members
    fxprune.set_keep_set(
        gated, {"first": [True, False] * 4, rotated.name: [True] * 3 + [False] * 5}
    )
    folded = fxprune.fold(gated)
    assert folded.factor.shape == (4,)
    assert folded.rotation.matrix.shape == (3, 4)
    assert relative_error(gated(images().double()), folded(images().double())) <= EXACT
    macs = fxprune.report(folded, latency=False).after["macs"]
    assert macs == 36 * (3 * 4 * 9 + 4 * 3 + 3 * 4)
