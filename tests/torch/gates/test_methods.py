"""What every gating method promises, and what each is known for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxprune
from fxprune.torch.gates.methods import METHODS
from tests.torch.models import Residual, images, randomise


def gate(method="static", target=0.4, steps=8, model=None):
    model = randomise(Residual()).double().train() if model is None else model
    return fxprune.prepare(
        model, images(1).double(), target=target, steps=steps, method=method
    ).train()


def train(gated, steps, first=0, lr=0.02):
    optimizer = torch.optim.SGD(gated.parameters(), lr=lr, momentum=0.9)
    for step in range(first, first + steps):
        torch.manual_seed(step)
        loss = F.cross_entropy(gated(images(6, seed=step).double()), torch.arange(6) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gated


def share_of_macs(gated):
    costs = fxprune.report(gated, latency=False).as_dict()
    return costs["macs_after"] / costs["macs_before"]


@pytest.mark.parametrize("method", METHODS)
def test_target_is_met_after_the_last_step_and_fold_is_exact(method):
    gated = train(gate(method), 8)
    assert share_of_macs(gated) <= 0.4
    fxprune.verify(gated, fxprune.fold(gated))
    before = fxprune.keep_set(gated)
    train(gated, 3, first=8)
    after = fxprune.keep_set(gated)
    assert all(torch.equal(before[name], after[name]) for name in before), "final is final"


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_in_the_middle_is_that_of_the_keep_set(method):
    gated = train(gate(method), 4)
    fxprune.verify(gated, fxprune.fold(gated))


@pytest.mark.parametrize("method", METHODS)
def test_method_goes_on_from_its_saved_state(method):
    whole = train(gate(method), 8)
    half = train(gate(method), 4)
    resumed = gate(method)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    # The momentum of the weights starts anew in both.
    train(half, 4, first=4)
    train(resumed, 4, first=4)
    for name, value in half.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert list(whole.state_dict()) == list(resumed.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_final_gates_ask_for_no_gradient(method):
    gated = train(gate(method), 8)
    assert not gated.fxprune_gates.method.learning
    assert not gated.fxprune_gates.method.gates().requires_grad


def test_unknown_settings_are_refused():
    with pytest.raises(fxprune.InputError, match="unknown method 3; known methods are static"):
        gate(method=3)


# autobot --------------------------------------------------------------------------------------


def frozen_state(model):
    """All of a gated or plain model but the gates."""
    state = model.state_dict()
    return {n: v.clone() for n, v in state.items() if not n.startswith("fxprune_gates")}


def test_autobot_leaves_weights_and_statistics_alone_bit_for_bit():
    model = randomise(Residual(dropout=0.5)).double().train()
    gated = gate("autobot", model=model)
    before = frozen_state(gated)
    train(gated, 8)
    after = frozen_state(gated)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not gated.stem[1].training
    assert gated.train().fxprune_gates.training
    assert share_of_macs(gated) <= 0.4


def test_check_of_frozen_weights_can_fail():
    gated = gate("static")
    before = frozen_state(gated)
    train(gated, 2)
    after = frozen_state(gated)
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_what_autobot_folds_can_be_trained_again():
    model = randomise(Residual()).double().train()
    model.head.bias.requires_grad_(False)
    folded = fxprune.fold(train(gate("autobot", model=model), 8))
    trained = {name for name, p in folded.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in folded.named_parameters()} - {"head.bias"}


def test_autobot_starts_at_its_opening_and_pays_for_cost_and_softness():
    method = gate(fxprune.AutoBot(opening=0.8)).fxprune_gates.method
    assert torch.allclose(method.gates(), torch.tensor(0.8, dtype=method.logits.dtype))
    soft = method.penalty(method.logits)
    binary = method.penalty(torch.full_like(method.logits, 50.0))
    assert binary == pytest.approx(6.0)  # everything open: the whole excess, nothing soft
    budget = method.budget
    sizes = {n: 0.8 * s for n, s in budget.costs.full.items()}
    macs = budget.costs.polynomials["macs"]
    full, limit = macs(budget.costs.full), budget.limit["macs"]
    excess = (macs(sizes) - limit) / (full - limit)
    assert float(soft) == pytest.approx(6.0 * excess + 0.2 * 0.2, rel=1e-5)


def test_autobot_keeps_what_lowers_the_loss():
    method = gate("autobot").fxprune_gates.method
    gradient = torch.zeros_like(method.scores)
    gradient[::2] = -1.0
    for _ in range(20):
        method.learn(gradient)
    assert method.rank()[::2].min() > method.rank()[1::2].max()


# hard_concrete --------------------------------------------------------------------------------


def test_hard_concrete_gates_reach_both_ends_at_the_rate_of_the_paper():
    """P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta)), equation 12 of Louizos et al."""
    method = gate(fxprune.HardConcrete(opening=0.7)).fxprune_gates.method
    torch.manual_seed(0)
    draws = torch.stack([method.gates() for _ in range(4000)]).detach()
    assert float((draws > 0).double().mean()) == pytest.approx(0.7, abs=0.01)
    assert 0 <= draws.min() < draws.max() <= 1
    assert float((draws == 1).double().mean()) > 0.05


# static ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distributed", [False, True])
def test_long_schedules_take_gradients_on_some_steps_only(distributed, monkeypatch):
    """On the others gates are no part of the loss, unless DDP waits for their gradient."""
    monkeypatch.setattr("fxprune.torch.gates.module.is_distributed", lambda: distributed)
    gated = gate(steps=2000)
    learning = []
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.0)
    for step in range(8):
        learning.append(gated.fxprune_gates.method.learning)
        optimizer.zero_grad()
        gated(images(2, seed=step).double()).square().mean().backward()
        assert (gated.fxprune_gates.method.scores.grad is not None) == (learning[-1] or distributed)
        optimizer.step()
    assert learning == [True, False, False, False] * 2
    assert int(gated.fxprune_gates.method.taken) == 2


def test_fused_optimizers_gradients_are_unscaled():
    gated = gate()
    method = gated.fxprune_gates.method
    method.scores.grad = torch.full_like(method.scores, 6.0)
    method.before_step(torch.tensor(2.0))
    assert torch.equal(method.importance, torch.full_like(method.importance, 9.0))


def test_positions_are_ranked_by_the_root_of_importance_per_cost():
    method = gate().fxprune_gates.method
    layout, costs = method.budget.layout, method.budget.costs
    method.importance.uniform_(1, 2)
    rank = dict(zip(layout.names, torch.split(method.rank(), list(layout.sizes)), strict=True))
    importance = torch.split(method.importance, list(layout.sizes))
    (macs,) = costs.polynomials.values()
    full, inner, branch = dict(costs.full), "body.0", "body+"
    for name, seen in (("stem.0", 2), (inner, 1), (branch, full[inner])):
        price = (macs(full) - macs({**full, name: full[name] - 1})) / macs(full)
        expected = (importance[layout.names.index(name)] * seen).sqrt() / price
        torch.testing.assert_close(rank[name], expected)


def closed_first(method, importance):
    """The positions in the order in which they would close, were this their importance."""
    method.importance.copy_(importance)
    return method.rank().argsort().tolist()


@given(
    taken=st.sampled_from([1, 5, 20, 10**4]),
    seed=st.integers(0, 9),
)
def test_few_gradients_count_less_than_norms_of_weights(taken, seed):
    """Both orders at their ends, whatever the numbers; the values are those of importance."""
    gated = gate()
    method, owner = gated.fxprune_gates.method, gated.fxprune_gates.owner
    norms = gated.fxprune_gates.norms()
    expected = torch.cat(list(fxprune.importance(owner, "group_norm").values()))
    assert torch.equal(norms, expected)
    importance = torch.rand(len(norms), generator=torch.Generator().manual_seed(seed)) + 0.1
    method.steps_done.fill_(method.steps)
    by_gradients = closed_first(method, importance)
    values = method.rank().sort().values
    method.weigh(lambda: norms)
    method.taken.fill_(taken)
    if taken > 1000:
        assert closed_first(method, importance) == by_gradients
    else:
        rank = method.rank()
        by_norms = rank[norms.argsort(stable=True)]
        assert torch.allclose(by_norms, values, rtol=0.05, atol=0.05 * float(values.max()))


def test_weights_are_asked_once_when_the_first_positions_close():
    gated, asked = gate(steps=30), []
    gates = gated.fxprune_gates
    gates.norms = lambda: (
        asked.append(int(gates.method.steps_done)) or torch.ones(gates.layout.total)
    )
    train(gated, 10)
    assert asked == [4], "a tenth of 30 steps is warm-up"


@pytest.mark.parametrize("steps", [20, 2000])
def test_short_schedules_go_most_of_their_way_when_warm_up_is_over(steps):
    method = gate(steps=steps).fxprune_gates.method
    shares = []
    for done in range(steps + 1):
        method.steps_done.fill_(done)
        shares.append(method.share())
    assert shares == sorted(shares)
    assert shares[0] == shares[steps // 10] == 0
    assert shares[-1] == 1
    assert (shares[steps // 10 + 1] > 0.9) == (steps == 20)
    assert (shares[steps // 10 + 1] < 0.1) == (steps == 2000)


def test_weights_in_the_form_of_a_wrapper_say_nothing():
    gated = gate()
    stem = gated.stem[0]
    flat = nn.Parameter(stem.weight.detach().flatten()[:3])
    stem.weight = flat
    assert gated.fxprune_gates.norms() is None
    del stem.weight
    assert gated.fxprune_gates.norms() is None


class Heads(nn.Module):
    """Three heads of four channels beside a skip; windows are flattened, then classified."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(8, 12)
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.head = nn.Linear(5 * 12, 3)

    def forward(self, x):
        x = self.stem(x)
        q, k, v = (
            layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.head((x + self.out(mixed.transpose(1, 2).flatten(2))).flatten(1))


def test_channels_are_seen_by_readers_and_in_heads():
    gated = fxprune.prepare(Heads(), torch.zeros(2, 5, 8), in_kind=False)
    layout = gated.fxprune_gates.layout
    seen = dict(zip(layout.names, layout.fan_out, strict=True))
    assert seen["stem"] == 3 + 5  # q, k, v, and once per window in the head
    assert (seen["q/0"], seen["v/1"]) == (4, 3)  # channels of a head, heads of a channel
    inside = [sum(n * s for n, s in zip(layout.sizes[1:4], layout.fan_out[1:4], strict=True))]
    assert layout.fan_out[layout.groups :] == tuple(inside)


def test_branches_hold_the_groups_that_nothing_else_reads():
    layout = gate().fxprune_gates.layout
    inside = dict(zip(layout.names, layout.inside, strict=True))
    assert inside["body+"] == (layout.names.index("body.0"),)
    assert not any(inside[name] for name in layout.names[: layout.groups])
