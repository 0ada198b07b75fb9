"""Closed positions leave a model, and its optimizer, while training goes on."""

import copy
import io
import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fxprune
from tests.torch.models import Residual, images, plain, randomise, train

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def gate(**settings):
    model = randomise(Residual()).double().train()
    return fxprune.prepare(model, images(1).double(), **{"target": 0.4, "steps": 5, **settings})


def size(model):
    own = (p for name, p in model.named_parameters() if not name.startswith("fxprune_gates"))
    return sum(parameter.numel() for parameter in own)


def assert_same_training(one, other):
    assert len(one) == len(other)
    assert all(abs(a - b) < 1e-10 * abs(a) for a, b in zip(one, other, strict=True)), (one, other)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been_removed(kind):
    runs = []
    for shrinks in (False, True):
        gated = gate()
        optimizer = OPTIMIZERS[kind](gated.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        losses = train(gated, optimizer, 6)
        if shrinks:
            whole = size(gated)
            assert fxprune.shrink(gated, optimizer) > 0
            assert size(gated) == size(fxprune.fold(gated)) < whole
        scheduler.step()
        runs.append(losses + train(gated, optimizer, 4, first=6))
    assert_same_training(*runs)


def test_comparison_of_trainings_can_fail():
    with pytest.raises(AssertionError):
        assert_same_training([1.0, 2.0], [1.0, 2.0001])


def test_shrinking_in_the_middle_still_meets_the_target():
    gated = gate(steps=8)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    train(gated, optimizer, 4)
    x = images(2).double()
    before = copy.deepcopy(gated).eval()(x)
    removed = fxprune.shrink(gated, optimizer)
    assert removed > 0
    assert torch.allclose(gated.eval()(x), before, rtol=1e-12)
    train(gated.train(), optimizer, 4, first=4)
    folded = fxprune.fold(gated)
    costs = fxprune.report(folded, latency=False).as_dict()
    assert costs["macs_after"] <= 0.4 * costs["macs_before"]
    fxprune.verify(gated, folded)


def test_shrunk_model_is_saved_and_loaded(tmp_path):
    gated = gate()
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    train(gated, optimizer, 3)
    fxprune.shrink(gated, optimizer)
    train(gated, optimizer, 3, first=3)
    folded = fxprune.fold(gated).eval()
    fxprune.save(folded, tmp_path)
    loaded = fxprune.load(tmp_path, Residual().double()).eval()
    x = images(2).double()
    assert torch.equal(loaded(x), folded(x))


def test_the_loop_need_not_know():
    gated = gate(shrink_every=2)
    whole = size(gated)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    before = id(gated), id(optimizer)
    losses = train(gated, optimizer, 3)
    assert size(gated) < whole, "after two steps"
    train(gated, optimizer, 5, first=3)
    assert size(gated) == size(fxprune.fold(gated))
    assert (id(gated), id(optimizer)) == before
    assert len(losses) == 3
    fxprune.verify(gated, fxprune.fold(gated))


@pytest.mark.parametrize("method", ["static", "hard_concrete"])
def test_gates_keep_their_state(method):
    gated = gate(steps=9, method=method)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    train(gated, optimizer, 5)
    name = "importance" if method == "static" else "logits"
    state = getattr(gated.fxprune_gates.method, name)[gated.fxprune_gates.method.is_open > 0.5]
    fxprune.shrink(gated, optimizer)
    after = gated.fxprune_gates.method
    assert int(after.steps_done) == 5
    if not torch.equal(getattr(after, name), state):  # groups of one position are no longer gated
        assert len(getattr(after, name)) < len(state)
        assert set(getattr(after, name).tolist()) <= set(state.tolist())


def test_model_that_is_averaged_is_left_whole(caplog):
    gated = gate(shrink_every=1)
    average = AveragedModel(gated)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    whole = size(gated)
    with caplog.at_level(logging.WARNING, "fxprune"):
        train(gated, optimizer, 6)
    average.update_parameters(gated)
    assert size(gated) == whole
    assert caplog.text.count("it was copied") == 1


def test_parts_shrink_in_their_model():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = randomise(Residual())
            self.head = nn.Linear(5, 5)

        def forward(self, x):
            return self.head(self.backbone(x))

    gated = fxprune.prepare(Whole(), images(1), scope="backbone", target=0.4, shrink_every=1)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    fxprune.reach_target(gated)
    whole = size(gated.backbone)
    removed = fxprune.shrink(gated, optimizer)
    assert removed > 0
    assert size(gated.backbone) < whole
    fxprune.fold(gated)(images(2))


def test_shrunk_training_survives_compile():
    gated = gate()
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    compiled = torch.compile(gated, backend="eager")
    train(compiled, optimizer, 6)
    expected = train(copy.deepcopy(gated), torch.optim.SGD([torch.zeros(1)], 0.1), 2, first=6)
    fxprune.shrink(gated, optimizer)
    losses = train(compiled, torch.optim.SGD([torch.zeros(1)], 0.1), 2, first=6)
    assert_same_training(losses, expected)


def test_pickled_after_shrinking():
    gated = gate()
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    train(gated, optimizer, 6)
    fxprune.shrink(gated, optimizer)
    file = io.BytesIO()
    torch.save(gated, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = images(2).double()
    assert torch.equal(again.eval()(x), gated.eval()(x))


def test_state_of_another_shape_is_refused_and_nothing_changes():
    gated = gate()
    optimizer = torch.optim.Adafactor(gated.parameters(), lr=0.01)
    train(gated, optimizer, 6)
    state = copy.deepcopy(gated.state_dict())
    with pytest.raises(fxprune.InputError, match=r"the state '\w+' of Adafactor"):
        fxprune.shrink(gated, optimizer)
    assert list(state) == list(gated.state_dict())
    assert all(torch.equal(state[name], value) for name, value in gated.state_dict().items())
    train(gated, optimizer, 1)


class Sorting(nn.Module):
    """A stream that a branch reads by position, and a layer inside of another branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.outer = nn.Conv2d(8, 8, 1)
        self.first, self.second = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.outer(x.sort(1).values)
        return self.head(x + self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (plain, "every group that is left has one position or is pinned"),
        (Sorting, "what is free in what is left was pinned before, or is not found again"),
    ],
)
def test_shrink_says_why_it_removes_nothing(make, why, caplog):
    """Without the branch that sorts a stream, which pinned it, the stream is free."""
    gated = fxprune.prepare(make(), images(1), target=1.0).train()
    free = [group for group in fxprune.groups(gated) if not group.pin]
    keep = {g.name: [g.kind != "branch"] + [False] * (g.size - 1) for g in free}
    fxprune.set_keep_set(gated, keep)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    state = copy.deepcopy(gated.state_dict())
    with caplog.at_level(logging.WARNING, "fxprune"):
        assert fxprune.shrink(gated, optimizer) == 0
    assert caplog.text.count(f"closed positions stay, because {why}") == 1
    assert all(torch.equal(state[name], value) for name, value in gated.state_dict().items())


def test_nothing_closed_nothing_removed():
    gated = gate()
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    assert fxprune.shrink(gated, optimizer) == 0
    with pytest.raises(fxprune.InputError, match=r"fxprune\.prepare returns"):
        fxprune.shrink(Residual(), optimizer)


def pickled(gated, optimizer):
    """The whole state of a training in one file, and back."""
    file = io.BytesIO()
    torch.save({"model": gated, "optimizer": optimizer}, file)
    file.seek(0)
    state = torch.load(file, weights_only=False)
    return state["model"], state["optimizer"]


def copied(gated, optimizer):
    """Both, as one."""
    return copy.deepcopy((gated, optimizer))


@pytest.mark.parametrize("clone", [pickled, copied])
@pytest.mark.parametrize("done", [0, 3])
def test_copies_of_a_training_shrink_as_it_does(clone, done):
    gated = gate(steps=6, shrink_every=2)
    optimizer = OPTIMIZERS["sgd"](gated.parameters())
    train(gated, optimizer, done)
    again, its = clone(gated, optimizer)
    del gated, optimizer
    train(again, its, 6, first=done)
    assert size(again) == size(fxprune.fold(again)) < size(gate())


def test_copy_that_lives_beside_the_original_stays_whole(caplog):
    gated = gate(shrink_every=1)
    clone = copy.deepcopy(gated)
    with caplog.at_level(logging.WARNING, "fxprune"):
        train(clone, OPTIMIZERS["sgd"](clone.parameters()), 6)
    assert size(clone) == size(gated)
    assert caplog.text.count("it was copied") == 1
