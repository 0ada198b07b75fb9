"""What fxprune promises of ONNX files, for random models and random keep-sets."""

import inspect
import itertools
from dataclasses import replace
from unittest import mock

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import fxprune
from fxprune.onnx import prune as onnx_pruning
from fxprune.onnx import verify as onnx_verification
from fxprune.onnx.choose import plan_of
from fxprune.onnx.frontend import sizes
from fxprune.onnx.frontend.loading import load_onnx
from fxprune.onnx.frontend.program import read_onnx
from fxprune.onnx.frontend.session import session_of
from fxprune.onnx.prune import masked_model
from fxprune.passes.cost import Costs
from fxprune.passes.fold import Slice
from fxprune.passes.gate import plan_gates
from fxprune.testing import ONNX_OPS, keep_sets, onnx_models
from tests.campaign import check_costs
from tests.keeping import composed
from tests.showing import something_to_show

SLOW_DATA = [HealthCheck.too_slow, HealthCheck.data_too_large]
SINGLE = {"SequenceConstruct", "SplitToSequence", "Conv", "Erf"}
"""Operators that ONNX Runtime has in float32 only."""
EXACT = ("linear", "attention", "normalisation", "residual", "rotation", "mlp", "channel_slice")
"""Steps on sequences that are mostly made of others."""


def drawn(max_nodes=4):
    """Models of every sort."""
    return st.one_of(
        *(
            onnx_models(max_nodes=max_nodes, inputs=inputs, dims=dims)
            for dims, inputs in ((2, 1), ("sequence", 1), (1, 1), (2, 2), ("sequence", 2), (3, 1))
        )
    )


def examples(count):
    """Bounded by count, not by clock."""
    return settings(max_examples=count, suppress_health_check=SLOW_DATA)


def pruned(model, data):
    """Folded under a keep-set of Hypothesis' choice; ONNX Runtime has compared it then."""
    analysis = fxprune.inspect_onnx(model.proto)
    return fold(model.proto, data.draw(keep_sets(analysis), "keep-set"))


def fold(source, keep):
    """What `fold_onnx` returns, for models whose outputs are not all the same."""
    with something_to_show():
        return fxprune.fold_onnx(source, keep)


def all_open(analysis):
    return {name: [True] * size for name, size in analysis.costs.full.items()}


def outputs(model, inputs):
    model = load_onnx(model)
    names = [value.name for value in model.graph.outputs]
    with session_of(model) as session:
        return session.run(inputs, names)


def assert_same_bits(expected, got):
    for left, right in zip(expected, got, strict=True):
        if isinstance(left, list):
            assert_same_bits(left, right)
            continue
        assert left.shape == right.shape
        assert np.array_equal(left, right), "the outputs differ"


def text(model):
    """A model as bytes, without our description of how it came about."""
    proto = onnx_ir.to_proto(model)
    proto.ClearField("metadata_props")
    return proto.SerializeToString(deterministic=True)


# Masked and folded ----------------------------------------------------------------------------


@examples(9)
@given(drawn(), st.data())
def test_masked_equals_folded(model, data):
    result = pruned(model, data)
    masked = masked_model(read_onnx(model.proto), result.analysis, result.keep_set)
    with something_to_show():
        verdict = fxprune.verify_onnx(masked, result.model, inputs=[model.inputs], batch_sizes=())
    assert verdict.comparisons[0].dtype == "float32"


@pytest.mark.parametrize(
    ("dims", "kind"), [(dims, kind) for dims in (2, "sequence") for kind in ONNX_OPS[dims]]
)
def test_masked_equals_folded_around_every_kind_of_step(dims, kind):
    plain = "conv" if dims == 2 else "linear"

    @examples(2)
    @given(onnx_models((kind, plain), dims=dims, max_nodes=3), st.data())
    def masked_equals_folded(model, data):
        assert pruned(model, data).verdict.comparisons

    masked_equals_folded()


@examples(6)
@given(onnx_models(EXACT, dims="sequence", max_nodes=4), st.data())
def test_masked_equals_folded_in_float64(model, data):
    comparisons = pruned(model, data).verdict.comparisons
    exact = [item for item in comparisons if item.dtype == "float64"]
    types = {node.op_type for node in model.proto.graph.node}
    assert exact or types & SINGLE
    assert all(item.error <= 1e-10 for item in exact)


# Everything open ------------------------------------------------------------------------------


@examples(6)
@given(drawn())
def test_open_keep_set_plans_nothing_and_folds_to_the_same_bits(model):
    program = read_onnx(model.proto)
    analysis = fxprune.inspect_onnx(model.proto)
    keep = all_open(analysis)
    assert str(plan_of(analysis, keep)) == ""
    folded = fold(model.proto, keep).model
    expected = outputs(model.proto, model.inputs)
    assert_same_bits(expected, outputs(folded, model.inputs))
    assert_same_bits(expected, outputs(masked_model(program, analysis, {}), model.inputs))


@examples(6)
@given(drawn(), st.data())
def test_folding_keeps_bits_of_what_it_keeps(model, data):
    stored = load_onnx(model.proto).graph.initializers
    for name, value in pruned(model, data).model.graph.initializers.items():
        if name in stored and value.const_value.dtype == onnx_ir.DataType.FLOAT:
            kept, original = (x.const_value.numpy() for x in (value, stored[name]))
            assert set(kept.flatten().tolist()) <= set(original.flatten().tolist()), name


# Costs ----------------------------------------------------------------------------------------


@examples(7)
@given(drawn(), st.data())
def test_predicted_costs_are_counted_on_the_folded_file(model, data):
    check_costs(model, pruned(model, data))


@examples(6)
@given(drawn())
def test_costs_do_not_depend_on_the_batch_of_the_example(model):
    assert costs_with_a_batch_of(37, model) == costs_with_a_batch_of(41, model)


def costs_with_a_batch_of(size, model):
    with (
        mock.patch.dict(sizes._USUAL, batch=size),
        mock.patch.dict(sizes._CANDIDATES, batch=(size,)),
    ):
        costs = fxprune.inspect_onnx(model.proto).costs
    return {name: str(cost) for name, cost in costs.polynomials.items()}


# Folding again --------------------------------------------------------------------------------


@examples(6)
@given(drawn(), st.data())
def test_folding_a_folded_model_changes_nothing(model, data):
    once = pruned(model, data).model
    twice = fold(once, all_open(fxprune.inspect_onnx(once))).model
    assert text(once) == text(twice)


@examples(6)
@given(drawn(), st.data())
def test_folding_in_two_steps_equals_folding_once(model, data):
    first = fold(model.proto, chosen_groups(model, data))
    second = pruned_again(first, data)
    if any(len(flags) != sum(first.keep_set.get(g, ())) for g, flags in second.keep_set.items()):
        return  # groups of one position are no groups any more, so names have moved
    once = fold(model.proto, composed(first.keep_set, second.keep_set))
    assert_same_bits(outputs(once.model, model.inputs), outputs(second.model, model.inputs))
    assert once.costs_after == second.costs_after


def chosen_groups(model, data):
    """A keep-set that leaves branches alone: what is left of an addition may be one as well."""
    analysis = fxprune.inspect_onnx(model.proto)
    keep = data.draw(keep_sets(analysis), "keep-set")
    return {group.name: keep[group.name] for group in analysis.free_groups}


def pruned_again(result, data):
    analysis = fxprune.inspect_onnx(result.model)
    return fold(result.model, data.draw(keep_sets(analysis), "second keep-set"))


# What stays as it is --------------------------------------------------------------------------


@examples(6)
@given(drawn(), st.data(), st.sampled_from(["proto", "ir"]))
def test_folding_leaves_its_source_alone(model, data, form):
    proto = model.proto.SerializeToString(deterministic=True)
    source = {"proto": model.proto, "ir": onnx_ir.from_proto(model.proto), "bytes": proto}[form]
    before = text(source) if form == "ir" else proto
    fold(source, data.draw(keep_sets(fxprune.inspect_onnx(source)), "keep-set"))
    assert before == (
        text(source) if form == "ir" else model.proto.SerializeToString(deterministic=True)
    )


@examples(6)
@given(drawn(), st.data())
def test_same_plan_and_same_file_twice(model, data):
    first = pruned(model, data)
    copied = onnx.ModelProto.FromString(model.proto.SerializeToString())
    second = fold(copied, first.keep_set)
    assert facts(first) == facts(second)
    assert text(first.model) == text(second.model)


def facts(result):
    """All that is known of a model, and the plans, as text."""
    a = result.analysis
    lines = (
        a.types,
        *a.groups,
        *a.branches,
        plan_gates(a.graph, a.types, a.groups, a.branches),
        plan_of(a, result.keep_set),
    )
    return "\n".join(map(str, lines))


@examples(6)
@given(drawn(), st.data())
def test_every_group_keeps_a_position(model, data):
    analysis = fxprune.inspect_onnx(model.proto)
    group = data.draw(st.sampled_from(analysis.free_groups), "group")
    with pytest.raises(fxprune.KeepSetError):
        fxprune.fold_onnx(model.proto, {group.name: [False] * group.size})


@examples(6)
@given(drawn(), st.data())
def test_written_file_is_valid_and_computes_the_same_optimised(model, data):
    result = pruned(model, data)
    proto = onnx_ir.to_proto(result.model)
    onnx.checker.check_model(proto, full_check=True)
    with session_of(result.model, optimised=True) as session:
        names = [value.name for value in result.model.graph.outputs]
        got = session.run(model.inputs, names)
    for expected, found in zip(outputs(result.model, model.inputs), got, strict=True):
        assert np.abs(expected - found).max() <= 1e-3 * np.abs(expected).max()


# Verdicts -------------------------------------------------------------------------------------


@examples(7)
@given(drawn(), st.data())
def test_another_weight_that_matters_is_told(model, data):
    folded = pruned(model, data).model
    wrong = folded.clone()
    name = data.draw(st.sampled_from(fractional(folded)), "weight")
    array = folded.graph.initializers[name].const_value.numpy().copy()
    array.flat[data.draw(st.integers(0, array.size - 1), "place")] += 1
    wrong.graph.initializers[name].const_value = onnx_ir.tensor(array, name=name)
    assume(matters(outputs(folded, model.inputs), outputs(wrong, model.inputs)))
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify_onnx(folded, wrong, inputs=[model.inputs])


def fractional(model):
    stored = model.graph.initializers.items()
    return [name for name, v in stored if v.const_value.dtype == onnx_ir.DataType.FLOAT]


def matters(expected, got):
    """Whether outputs differ by more than rounding may ever explain."""
    pairs = zip(expected, got, strict=True)
    return any(np.abs(a - b).max() > 0.02 * np.abs(a).max() for a, b in pairs)


# Every law can fail ---------------------------------------------------------------------------


def spoil(monkeypatch, name, change):
    """Let a step of folding return something else."""
    before = getattr(onnx_pruning, name)
    monkeypatch.setattr(onnx_pruning, name, lambda *args: change(before(*args)))


def shift_a_slice(plan):
    first, *others = plan.slices or (Slice("w0", 0, (1, 2, 3, 0)),)
    moved = replace(first, kept=tuple(position - 1 for position in first.kept))
    return replace(plan, slices=(moved, *others))


def change_a_digit(model):
    for value in model.graph.initializers.values():
        if value.const_value.dtype == onnx_ir.DataType.FLOAT:
            array = value.const_value.numpy() * np.float32(1 + 1e-6)
            value.const_value = onnx_ir.tensor(array, name=value.name)
    return model


def number_the_graph(model, numbers=itertools.count()):  # noqa: B008
    model.graph.name = f"number {next(numbers)}"
    return model


def forget_the_name(model):
    model.graph.name = ""
    return model


def misprice(monkeypatch):
    right = Costs.at
    monkeypatch.setattr(
        Costs, "at", lambda *args: {name: cost + 1 for name, cost in right(*args).items()}
    )


def write_into_the_source(monkeypatch):
    def read(source, shapes, data=None):
        if not isinstance(source, bytes):
            source.producer_name = "somebody else"
        return read_onnx(source, shapes, data)

    monkeypatch.setattr(onnx_pruning, "read_onnx", read)


def close_nothing(monkeypatch):
    plan = onnx_pruning.plan_of
    monkeypatch.setattr(onnx_pruning, "plan_of", lambda analysis, keep: plan(analysis, {}))
    monkeypatch.setattr(onnx_pruning, "_verified", lambda program, *rest: (program.model, None))


def believe_everything(monkeypatch):
    monkeypatch.setattr(onnx_verification, "compared", lambda *args, **options: {})


PLAN, FOLD = ("plan_of", "fold_program")
SABOTAGES = {
    test_masked_equals_folded: (PLAN, shift_a_slice),
    test_masked_equals_folded_in_float64: (FOLD, change_a_digit),
    test_open_keep_set_plans_nothing_and_folds_to_the_same_bits: (FOLD, change_a_digit),
    test_folding_keeps_bits_of_what_it_keeps: (FOLD, change_a_digit),
    test_predicted_costs_are_counted_on_the_folded_file: misprice,
    test_folding_a_folded_model_changes_nothing: (FOLD, change_a_digit),
    test_folding_in_two_steps_equals_folding_once: (FOLD, change_a_digit),
    test_folding_leaves_its_source_alone: write_into_the_source,
    test_same_plan_and_same_file_twice: (FOLD, number_the_graph),
    test_every_group_keeps_a_position: close_nothing,
    test_written_file_is_valid_and_computes_the_same_optimised: (FOLD, forget_the_name),
    test_another_weight_that_matters_is_told: believe_everything,
}


FAILURES = (
    AssertionError,
    fxprune.VerificationError,
    fxprune.InputError,  # a slice out of range: the file does not load
    onnx.checker.ValidationError,
    pytest.fail.Exception,
)


@pytest.mark.parametrize("law", SABOTAGES, ids=lambda law: law.__name__.removeprefix("test_"))
def test_law_can_fail(law, monkeypatch):
    sabotage = SABOTAGES[law]
    if isinstance(sabotage, tuple):
        spoil(monkeypatch, *sabotage)
    else:
        sabotage(monkeypatch)
    check = law.hypothesis.inner_test
    dims = "sequence" if "float64" in law.__name__ else 2
    strategies = {
        "model": onnx_models((), dims=dims),
        "data": st.data(),
        "form": st.just("proto"),
    }
    chosen = {name: strategies[name] for name in inspect.signature(check).parameters}
    quick = settings(max_examples=10, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(FAILURES):
        quick(given(**chosen)(check))()
