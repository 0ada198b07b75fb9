"""A schedule goes on while gates learn, and ends at the target, at the latest when it is folded."""

import copy
import logging

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fxprune
from fxprune.torch.gates.methods import METHODS
from tests.torch.models import Residual, images, randomise

IN_TRAINING = [name for name in METHODS if name != "static"]


def gate(method="static", **settings):
    model = randomise(Residual())
    options = {"target": 0.4, "steps": 6, **settings}
    return fxprune.prepare(model, images(1), method=method, **options).train()


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)


def train(gated, optimizer, steps, loss_of=None):
    for seed in range(steps):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss = loss_of(gated) if loss_of else gated(images(6, seed)).square().mean()
        loss.backward()
        optimizer.step()


def share(model):
    costs = fxprune.report(model, latency=False)
    return costs.after["macs"] / costs.before["macs"]


def closes(gated):
    return not all(bool(flags.all()) for flags in fxprune.keep_set(gated).values())


def done(gated):
    return int(gated.fxprune_gates.method.steps_done)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "fxprune")
    return caplog


# Evaluation -----------------------------------------------------------------------------------


def test_static_gates_learn_in_evaluation_what_they_learn_in_training():
    model = randomise(Residual()).eval()  # its statistics stay, whatever the mode of the gates
    runs = []
    for mode in (True, False):
        gated = fxprune.prepare(model, images(1), target=0.4, steps=6)
        gated.eval().fxprune_gates.train(mode)
        train(gated, sgd(gated), 6)
        runs.append(gated.state_dict())
        assert share(gated) <= 0.4
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


def test_values_in_evaluation_do_not_depend_on_gradients():
    gated = gate(steps=100)
    train(gated, sgd(gated), 3)
    gated.eval()
    with torch.no_grad():
        expected = gated(images())
        assert not gated.fxprune_gates()[0].requires_grad
    assert gated.fxprune_gates()[0].requires_grad
    assert torch.equal(gated(images()), expected)
    fxprune.verify(gated, fxprune.fold(gated))
    assert not gated.fxprune_gates()[0].requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")  # since torch 2.14
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("learns", [False, True])
def test_what_is_exported_from_evaluation_knows_no_scores(learns, monkeypatch):
    """The second case shows that they would be found."""
    gated = gate().eval()
    if learns:
        monkeypatch.setattr(type(gated.fxprune_gates), "_may_learn", lambda gates: True)
    program = torch.export.export(gated, (images(),))
    assert torch.equal(program.module()(images()), gated(images()))
    traced = torch.jit.trace(gated, images(), check_trace=False)
    assert (
        ("aten.sub" in str(program.graph)) == ("aten::sub" in str(traced.inlined_graph)) == learns
    )


@pytest.mark.parametrize("method", IN_TRAINING)
def test_other_gates_wait_in_evaluation(method, said):
    settings = fxprune.AutoBot(frozen=False) if method == "autobot" else method
    gated = gate(settings)
    optimizer = sgd(gated)
    train(gated.eval(), optimizer, 8)
    assert (done(gated), closes(gated)) == (0, False)
    assert said.text.count("after 6 optimizer steps gates have learned nothing") == 1
    assert "call gated.train()" in said.text
    train(gated.train(), optimizer, 2)
    assert done(gated) == 2
    train(gated.eval(), optimizer, 2)
    assert done(gated) == 2


@pytest.mark.parametrize("distributed", [False, True])
def test_gates_are_in_every_loss_of_evaluation_where_processes_wait_for_them(
    distributed, monkeypatch
):
    monkeypatch.setattr("fxprune.torch.gates.module.is_distributed", lambda: distributed)
    gated = gate(steps=2000).eval()
    optimizer = sgd(gated)
    reached = []
    for _ in range(5):
        optimizer.zero_grad()
        gated(images()).square().mean().backward()
        reached.append(gated.fxprune_gates.method.scores.grad is not None)
        optimizer.step()
    assert reached == [True, distributed, distributed, distributed, True]


# Why nothing is learned -----------------------------------------------------------------------


def blind_in_evaluation():
    gated = gate("hard_concrete").eval()
    train(gated, sgd(gated), 8)
    return gated


def blind_since_frozen():
    gated = gate()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.02)
    for name, parameter in gated.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    train(gated, optimizer, 8)
    return gated


def blind_since_left_out():
    gated = gate()
    for name, parameter in gated.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    train(gated, sgd(gated), 8)
    return gated


def blind_before_prepare():
    model = randomise(Residual())
    optimizer = sgd(model)
    gated = fxprune.prepare(model, images(1), target=0.4, steps=6)
    train(gated, optimizer, 8)
    return gated


def blind_in_another_optimizer():
    gated = gate()
    train(gated, torch.optim.SGD(gated.head.parameters(), lr=0.02), 8)
    return gated


def blind_without_steps():
    return gate()


def blind_without_backward():
    gated = gate()
    optimizer = sgd(gated)
    for _ in range(8):
        gated(images())
        optimizer.step()
    return gated


def blind_for_another_loss():
    gated = gate()
    train(gated, sgd(gated), 8, lambda model: model.head.weight.square().sum())
    return gated


def blind_at_zero():
    gated = gate()
    train(gated, sgd(gated), 8, lambda model: 0 * model(images()).sum())
    return gated


CAUSES = {
    "in evaluation mode": blind_in_evaluation,
    "the gates are frozen": blind_since_frozen,
    "the gates are frozen, because requires_grad": blind_since_left_out,
    "does not hold the gates": blind_before_prepare,
    "the optimizer does not hold the gates": blind_in_another_optimizer,
    "no optimizer has made a step": blind_without_steps,
    "no backward pass gave": blind_without_backward,
    "the loss does not depend on what the gated model returns": blind_for_another_loss,
    "are all zero: the loss does not depend on": blind_at_zero,
}


@pytest.mark.parametrize("cause", CAUSES)
def test_one_warning_says_why_nothing_was_learned(cause, said):
    gated = CAUSES[cause]()
    assert (done(gated), closes(gated)) == (0, False)
    folded = fxprune.fold(gated)
    warnings = [r.getMessage() for r in said.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert cause in warnings[0]
    assert "the rest is closed now, by norms of weights, because gates have learned" in said.text
    assert share(folded) <= 0.4
    fxprune.verify(gated, folded)


def test_cause_in_the_middle_is_said_too(said):
    gated = gate("hard_concrete", steps=50)
    optimizer = sgd(gated)
    train(gated, optimizer, 3)
    train(gated.eval(), optimizer, 4)
    fxprune.fold(gated)
    assert "after 3 of 50 steps" in said.text
    assert "4 steps more taught nothing, because the gated model was in evaluation" in said.text


def test_steps_whose_gradients_are_not_finite_do_not_count():
    gated = gate()
    optimizer = sgd(gated)
    train(gated, optimizer, 2)
    gated.fxprune_gates.method.scores.grad = torch.full_like(
        gated.fxprune_gates.method.scores, torch.inf
    )
    optimizer.step()
    assert done(gated) == 2
    assert "infinite" in gated.fxprune_gates.waiting.cause


def test_gradients_that_vanish_later_do_count():
    gated = gate()
    optimizer = sgd(gated)
    train(gated, optimizer, 2)
    train(gated, optimizer, 4, lambda model: 0 * model(images()).sum())
    assert share(gated) <= 0.4


# fold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_fold_closes_by_what_was_learned(method, said):
    gated = gate(method, steps=1000)
    train(gated, sgd(gated), 10)
    other = copy.deepcopy(gated)
    fxprune.reach_target(other)
    assert share(gated) > 0.4 or method in ("autobot", "hard_concrete")  # at the target all along
    folded = fxprune.fold(gated)
    assert share(gated) == share(folded) <= 0.4
    keep = fxprune.keep_set(other)
    assert all(torch.equal(flags, keep[n]) for n, flags in fxprune.keep_set(gated).items())
    steps = 10 if method == "autobot" else 3  # where only gates learn, they may to the end
    assert said.text.count("folding after 10 of 1000 steps") == 1
    assert f"prepare(..., steps={steps}) would leave time" in said.text
    fxprune.verify(gated, folded)


def test_where_nothing_was_learned_fold_closes_by_norms(said):
    gated = gate(steps=1000)
    other = copy.deepcopy(gated)
    fxprune.reach_target(other, fxprune.importance(other, "group_norm"))
    fxprune.fold(gated)
    keep = fxprune.keep_set(other)
    assert all(torch.equal(flags, keep[n]) for n, flags in fxprune.keep_set(gated).items())


def test_fold_says_nothing_again_when_the_rest_is_closed(said):
    gated = gate(steps=1000)
    fxprune.fold(gated)
    assert said.text
    said.clear()
    fxprune.fold(gated)
    assert not said.text


class Branches(torch.nn.Module):
    """Nothing but branches can go: all channels are those of the input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

    def forward(self, x):
        x = x + torch.relu(self.first(x))
        return x + self.second(x)


def test_fold_of_branches_that_learned_nothing_meets_the_target():
    gated = fxprune.prepare(randomise(Branches()), images(1), target=0.5)
    folded = fxprune.fold(gated)
    assert share(folded) == 0.5
    fxprune.verify(gated, folded)


def test_fold_without_settling_leaves_gated_as_it_was(said):
    gated = gate(steps=1000)
    optimizer = sgd(gated)
    train(gated, optimizer, 2)
    before = copy.deepcopy(gated.state_dict())
    folded = fxprune.fold(gated, settle=False)
    assert "more is open than its target allows; prepare(" in said.text
    assert all(torch.equal(value, before[name]) for name, value in gated.state_dict().items())
    assert share(folded) == share(gated) > 0.4
    train(gated, optimizer, 4)
    assert share(fxprune.fold(gated)) <= 0.4


def everything(gated):
    fxprune.set_keep_set(gated, {n: f | True for n, f in fxprune.keep_set(gated).items()})


@pytest.mark.parametrize("set_by_hand", [True, False])
def test_what_was_set_or_meets_the_target_folds_as_it_is(set_by_hand, said):
    gated = gate(target=0.4 if set_by_hand else 1.0)
    if set_by_hand:
        everything(gated)
    before = copy.deepcopy(gated.state_dict())
    folded = fxprune.fold(gated)
    assert share(folded) == 1
    assert all(torch.equal(value, before[name]) for name, value in gated.state_dict().items())
    assert not said.text


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_average_is_closed_by_its_own_state_and_the_original_left_alone(method, use_buffers):
    gated = gate(method, steps=100)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    optimizer = sgd(gated)
    for _ in range(5):
        train(gated, optimizer, 1)
        average.update_parameters(gated)
    before = copy.deepcopy(gated.state_dict())
    folded = fxprune.fold(average)
    assert share(folded) <= 0.4
    fxprune.verify(average, folded)
    assert all(torch.equal(value, before[name]) for name, value in gated.state_dict().items())


def test_optimizer_and_part_fold_at_the_target():
    gated = gate(steps=100)
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.02, momentum=0.9)
    train(gated, optimizer, 3)
    folded, its = fxprune.fold(gated, optimizer=optimizer)
    assert share(folded) <= 0.4
    train(folded, its, 1)
    part = fxprune.prepare(
        torch.nn.Sequential(randomise(Residual()), torch.nn.Linear(5, 5)),
        images(1),
        scope="0",
        target=0.4,
    )
    folded = fxprune.fold(part)
    assert share(folded) == share(part) <= 0.4
    torch.testing.assert_close(folded.eval()(images()), part.eval()(images()))


# How long -------------------------------------------------------------------------------------


def test_steps_follow_from_the_length_of_training():
    model = randomise(Residual())

    def steps(**options):
        return fxprune.prepare(model, images(1), **options).fxprune_gates.method.steps

    assert (steps(), steps(total_steps=200), steps(total_steps=1)) == (1000, 60, 1)
    assert steps(total_steps=200, method="autobot") == 200, "nothing is trained after its gates"
    assert steps(total_steps=200, steps=0.5) == 100
    assert steps(total_steps=200, steps=150) == 150


@pytest.mark.parametrize(("total", "end"), [(100, 30), (10, 6), (20, 6)])
def test_schedule_that_follows_ends_in_time_wherever_it_stands(total, end):
    gated = gate(steps=None)
    optimizer = sgd(gated)
    train(gated, optimizer, 5)
    gated.fxprune_gates.method.follow(total)
    assert gated.fxprune_gates.method.steps == end
    train(gated, optimizer, end - 5)
    assert share(gated) <= 0.4


def test_finished_schedule_is_finished_where_it_is_loaded():
    gated = gate(total_steps=10)
    train(gated, sgd(gated), 4)
    fresh = gate(steps=None)
    fresh.load_state_dict(gated.state_dict())
    fresh.fxprune_gates.method.follow(10)
    assert fresh.fxprune_gates.method.done
    before = fxprune.keep_set(fresh)
    train(fresh, sgd(fresh), 2)
    assert all(torch.equal(flags, before[n]) for n, flags in fxprune.keep_set(fresh).items())


def test_shrinking_keeps_what_the_schedule_is():
    gated = gate(steps=None, target=0.3)
    optimizer = sgd(gated)
    gated.fxprune_gates.method.follow(20)
    train(gated, optimizer, 4)
    assert fxprune.shrink(gated, optimizer) > 0
    method = gated.fxprune_gates.method
    assert (method.adjustable, method.steps, done(gated)) == (True, 6, 4)


# Reports --------------------------------------------------------------------------------------


def test_report_says_target_and_reached_of_every_cost(tmp_path):
    target = {"macs": 0.5, "params": 0.6, "body": {"macs": 0.4}}
    gated = gate(target=target, steps=50)
    train(gated, sgd(gated), 4)
    found = fxprune.report(gated, latency=False)
    names = ("macs", "params", "macs of body")
    numbers = found.as_dict()
    assert (numbers["schedule_done"], numbers["schedule_all"]) == (4, 50)
    assert "schedule: 4 of 50 steps" in str(found)
    assert all(numbers[f"{n}_reached"] > numbers[f"{n}_target"] for n in ("params", "macs of body"))
    folded = fxprune.fold(gated)
    fxprune.save(folded, tmp_path)
    loaded = fxprune.load(tmp_path, randomise(Residual()))
    for model in (gated, folded, loaded):
        found = fxprune.report(model, latency=False)
        numbers = found.as_dict()
        assert all(0 < numbers[f"{n}_reached"] <= numbers[f"{n}_target"] for n in names)
        assert numbers["macs_reached"] == numbers["macs_after"]
        for name in names:
            limit, reached = numbers[f"{name}_target"], numbers[f"{name}_reached"]
            assert f"target of {name}: at most {limit:,.10g}, {reached:,.10g} reached" in str(found)
    assert "schedule" not in str(fxprune.report(gated, latency=False))
    page = fxprune.write_report(gated, tmp_path / "report.html", latency=False).read_text()
    assert f"target of macs: at most {numbers['macs_target']:,.10g}" in page
