"""Loops of one's own: accumulation, precision, closures, compilation, checkpoints, averages."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import fxprune
from tests.recipes.training import (
    SETTINGS,
    Plain,
    assert_prunes,
    assert_same_bits,
    assert_same_gates,
    begin,
    gates_state,
    loss_of,
    sgd,
    train,
)
from tests.torch.models import Residual, assert_equal, half, images, randomise

# Accumulation and schedules -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["static", "autobot", "autobot, weights learn"])
def test_accumulated_batches_teach_what_the_joint_batch_does(method):
    joint, parts = begin(method, Plain()), begin(method, Plain())
    train(joint, sgd(joint), range(12))
    optimizer = sgd(parts)
    for seed in range(12):
        optimizer.zero_grad()
        for x in images(8, seed).chunk(4):
            (loss_of(parts, seed, x) / 4).backward()
        optimizer.step()
    assert_same_gates(joint, parts)
    assert_prunes(parts)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 12),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedule_of_the_learning_rate_counts_no_step(kind):
    gated = begin()
    optimizer = sgd(gated)
    schedule = SCHEDULES[kind](optimizer)
    for step in range(12):
        train(gated, optimizer, range(step, step + 1))
        schedule.step()
        assert int(gated.fxprune_gates.method.steps_done) == min(step + 1, 10)
    assert_prunes(gated)


# Mixed precision ------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda gated: sgd(gated),
    "fused sgd": lambda gated: sgd(gated, fused=True),
    "fused adam": lambda gated: torch.optim.Adam(gated.parameters(), lr=0.01, fused=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("unscaled", [True, False])
@pytest.mark.parametrize("method", ["static", "autobot, weights learn"])
def test_scaled_gradients_teach_what_plain_ones_do(kind, unscaled, method):
    plain, scaled = begin(method), begin(method)
    train(plain, OPTIMIZERS[kind](plain), range(12))
    optimizer, scaler = OPTIMIZERS[kind](scaled), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for seed in range(12):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        scaler.scale(loss_of(scaled, seed)).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert_same_gates(plain, scaled)
    assert_prunes(scaled)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("unscaled", [True, False])
def test_step_that_the_scaler_skips_is_none_for_the_gates(kind, unscaled):
    gated = begin()
    optimizer, scaler = OPTIMIZERS[kind](gated), torch.amp.GradScaler("cpu")
    for seed in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(gated, seed)).backward()
        before = copy.deepcopy(gated.state_dict())
        if seed == 2:  # the gradient of the gates is finite, another one is not
            gated.get_parameter("head.bias").grad[0] = torch.inf
        if unscaled:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        same = all(torch.equal(tensor, before[name]) for name, tensor in gated.state_dict().items())
        assert same == (seed == 2)
    assert int(gated.fxprune_gates.method.steps_done) == 3
    assert scaler.get_scale() < 2**16


def test_autocast_teaches_nearly_what_float32_does():
    exact, rounded = begin(model=Plain()), begin(model=Plain())
    train(exact, sgd(exact), range(3))
    with torch.autocast("cpu", torch.bfloat16):
        train(rounded, sgd(rounded), range(3))
    left, right = (gates_state(gated)["method.importance"] for gated in (exact, rounded))
    assert left.dtype == right.dtype == torch.float32
    assert not torch.equal(left, right)
    assert torch.cosine_similarity(left, right, dim=0) > 0.99
    with torch.autocast("cpu", torch.bfloat16):
        train(rounded, sgd(rounded), range(12))
    assert_prunes(rounded)


def test_model_in_bfloat16_trains():
    gated = begin(model=Residual().bfloat16())
    optimizer = sgd(gated)
    for seed in range(12):
        optimizer.zero_grad()
        loss_of(gated, seed, images(8, seed).bfloat16()).backward()
        optimizer.step()
    assert_prunes(gated)


# Closures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("method", SETTINGS)
def test_closure_teaches_what_the_plain_loop_does(method, by_name):
    steps = 600 if method == "static" else 10  # long schedules take gradients on some steps only
    plain, closed = begin(method, steps=steps), begin(method, steps=steps)
    train(plain, sgd(plain), range(12))
    optimizer = sgd(closed)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(closed, seed)
        loss.backward()
        return loss

    for seed in range(12):
        torch.manual_seed(seed)
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    assert_same_bits(plain, closed)
    assert not bool(closed.fxprune_gates.method.scores.any())


def test_repeated_closure_counts_as_one_step():
    gated = begin("autobot, weights learn", Plain())
    optimizer = torch.optim.LBFGS(gated.parameters(), lr=0.1, max_iter=3)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(gated, 0)
        loss.backward()
        calls.append(loss)
        return loss

    optimizer.step(closure)
    assert len(calls) > 1
    method = gated.fxprune_gates.method
    assert (int(method.steps_done), int(method.adam.count)) == (1, 1)
    assert not bool(method.scores.any())
    for _ in range(10):
        optimizer.step(closure)
    assert_prunes(gated)


# torch.compile --------------------------------------------------------------------------------


@pytest.fixture
def compiler() -> Iterator[dict[str, int]]:
    """torch.compile from scratch; what it counts."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


def check_compiled(method: str, backend: str, steps: int) -> None:
    eager, compiled = (begin(method, Residual(), steps) for _ in range(2))
    train(eager, sgd(eager), range(14))
    train(torch.compile(compiled, backend=backend), sgd(compiled), range(14))
    assert_same_gates(eager, compiled, rtol=1e-3)


@pytest.mark.parametrize(
    "method",
    [m if m == "static" else pytest.param(m, marks=pytest.mark.slow) for m in SETTINGS],
)
def test_compiled_training_has_the_keep_set_of_eager_training(method, compiler):
    check_compiled(method, "aot_eager", 10)
    phases = 3 if method.startswith("autobot") else 2  # soft, rounded; without gradients of gates
    assert compiler["unique_graphs"] == phases


def test_compiled_code_is_not_made_anew_when_learning_pauses(compiler):
    check_compiled("static", "aot_eager", 600)
    assert compiler["unique_graphs"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "autobot", "autobot, weights learn"])
def test_generated_code_has_the_keep_set_of_eager_training(method, compiler):
    check_compiled(method, "inductor", 10)
    assert compiler["unique_graphs"] == (2 if method == "static" else 3)


# What is wrapped around models ----------------------------------------------------------------

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torch.compile": lambda gated: torch.compile(gated, backend="aot_eager"),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "both": lambda gated: torch.compile(AveragedModel(gated), backend="aot_eager"),
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_fold_looks_inside_of_wrappers(kind):
    gated = begin().eval()
    fxprune.set_keep_set(gated, half(gated))
    wrapped = WRAPPERS[kind](gated)
    expected, folded = fxprune.fold(gated), fxprune.fold(wrapped)
    assert type(folded).__name__ == type(expected).__name__
    assert_same_bits(expected, folded)
    assert_equal(folded.eval()(images()), expected.eval()(images()))
    fxprune.verify(wrapped, folded)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_models_are_not_prepared(kind):
    with pytest.raises(fxprune.InputError, match="prepare the Residual, then wrap what"):
        fxprune.prepare(WRAPPERS[kind](Residual()), images(1))


def test_models_compiled_in_place_are_not_called_by_what_is_made_of_them():
    model = randomise(Residual()).eval()
    model.compile(backend="aot_eager")
    gated = fxprune.prepare(model, images(1))
    fxprune.set_keep_set(gated, half(gated))
    assert not torch.equal(gated(images()), model(images()))
    gated.compile(backend="aot_eager")
    expected = gated(images()).detach()
    made = fxprune.fold(gated), copy.deepcopy(gated)
    with torch.no_grad():
        gated.head.weight.zero_()
    for each in made:
        torch.testing.assert_close(each(images()), expected)


# Activation checkpointing ---------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", SETTINGS)
def test_checkpoint_around_the_gated_model_changes_nothing(method, reentrant):
    model = Plain()
    model.norm = nn.Sequential(nn.GroupNorm(1, 12), nn.Dropout(0.2))
    plain, saving = begin(method, copy.deepcopy(model)), begin(method, model)
    train(plain, sgd(plain), range(12))

    def checkpointed(x: Tensor) -> Tensor:
        return checkpoint(saving, x.requires_grad_(), use_reentrant=reentrant)

    train(checkpointed, sgd(saving), range(12))
    assert_same_bits(plain, saving)
    assert_prunes(saving)


class Checkpointed(Residual):
    """Checkpoints its body."""

    reentrant = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + checkpoint(self.body, x, use_reentrant=self.reentrant))
        return self.head(x.mean((2, 3)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_inside_of_a_model_keeps_its_gradients(reentrant):
    model = randomise(Checkpointed()).train()
    model.reentrant = reentrant
    gated = fxprune.prepare(model, images(1), target=0.4)
    assert not next(group for group in fxprune.groups(gated) if group.name == "body.0").pin
    for each in (model, gated):
        loss_of(each, 0).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gated.get_parameter(name).grad, parameter.grad)
    fxprune.reach_target(gated)
    assert_prunes(gated)


# Moving averages ------------------------------------------------------------------------------


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("method", SETTINGS)
def test_slow_average_folds_with_the_keep_set_of_the_gated_model(method, use_buffers):
    gated = begin(method)
    average = AveragedModel(gated, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=use_buffers)
    optimizer = sgd(gated)
    for seed in range(12):
        train(gated, optimizer, range(seed, seed + 1))
        average.update_parameters(gated)
    if use_buffers:  # flags are averaged too: open ones stay above one half for a while
        assert not _same_keep_set(gated, average.module)
        fxprune.set_keep_set(average.module, fxprune.keep_set(gated))
    assert _same_keep_set(gated, average.module)
    folded = fxprune.fold(average.module)
    fxprune.verify(average.module, folded)
    shapes = [parameter.shape for parameter in fxprune.fold(gated).parameters()]
    assert [parameter.shape for parameter in folded.parameters()] == shapes


def _same_keep_set(left: nn.Module, right: nn.Module) -> bool:
    other = fxprune.keep_set(right)
    return all(torch.equal(flags, other[name]) for name, flags in fxprune.keep_set(left).items())
