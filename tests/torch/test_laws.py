"""What fxprune promises, for random networks and random keep-sets."""

import copy
import logging
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import fxprune
from fxprune.passes.analyse import analyse
from fxprune.passes.fold import plan_fold
from fxprune.passes.gate import plan_gates
from fxprune.passes.layers import layers_of
from fxprune.testing import (
    OPS,
    assert_close,
    assert_costs,
    assert_onnxruntime_agrees,
    assert_rewrite_equivalent,
    assert_same_state,
    assert_unchanged,
    keep_sets,
    networks,
)
from fxprune.testing.torch.rounding import converted
from fxprune.torch.backend.generated import generated_code
from fxprune.torch.frontend import trace
from fxprune.torch.frontend.program import read_model
from fxprune.torch.gates.module import PREFIX
from fxprune.torch.precision import relative_error
from fxprune.torch.record import gates_of, record_of
from fxprune.torch.recorded import recorded
from tests.keeping import composed

SLOW_DATA = [HealthCheck.too_slow, HealthCheck.data_too_large]
RANDOM = ("dropout",)
OVERWRITING = (*RANDOM, "in_place")


def drawn(without=(), max_nodes=5):
    """Networks of every sort, of all kinds of steps but some."""
    return st.one_of(
        *(
            networks(
                [name for name in OPS[dims] if name not in without],
                max_nodes=max_nodes,
                inputs=inputs,
                dims=dims,
            )
            for dims, inputs in ((2, 1), ("sequence", 1), (1, 1), (2, 2), ("sequence", 2), (3, 1))
        )
    )


def examples(count):
    """Bounded by count, not by clock."""
    return settings(max_examples=count, suppress_health_check=SLOW_DATA)


def prepared(network, **options):
    """Gated for a target that every keep-set meets."""
    return fxprune.prepare(network, network.inputs, target=1.0, **options)


def settings_of(data):
    """What may be free: a random choice."""
    return {name: data.draw(st.booleans(), name) for name in ("scatter", "in_kind")}


def pruned(network, data, options=None):
    """Gated and folded under a keep-set of Hypothesis' choice."""
    gated = prepared(network, **(options or settings_of(data)))
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    return gated, fxprune.fold(gated)


def predicted_costs(gated):
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    return record_of(gated).analysis.costs.at(sizes)


def plans(gated):
    """The gate plan and the fold plan as text."""
    a = record_of(gated).analysis
    keep = {name: flags.tolist() for name, flags in fxprune.keep_set(gated).items()}
    return "\n\n".join(
        (
            str(a.types),
            "\n".join(map(str, a.groups)),
            "\n".join(map(str, a.branches)),
            str(plan_gates(a.graph, a.types, a.groups, a.branches)),
            str(plan_fold(a.graph, a.types, a.groups, a.branches, keep)),
        )
    )


# Gated and folded -----------------------------------------------------------------------------


@examples(20)
@given(drawn(), st.data())
def test_gated_equals_folded(network, data):
    gated, folded = pruned(network, data)
    assert_rewrite_equivalent(gated, folded, inputs=network.inputs)


@pytest.mark.parametrize(
    ("dims", "kind"),
    [(dims, kind) for dims in (2, "sequence") for kind in OPS[dims]],
)
def test_gated_equals_folded_around_every_kind_of_step(dims, kind):
    plain = "conv" if dims == 2 else "linear"

    @examples(2)
    @given(networks((kind, plain), dims=dims, max_nodes=3), st.data())
    def gated_equals_folded(network, data):
        gated, folded = pruned(network, data)
        assert_rewrite_equivalent(gated, folded, inputs=network.inputs)

    gated_equals_folded()


@examples(10)
@given(drawn(RANDOM), st.data())
def test_gated_equals_folded_while_training(network, data):
    gated, folded = pruned(network.train(), data)
    assert folded.training
    assert_rewrite_equivalent(gated, folded, inputs=network.inputs)
    # The running statistics of kept channels have moved alike: fold what training moved. What was
    # standardised before has means of zero, up to rounding; hence one more.
    states = [fxprune.fold(gated).state_dict(), folded.state_dict()]
    expected, got = ({name: value + 1 for name, value in state.items()} for state in states)
    assert_same_state(expected, got, rtol=1e-10)


@examples(10)
@given(drawn(OVERWRITING), st.data())
def test_gated_and_folded_have_the_same_gradients(network, data):
    gated, folded = pruned(network.train(), data)
    gated(*network.inputs).square().sum().backward()
    folded(*network.inputs).square().sum().backward()
    expected = gradients_as_weights(gated)
    for name, parameter in folded.named_parameters():
        if parameter.grad is not None:
            scale = max(p.grad.abs().max() for p in folded.parameters() if p.grad is not None)
            difference = (parameter.grad - expected[name]).abs().max() / scale
            assert difference < 1e-10, f"the gradient of {name} differs by {difference:.3g}"


@examples(8)
@given(drawn(RANDOM))
def test_open_gates_that_look_at_samples_change_nothing(network):
    gated = fxprune.prepare(network, network.inputs, target=1.0, method="consensus").eval()
    with gates_of(gated).deciding():
        assert_rewrite_equivalent(network.eval(), gated, inputs=network.inputs, rtol=0.0)


@examples(6)
@given(drawn(OVERWRITING), st.data())
def test_shrinking_changes_neither_function_nor_training(network, data):
    gated = prepared(network.train())
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    shrunk = copy.deepcopy(gated)
    optimizers = [SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (gated, shrunk)]
    models = list(zip((gated, shrunk), optimizers, strict=True))
    for model, optimizer in models:
        train_once(model, optimizer, network.inputs)
    closed = sum(int((~flags).sum()) for flags in fxprune.keep_set(gated).values())
    with said() as lines:
        removed = fxprune.shrink(shrunk, optimizers[1])
    assert removed == (0 if lines else closed), lines
    for model, optimizer in models:
        train_once(model, optimizer, network.inputs)
    folded = [fxprune.fold(model).eval() for model in (gated, shrunk)]
    assert_rewrite_equivalent(*folded, inputs=network.inputs)
    expected, got = ({n: v + 1 for n, v in model.state_dict().items()} for model in folded)
    assert_same_state(expected, got, rtol=1e-9)


@contextmanager
def said():
    """What the library warns of inside."""
    lines = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("fxprune")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def train_once(model, optimizer, inputs):
    """One small step, so that errors of rounding stay small."""
    optimizer.zero_grad()
    (1e-3 * model(*inputs).square().mean()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assume(all(bool(g.isfinite().all()) for g in gradients))  # deviations of one position have none
    optimizer.step()


def gradients_as_weights(gated):
    """The gradients of a gated model, sliced as its parameters are."""
    carrier = copy.deepcopy(gated)
    for (name, parameter), old in zip(carrier.named_parameters(), gated.parameters(), strict=True):
        if not name.startswith(PREFIX):
            parameter.data = torch.zeros_like(old) if old.grad is None else old.grad.clone()
    return dict(fxprune.fold(carrier).named_parameters())


@examples(10)
@given(drawn(), st.data())
def test_folding_keeps_bits_of_what_it_keeps(network, data):
    _, folded = pruned(network, data)
    original = dict(network.named_parameters())
    for name, parameter in folded.named_parameters():
        assert set(parameter.flatten().tolist()) <= set(original[name].flatten().tolist()), name
        assert parameter.requires_grad == original[name].requires_grad


# Everything open ------------------------------------------------------------------------------


@examples(10)
@given(drawn(), st.booleans())
def test_open_gates_change_no_bit(network, training):
    outputs = []
    gated = prepared(network.train(training))
    assert gated.training is training
    for model in (network, gated):
        torch.manual_seed(0)  # for dropout
        outputs.append(model(*network.inputs).detach())
    assert_close("output", *outputs, rtol=0.0)


@examples(10)
@given(drawn())
def test_open_keep_set_plans_nothing_and_folds_to_the_same_bits(network):
    gated = prepared(network)
    a = record_of(gated).analysis
    keep = {name: [True] * size for name, size in a.costs.full.items()}
    assert str(plan_fold(a.graph, a.types, a.groups, a.branches, keep)) == ""
    folded = fxprune.fold(gated)
    assert_rewrite_equivalent(network, folded, inputs=network.inputs, rtol=0.0)
    assert_same_state(network.state_dict(), folded.state_dict())


@examples(6)
@given(drawn())
def test_gated_has_the_keys_of_the_model_in_order_then_those_of_the_gates(network):
    keys = list(prepared(network).state_dict())
    expected = list(network.state_dict())
    assert keys[: len(expected)] == expected
    assert keys[len(expected) :]
    assert all(key.startswith(PREFIX) for key in keys[len(expected) :])


# Costs ----------------------------------------------------------------------------------------


@examples(10)
@given(drawn(), st.data())
def test_predicted_costs_are_counted_on_the_folded_model(network, data):
    gated, folded = pruned(network, data)
    assert_costs(folded, network.inputs, predicted_costs(gated))


@examples(10)
@given(drawn(), st.data())
def test_predicted_costs_are_those_of_the_folded_model_read_anew(network, data):
    gated, folded = pruned(network, data)
    analysis = analyse(read_model(folded, [network.inputs]).ir)
    assert predicted_costs(gated) == analysis.costs.at(analysis.costs.full)


@examples(10)
@given(drawn(), st.data())
def test_costs_of_layers_add_up_and_are_those_of_the_folded_layers(network, data):
    gated, folded = pruned(network, data)
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    before = layers_of(record_of(gated).analysis, sizes)
    anew = layers_of(analyse(read_model(folded, [network.inputs]).ir), {})
    for cost in ("macs", "params"):
        total = sum(getattr(layer, f"{cost}_after") for layer in before)
        assert total == predicted_costs(gated)[cost]
        assert total == sum(getattr(layer, f"{cost}_before") for layer in anew)
    kept = [layer.width_after for layer in before if layer.macs_after]
    assert kept == [layer.width_before for layer in anew if layer.macs_before]


@examples(6)
@given(drawn())
def test_costs_do_not_depend_on_the_batch_of_the_example(network):
    assert costs_with_a_batch_of(37, network) == costs_with_a_batch_of(41, network)


def costs_with_a_batch_of(size, network):
    with mock.patch.object(trace, "_BATCHES", (size,)):
        graph = read_model(network, [network.inputs]).ir
    assert graph.batch == size
    return {name: str(cost) for name, cost in analyse(graph).costs.polynomials.items()}


class Scores(nn.Module):
    """A convolution over the sequence, which a fold can remove, then scores of keys."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.inner = nn.Conv1d(6, 6, 3, padding=1)
        self.query = nn.Linear(6, 4)

    def forward(self, x):
        x = self.first(x)
        x = x + self.inner(x.transpose(1, 2)).transpose(1, 2)
        return torch.einsum("bnd,bmd->bnm", self.query(x), self.query(x))


def test_widths_do_not_depend_on_what_folding_removes():
    """Positions of a sequence are those of an image only as long as there is a convolution."""
    x = torch.randn(2, 5, 3)
    gated = fxprune.prepare(Scores(), x, target=1.0)
    (branch,) = record_of(gated).analysis.branches
    fxprune.set_keep_set(gated, {branch.name: [False]})
    anew = layers_of(analyse(read_model(fxprune.fold(gated), [(x,)]).ir), {})
    before = layers_of(record_of(gated).analysis, {branch.name: 0})
    scores = {layer.op: layer.width_after for layer in before}["einsum"]
    assert {layer.op: layer.width_before for layer in anew}["einsum"] == scores


# Folding again --------------------------------------------------------------------------------


@examples(10)
@given(drawn(), st.data())
def test_folding_a_folded_model_changes_nothing(network, data):
    _, folded = pruned(network, data)
    try:
        again = fxprune.fold(fxprune.prepare(folded, network.inputs, target=1.0))
    except fxprune.NothingToPruneError:
        return  # every group has one position left
    assert_same_state(folded.state_dict(), again.state_dict())
    assert_rewrite_equivalent(folded, again, inputs=network.inputs, rtol=0.0)


@examples(10)
@given(drawn(), st.data())
def test_folding_in_two_steps_equals_folding_once(network, data):
    gated = prepared(network)
    first = data.draw(keep_sets(gated), "first keep-set")
    fxprune.set_keep_set(gated, first)
    try:
        middle = fxprune.prepare(fxprune.fold(gated), network.inputs, target=1.0)
    except fxprune.NothingToPruneError:
        return
    second = data.draw(keep_sets(middle), "second keep-set")
    fxprune.set_keep_set(middle, second)
    twice = fxprune.fold(middle)
    assert_rewrite_equivalent(middle, twice, inputs=network.inputs)
    if any(len(flags) != sum(first.get(group, ())) for group, flags in second.items()):
        return  # groups of one position are no groups any more, so names have moved
    fxprune.set_keep_set(gated, composed(first, second))
    assert_same_state(fxprune.fold(gated).state_dict(), twice.state_dict())


# Targets --------------------------------------------------------------------------------------


@examples(10)
@given(drawn(OVERWRITING), st.data())
def test_fold_meets_the_target_wherever_the_training_ends(network, data):
    """And while it lasts, positions close only when something was learned."""
    steps = data.draw(st.integers(1, 40), "steps")
    method = data.draw(st.sampled_from(["static", "hard_concrete"]), "method")
    share = data.draw(st.sampled_from([0.3, 0.6, 0.9]), "target")
    try:
        options = {"target": share, "steps": steps, "method": method}
        gated = fxprune.prepare(network.train(), network.inputs, **options)
    except fxprune.TargetError:  # pinned positions cost more
        return
    optimizer = SGD(gated.parameters(), lr=0.01)
    teacher = gates_of(gated).method
    for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=30), "training"):
        learned = teacher.has_learned
        before = int(teacher.steps_done)
        gated.train(step != "evaluation")
        if step == "nothing":
            optimizer.zero_grad()
            optimizer.step()
            assert int(teacher.steps_done) == before or learned
        else:
            train_once(gated, optimizer, network.inputs)
        everything = all(bool(flags.all()) for flags in fxprune.keep_set(gated).values())
        assert everything or teacher.has_learned
    folded = fxprune.fold(gated.eval())
    (limit,) = teacher.budget.limit.values()
    assert predicted_costs(gated)["macs"] <= limit * (1 + 1e-9)
    assert_costs(folded, network.inputs, predicted_costs(gated))
    assert_rewrite_equivalent(gated, folded, inputs=network.inputs)


STEPS = ("training", "evaluation", "nothing")
"""What may happen before a step of the optimizer: a backward pass in either mode, or none."""


# What stays as it is --------------------------------------------------------------------------


@examples(7)
@given(drawn(OVERWRITING), st.data(), st.booleans())
def test_prepare_and_fold_leave_their_input_alone(network, data, training):
    network.train(training)
    network(*network.inputs).sum().backward()
    with assert_unchanged(network):
        gated = prepared(network)
    fxprune.set_keep_set(gated, data.draw(keep_sets(gated), "keep-set"))
    with assert_unchanged(network), assert_unchanged(gated):
        folded = fxprune.fold(gated)
    with assert_unchanged(network), assert_unchanged(gated):
        folded.train()(*network.inputs).sum().backward()


@examples(12)
@given(drawn(), st.data())
def test_what_comes_back_is_the_users_model(network, data):
    gated, folded = pruned(network, data)
    kinds = {path: type(module) for path, module in network.named_modules()}
    for each in (gated, folded):
        for path, module in each.named_modules():
            if not path.startswith(PREFIX):
                assert isinstance(module, kinds[path]), path
    own = [path for path, _ in folded.named_modules() if path not in generated_code(folded)]
    assert all(type(folded.get_submodule(path)) is kinds[path] for path in own)


@examples(12)
@given(networks(max_nodes=4), st.data())
def test_own_code_computes_the_same_at_other_sizes(network, data):
    gated, folded = pruned(network, data)
    x = torch.randn(3, network.inputs[0].shape[1], 7, 10, dtype=torch.float64)
    models = [copy.deepcopy(each).double().eval() for each in (network, gated, folded)]
    try:
        with torch.no_grad():
            models[0](x)
    except RuntimeError:
        return  # the network is for one size
    if not (generated_code(gated) or generated_code(folded)):
        with torch.no_grad():
            assert relative_error(models[1](x), models[2](x)) <= 1e-9


@examples(6)
@given(drawn(), st.data())
def test_same_plan_twice(network, data):
    options = settings_of(data)
    gated, folded = pruned(network, data, options)
    other = prepared(copy.deepcopy(network), **options)
    fxprune.set_keep_set(other, fxprune.keep_set(gated))
    assert plans(gated) == plans(other)
    assert str(recorded(folded).graph) == str(recorded(fxprune.fold(other)).graph)
    assert_same_state(folded.state_dict(), fxprune.fold(gated).state_dict())


@examples(5)
@given(drawn(), st.data())
def test_copies_compute_the_same(network, data):
    gated, folded = pruned(network, data)
    assert_rewrite_equivalent(gated, copy.deepcopy(gated), inputs=network.inputs, rtol=0.0)
    assert_rewrite_equivalent(folded, copy.deepcopy(folded), inputs=network.inputs, rtol=0.0)


# Verdicts -------------------------------------------------------------------------------------


@examples(7)
@given(drawn(RANDOM), st.data())
def test_another_weight_that_matters_is_told(network, data):
    gated, folded = pruned(network.eval(), data)
    parameters = [p for p in folded.parameters() if p.numel()]
    changed = data.draw(st.sampled_from(range(len(parameters))), "parameter")
    place = data.draw(st.integers(0, parameters[changed].numel() - 1), "place")
    expected = folded(*network.inputs)
    with torch.no_grad():
        parameters[changed].view(-1)[place] += 1
    difference = (folded(*network.inputs) - expected).abs().max()
    assume(bool(difference > 1e-3 * expected.abs().max()))
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify(gated, folded, inputs=[network.inputs])


# Elsewhere ------------------------------------------------------------------------------------


@settings(max_examples=3, suppress_health_check=SLOW_DATA, phases=[Phase.generate])
@given(drawn(without=["pinning"], max_nodes=3), st.data())
def test_onnx_runtime_computes_what_folded_computes(network, data):
    _, folded = pruned(network, data)
    assert_onnxruntime_agrees(folded.float(), converted(network.inputs, torch.float32))
