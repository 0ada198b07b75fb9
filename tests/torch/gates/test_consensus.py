"""Gates that look at samples and agree."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.passes.condition import plan_conditions
from fxprune.torch.gates.consensus import consensus_gap
from fxprune.torch.record import record_of
from tests.torch.models import Residual, images, randomise


def gate(settings=None, steps=40, target=0.5):
    model = randomise(Residual()).double().train()
    method = settings or fxprune.Consensus()
    return fxprune.prepare(model, images(1).double(), target=target, steps=steps, method=method)


def train(gated, steps, first=0):
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.02, momentum=0.9)
    for step in range(first, first + steps):
        loss = F.cross_entropy(gated(images(8, seed=step).double()), torch.arange(8) % 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def conditions(gated):
    a = record_of(gated).analysis
    return [str(c) for c in plan_conditions(a.graph, a.types, a.groups, a.branches)]


def test_gates_look_at_the_input_of_their_layer_and_act_on_arrays():
    assert conditions(gate()) == [
        "body.0: by axis 1 of operand 0 of body_0; operand 0 of body_3",
        "body+: by axis 1 of operand 0 of body_0; operand 1 of add",
    ]


def test_what_has_other_samples_is_not_conditioned():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.read = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.read(self.make(x).flatten(0, 1)).mean(0)

    gated = fxprune.prepare(Tokens(), torch.zeros(2, 3, 6), method="consensus")
    assert conditions(gated) == []
    assert gated.fxprune_gates.method.gates().requires_grad


def test_decisions_differ_by_sample_and_are_binary():
    gated = gate()
    method = gated.fxprune_gates.method
    with torch.no_grad():
        method.deciders[0].outer.weight.normal_(std=3.0)
    decisions = method.decide("body.0", torch.randn(50, 8, dtype=torch.double))
    assert decisions.shape == (50, 12)
    assert set(decisions.unique().tolist()) == {0.0, 1.0}
    assert 0 < decisions.mean() < 1
    assert not bool((decisions == decisions[0]).all())


def test_the_model_does_not_learn_for_the_gate_networks():
    method = gate().fxprune_gates.method
    features = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        method.deciders[0].outer.weight.normal_(std=3.0)
    method.decide("body.0", features).sum().backward()
    assert features.grad is None and method.deciders[0].inner.weight.grad.any()


def test_gated_sample_computes_what_it_computes_alone():
    """A gate of one sample acts on that sample only (in evaluation, batch statistics aside)."""
    gated = gate().eval()
    gates = gated.fxprune_gates
    with torch.no_grad():
        gates.method.deciders[0].outer.weight.normal_(std=3.0)
        gates.method.deciders[1].outer.weight.normal_(std=3.0)
    x = images(6).double()
    with gates.deciding():
        whole = gated(x)
        alone = torch.cat([gated(x[i : i + 1]) for i in range(6)])
    assert torch.allclose(whole, alone, rtol=1e-10)
    assert not torch.allclose(whole, gated(x)), "some gate must be closed"


def test_polarisation_makes_samples_agree():
    """Gradients of the two terms alone: split decisions go to the side of the majority."""
    gated = gate(target=1.0)  # the budget asks for nothing
    method = gated.fxprune_gates.method
    decisions = torch.full_like(method.logits, 0.7).requires_grad_()
    method.penalty(decisions).backward()
    assert bool((decisions.grad < 0).all()), "above one half a gate opens"
    decisions = torch.full_like(method.logits, 0.3).requires_grad_()
    method.penalty(decisions).backward()
    assert bool((decisions.grad > 0).all()), "below one half it closes"


def test_open_gates_close_while_the_cost_is_above_the_budget():
    method = gate(fxprune.Consensus(consensus_weight=0.0), target=0.3).fxprune_gates.method
    method.steps_done.fill_(method.steps - 1)
    decisions = torch.ones_like(method.logits, requires_grad=True)
    method.penalty(decisions).backward()
    slope = method.settings.activation_weight - method.settings.polarisation_weight
    assert torch.allclose(decisions.grad, slope * method._weights())


def settling(share, **settings):
    """A method whose keep-set has been chosen, at a share of its last two fifths."""
    method = gate(fxprune.Consensus(**settings), steps=100).fxprune_gates.method
    method.steps_done.fill_(60)
    method._choose()
    method.steps_done.fill_(60 + round(40 * share))
    return method


def test_decisions_settle_on_the_keep_set():
    """Whatever the majority says: a gate closes where the budget has no room, else it opens."""
    method = settling(0.5)
    assert 0 < method.is_open.mean() < 1
    decisions = torch.full_like(method.logits, 0.5).requires_grad_()
    method.penalty(decisions).backward()
    assert bool((decisions.grad[method.is_open == 0] > 0).all())
    assert bool((decisions.grad[method.is_open == 1] < 0).all())


def test_pull_to_the_keep_set_grows():
    slopes = []
    for share in (0.0, 0.5, 1.0):
        method = settling(share, activation_weight=1e-9, polarisation_weight=0.0)
        decisions = torch.full_like(method.logits, 0.5).requires_grad_()
        method.penalty(decisions).backward()
        slopes.append(float(decisions.grad.abs().sum()))
    weight = method.settings.consensus_weight
    assert slopes == pytest.approx([0, 0.5 * weight, weight], rel=1e-3, abs=1e-6)


def test_keep_set_stays_while_samples_settle():
    method = settling(0.1)
    chosen = method.is_open.clone()
    method.agreement.copy_(1 - chosen)  # all samples now say the opposite
    method._choose()
    assert torch.equal(method.is_open, chosen)


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_samples_agree_in_the_end_because_of_the_pull(weight):
    settings = fxprune.Consensus(
        activation_weight=1e-3, polarisation_weight=0.0, consensus_weight=weight
    )
    gated = gate(settings, steps=300)
    method = gated.fxprune_gates.method
    with torch.no_grad():
        for decider in method.deciders:
            decider.outer.weight.normal_(std=1.0)
    train(gated, 300)
    agrees = float(method.gap) <= 0.02
    assert agrees == (weight > 0)


def test_weights_that_could_never_close_a_gate_are_refused():
    with pytest.raises(fxprune.InputError, match="gates that are open could never close"):
        fxprune.Consensus(activation_weight=0.5, polarisation_weight=0.5)
    with pytest.raises(fxprune.InputError, match=r"opening is 0\.5"):
        fxprune.Consensus(opening=0.5)


def test_gap_is_the_largest_minority():
    assert float(consensus_gap(torch.tensor([1.0, 0.9, 0.3, 0.0]))) == pytest.approx(0.3)


def test_training_ends_with_one_network_that_folds_exactly():
    gated = gate()
    train(gated, 40)
    method = gated.fxprune_gates.method
    assert method.done
    assert 0 <= fxprune.report(gated, latency=False).as_dict()["consensus_gap"] <= 0.5
    costs = fxprune.report(gated, latency=False).as_dict()
    assert costs["macs_after"] <= 0.5 * costs["macs_before"]
    fxprune.verify(gated, fxprune.fold(gated))


def test_gates_learn_whatever_the_rate_of_the_model():
    gated = gate()
    before = gated.fxprune_gates.method.deciders[0].outer.bias.clone()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.0)
    gated(images(8).double()).square().mean().backward()
    optimizer.step()
    assert not torch.equal(gated.fxprune_gates.method.deciders[0].outer.bias, before)


def test_shrinking_waits_until_the_gates_are_final():
    gated = gate()
    optimizer = torch.optim.SGD(gated.parameters(), lr=0.02)
    train(gated, 30)
    with pytest.raises(fxprune.InputError, match="shrink when the target is reached"):
        fxprune.shrink(gated, optimizer)
    train(gated, 10, first=30)
    x = images(3).double()
    expected = gated.eval()(x)
    assert fxprune.shrink(gated, optimizer) > 0
    assert torch.allclose(gated.eval()(x), expected, rtol=1e-12)
