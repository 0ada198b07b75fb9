"""A user's training loop, which knows nothing of gates."""

import copy
import io
import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune
from fxprune.testing.torch.checkers import count_macs
from tests.torch.gated import EXACT, costs, gate, loss_of, train
from tests.torch.models import Residual, images, randomise, relative_error


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
        assert (share == 1) == (step < 1), "a tenth of the steps is warm-up"
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
