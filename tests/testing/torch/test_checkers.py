"""Every checker can fail: what it is there to find is built in, and it must say so."""

import copy
from dataclasses import replace

import numpy as np
import onnx_ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.passes import axes, infer
from fxprune.passes.fold import FoldPlan
from fxprune.passes.gate import GatePlan, MaskOperand
from fxprune.passes.polynomials import Polynomial
from fxprune.testing import (
    assert_close,
    assert_costs,
    assert_idempotent,
    assert_no_mutation,
    assert_onnxruntime_agrees,
    assert_rewrite_equivalent,
    assert_same_state,
    assert_unchanged,
    count_macs,
    randomise,
)
from fxprune.testing.torch.rounding import allowed_errors
from fxprune.torch import fold as folding
from fxprune.torch import gating
from fxprune.torch.backend import masked_forms
from fxprune.torch.record import record_of


class Small(nn.Module):
    """Batch norm with a beta, a sigmoid before padding, a slice, a group norm, a branch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1))
        self.group = nn.GroupNorm(2, 4)
        self.last = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        x = torch.sigmoid(self.norm(self.first(x)))
        x = x + self.block(x)
        return self.last(self.group(x[:, 2:6]))


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    model = Small().double().eval()
    randomise(model, generator)
    return model


@pytest.fixture
def x():
    return torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def prune(model, x, *, branch=True):
    """Gated and folded with half of everything."""
    gated = fxprune.prepare(model, x, target=1.0)
    keep = {}
    for group in fxprune.groups(gated):
        if not group.pin:
            keep[group.name] = [i % 2 == 0 for i in range(group.size)]
            if group.kind == "branch":
                keep[group.name] = [branch]
    fxprune.set_keep_set(gated, keep)
    return gated, fxprune.fold(gated)


def test_small_model_is_fine(model, x):
    gated, folded = prune(model, x)
    assert_rewrite_equivalent(gated, folded, inputs=[x])
    gated, folded = prune(model, x, branch=False)
    assert_rewrite_equivalent(gated, folded, inputs=[x])


# Sabotage of plans


def spoil(monkeypatch, name, change):
    """Let a plan be another one."""
    home = {"plan_fold": folding, "plan_gates": gating}[name]
    right = getattr(home, name)
    monkeypatch.setattr(home, name, lambda *args: change(right(*args)))


def test_slice_that_is_off_by_one_is_found(model, x, monkeypatch):
    def shift(plan: FoldPlan) -> FoldPlan:
        first, *others = plan.slices
        moved = tuple((i + 1) % 8 for i in first.kept)
        return replace(plan, slices=(replace(first, kept=moved), *others))

    spoil(monkeypatch, "plan_fold", shift)
    gated, folded = prune(model, x)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_forgotten_literal_is_found(model, x, monkeypatch):
    def forget(plan: FoldPlan) -> FoldPlan:
        kept = tuple(item for item in plan.literals if item.node != "getitem")
        return replace(plan, literals=kept)

    spoil(monkeypatch, "plan_fold", forget)
    gated, folded = prune(model, x)
    with pytest.raises((AssertionError, RuntimeError)):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_forgotten_bias_is_found(model, x, monkeypatch):
    def forget(plan: FoldPlan) -> FoldPlan:
        return replace(plan, slices=tuple(s for s in plan.slices if s.parameter != "first.bias"))

    spoil(monkeypatch, "plan_fold", forget)
    gated, folded = prune(model, x)
    with pytest.raises((AssertionError, RuntimeError)):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_wrong_operand_of_an_addition_is_found(model, x, monkeypatch):
    def swap(plan: FoldPlan) -> FoldPlan:
        return replace(plan, drops=tuple(replace(d, operand=1 - d.operand) for d in plan.drops))

    spoil(monkeypatch, "plan_fold", swap)
    gated, folded = prune(model, x, branch=False)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_masks_on_producers_are_found(model, x, monkeypatch):
    """NNI issue 2130: beta of the batch norm, and sigmoid(0), come back where the mask was zero."""

    def at_producers(plan: GatePlan) -> GatePlan:
        axis = next(m.axis for m in plan.masks if m.node == "block_0")
        return replace(
            plan,
            masks=(
                MaskOperand("first", 1, 0, axis),
                MaskOperand("first", 2, 0, axis),
                *(m for m in plan.masks if m.node != "block_0"),
            ),
        )

    spoil(monkeypatch, "plan_gates", at_producers)
    gated, folded = prune(model, x)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_statistics_over_closed_channels_are_found(model, x, monkeypatch):
    def unmasked(x, mask, groups, weight, bias, eps):
        return F.group_norm(x, groups, weight, bias, eps)

    monkeypatch.setattr(masked_forms, "group_norm", unmasked)
    gated, folded = prune(model, x)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_mask_that_is_not_one_is_found(model, x, monkeypatch):
    right = masked_forms.apply_mask
    monkeypatch.setattr(
        masked_forms, "apply_mask", lambda x, mask, dim: right(x, mask * 1.001, dim)
    )
    gated, folded = prune(model, x)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_addition_that_does_not_unify_is_found(model, x, monkeypatch):
    def apart(state, node):
        return (state.type_of(node.inputs[0]),)

    monkeypatch.setattr(infer, "RULES", {**infer.RULES, "add": apart})
    gated, folded = prune(model, x)
    with pytest.raises((AssertionError, RuntimeError)):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


def test_products_in_the_wrong_order_are_found(x, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 49, 3)
    ).double().eval()  # fmt: skip
    randomise(model, generator)
    right = axes.kept_flags

    def column_major(axis, kept):
        if isinstance(axis, axes.Prod):
            flags = right(axis, kept)
            rows = axis.factors[0].size
            return [flags[i * (len(flags) // rows) + j]
                    for j in range(len(flags) // rows) for i in range(rows)]  # fmt: skip
        return right(axis, kept)

    monkeypatch.setattr("fxprune.passes.fold.kept_flags", column_major)
    gated, folded = prune(model, x)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(gated, folded, inputs=[x])


@pytest.mark.parametrize("cost", ["macs", "params", "bytes"])
def test_wrong_cost_term_is_found(cost, model, x):
    gated, folded = prune(model, x)
    costs = record_of(gated).analysis.costs
    sizes = {name: int(flags.sum()) for name, flags in fxprune.keep_set(gated).items()}
    assert_costs(folded, [x], costs.at(sizes))
    right = costs.polynomials[cost]
    (coefficient, names), *others = right.terms
    terms = ((coefficient + right.divisor, names), *others)
    wrong = {**costs.polynomials, cost: Polynomial(terms, right.divisor)}
    with pytest.raises(AssertionError, match=r"predicted [\d,]+ \w+, counted [\d,]+"):
        assert_costs(folded, [x], replace(costs, polynomials=wrong).at(sizes))


# Sabotage of models


def test_changed_bit_is_found(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.last.bias[0] = torch.nextafter(other.last.bias[0], torch.tensor(10.0).double())
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(model, other, inputs=[x], rtol=0.0)
    with pytest.raises(AssertionError, match=r"last\.bias differs by"):
        assert_same_state(model.state_dict(), other.state_dict())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda y: y * (1 + 1e-9),
            "which is 1e-09 of its largest value 5; at most 5e-10 is allowed",
        ),
        (lambda y: y + (y == 4), r"First at \[1, 1\]: expected 4, got 5"),
        (lambda y: y + float("nan"), "differs by nan"),
        (lambda y: y[:1], r"has shape \(1, 3\), expected \(2, 3\)"),
        (lambda y: y[..., None], r"has shape \(2, 3, 1\), expected \(2, 3\)"),
    ],
)
def test_difference_is_found_and_told_in_numbers(value, message):
    y = torch.arange(6, dtype=torch.float64).view(2, 3)
    with pytest.raises(AssertionError, match=message):
        assert_close("y", y, value(y), rtol=1e-10)


def test_missing_output_is_found():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x, "b": [x]}

    with pytest.raises(AssertionError, match="1 outputs, expected 2"):
        assert_rewrite_equivalent(Two(), nn.Identity(), inputs=[torch.ones(1)])


def test_model_without_output_is_found():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(AssertionError, match="0 outputs"):
        assert_rewrite_equivalent(Silent(), Silent(), inputs=[torch.ones(1)])


def test_order_of_keys_is_found():
    one, two = torch.ones(1), torch.zeros(1)
    with pytest.raises(AssertionError, match="keys differ"):
        assert_same_state({"a": one, "b": two}, {"b": two, "a": one})


def _mode(model):
    model.norm.eval() if model.norm.training else model.norm.train()


def _weight(model):
    with torch.no_grad():
        model.last.weight[0, 0, 0, 0] += 1


def _statistics(model):
    model.norm.running_mean[0] += 1


def _object(model):
    model.last.weight = nn.Parameter(model.last.weight.detach().clone())


def _frozen(model):
    model.last.weight.requires_grad_(False)


def _gradient(model):
    model.last.weight.grad = torch.zeros_like(model.last.weight)


def _attribute(model):
    model.group.num_groups = 1


def _note(model):
    model.note = "here"


def _child(model):
    model.extra = nn.Identity()


def _hook(model):
    model.norm.register_forward_hook(lambda *args: None)


def _left_behind(model):
    model.norm.seen = torch.zeros(3)


def _random(model):
    torch.rand(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_mode, "norm: attributes has changed"),
        (_weight, r"last\.weight has changed"),
        (_statistics, r"norm\.running_mean has changed"),
        (_object, r"last\.weight: object has changed"),
        (_frozen, r"last\.weight: object has changed"),
        (_gradient, r"last\.weight: gradient has changed"),
        (_attribute, "group: attributes has changed"),
        (_note, ": attributes has changed"),
        (_child, ": children has changed"),
        (_hook, "norm: hooks has changed"),
        (_left_behind, "norm: attributes has changed"),
        (_random, "random numbers were drawn"),
    ],
)
def test_change_of_a_model_is_found(change, message, model):
    with pytest.raises(AssertionError, match=message), assert_unchanged(model):
        change(model)


def _as_it_is(model):
    pass


def _without_values(model):
    model.to("meta")


def _without_shapes(model):
    model.last = nn.LazyConv2d(3, 3)


def _not_a_number(model):
    model.last.weight.data.fill_(torch.nan)


def test_function_that_changes_its_model_is_found(model):
    with pytest.raises(AssertionError, match=r"last\.weight has changed"):
        assert_no_mutation(_weight, model)
    assert assert_no_mutation(lambda model: model.last, model) is model.last


@pytest.mark.parametrize("make", [_as_it_is, _without_values, _without_shapes, _not_a_number])
def test_nothing_changed_is_fine(make, model):
    make(model)
    with assert_unchanged(model):
        copy.deepcopy(model)


def test_macs_are_counted_per_contraction():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    assert count_macs(model, [torch.randn(1, 3, 4, 4)]) == 4 * 3 * 9 * 4 + 16 * 5


def test_file_that_computes_something_else_is_found(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    export = torch.onnx.export

    def spoiled(*args, **options):
        program = export(*args, **options)
        bias = program.model.graph.initializers["0.bias"]
        bias.const_value = onnx_ir.tensor(bias.const_value.numpy() + np.float32(0.1))
        return program

    x = torch.randn(2, 3, 4, 4)
    assert_onnxruntime_agrees(model, [x])
    monkeypatch.setattr(torch.onnx, "export", spoiled)
    message = r"(?s)ONNX output 0 differs by .* first differing value: conv2d \("
    with pytest.raises(AssertionError, match=message):
        assert_onnxruntime_agrees(model, [x])


# Sabotage of rewrites


def test_first_differing_layer_is_named(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.block[0].weight *= 1.01
    with pytest.raises(AssertionError, match=r"first differing layer: block\.0 \(Conv2d\)"):
        assert_rewrite_equivalent(model, other, inputs=[x])


def test_layer_that_a_rewrite_changes_on_purpose_is_not_blamed(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in (other.first.weight, other.first.bias):
            parameter *= 2
        other.norm.running_mean *= 2
        other.norm.running_var.mul_(4).add_(3 * other.norm.eps)
        assert_rewrite_equivalent(model, other, inputs=[x])
        other.group.bias += 1
    with pytest.raises(AssertionError, match=r"first differing layer: group \(GroupNorm\)"):
        assert_rewrite_equivalent(model, other, inputs=[x])


def test_models_without_a_common_layer_have_none_named(x):
    with pytest.raises(AssertionError, match="no layer in common"):
        assert_rewrite_equivalent(nn.Identity(), nn.ReLU(), inputs=[x])


def test_tolerance_is_that_of_the_arithmetic(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.last.bias *= 1 + 1e-6
    assert_rewrite_equivalent(model, other, inputs=[x], dtype=torch.float32)
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(model, other, inputs=[x])
    with torch.no_grad():
        other.last.bias *= 1 + 1e-3
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(model, other, inputs=[x], dtype=torch.float32)


class Cancelling(nn.Module):
    """Sums whose terms cancel: their rounding is far larger than that of what is left."""

    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return sum(x[:, i] for i in self.order)


def test_ill_conditioned_sums_may_differ_as_far_as_they_must():
    big = torch.rand(4, 1, dtype=torch.float64) * 1e8
    x = torch.cat([big, -big, torch.rand(4, 2, dtype=torch.float64)], 1)
    assert_rewrite_equivalent(Cancelling((0, 1, 2, 3)), Cancelling((2, 0, 3, 1)), inputs=[x])
    with pytest.raises(AssertionError, match="output 0 differs by"):
        assert_rewrite_equivalent(Cancelling((0, 1, 2, 3)), Cancelling((0, 1, 2)), inputs=[x])


def test_equal_values_that_are_standardised_twice_may_differ_as_far_as_they_must():
    same = nn.Conv1d(1, 1, 1)
    nn.init.zeros_(same.weight)
    norms = nn.BatchNorm1d(1, affine=False), nn.InstanceNorm1d(1)
    model = nn.Sequential(same, *norms).double()
    (allowed,) = allowed_errors(model, [torch.rand(5, 1, 32, dtype=torch.float64)], torch.float64)
    assert 1e-13 < allowed < 1e-6
    (plain,) = allowed_errors(same.double(), [torch.rand(5, 1, 32).double()], torch.float64)
    assert plain < 1e-13


def test_pass_that_does_more_when_it_runs_again_is_found(model, x):
    def shrink_weights(model):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.last.weight *= 0.5
        return other

    with pytest.raises(AssertionError, match=r"last\.weight differs by"):
        assert_idempotent(shrink_weights, model, inputs=[x])
    assert_idempotent(copy.deepcopy, model, inputs=[x])


def test_pass_whose_code_grows_is_found(model, x):
    def add_nothing(model):
        traced = torch.fx.symbolic_trace(model)
        (output,) = traced.graph.find_nodes(op="output")
        with traced.graph.inserting_before(output):
            output.args = (traced.graph.call_method("clone", output.args),)
        traced.recompile()
        return traced

    with pytest.raises(AssertionError, match="the code changes from"):
        assert_idempotent(add_nothing, model, inputs=[x])
