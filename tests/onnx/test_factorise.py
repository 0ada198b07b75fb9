"""Layers of files as two: the same function, whatever the layer and whoever wrote it."""

import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from onnx import parser

import fxprune
from fxprune.errors import InputError, NothingToPruneError, VerificationError
from fxprune.onnx import splitting
from fxprune.onnx.pairs import halves_of, pairs_of
from fxprune.passes.factorisation import FORMS
from fxprune.testing import keep_sets, onnx_models
from fxprune.testing.onnx.counting import count_onnx_macs
from tests.onnx.models import images, outputs, residual
from tests.onnx.test_laws import assert_same_bits, examples, fold
from tests.onnx.test_laws import outputs as all_outputs
from tests.showing import something_to_show

CONVOLUTIONS = {
    "plain": ("pads = [1, 1, 1, 1]", (12, 3, 3, 3)),
    "uneven": ("pads = [2, 0, 1, 1], strides = [2, 1], dilations = [1, 2]", (6, 3, 3, 2)),
    "same": ('auto_pad = "SAME_UPPER", strides = [2, 2]', (6, 3, 3, 5)),
    "valid": ('auto_pad = "VALID"', (40, 3, 3, 3)),
}
PRODUCTS = {
    "product": ("MatMul (x, w)", (9, 4)),
    "gemm": ("Gemm (x, w, b)", (9, 4)),
    "scaled": ("Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b)", (4, 9)),
}


def network(line, shape, kind="float", inputs="float[n, 3, 11, 12] x", bias=0):
    """One line of ONNX, with weights `w` and perhaps a bias `b`."""
    stored = f"{kind}{list(shape)} w" + (f", {kind}[{bias}] b" if bias else "")
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> one ({inputs}, {stored}) => ({kind} y)'
        f"{{ y = {line} }}"
    )
    generator = np.random.default_rng(1)
    for value in list(model.graph.input)[1:]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = generator.normal(size=sizes).astype("f8" if kind == "double" else "f4")
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    return model


CASES = {
    **{
        name: lambda a=a, s=s: network(f"Conv <{a}> (x, w, b)", s, bias=s[0])
        for name, (a, s) in CONVOLUTIONS.items()
    },
    **{
        name: lambda line=line, s=s: network(line, s, "double", "double[n, 9] x", bias=4)
        for name, (line, s) in PRODUCTS.items()
    },
    "lookup": lambda: network("Gather (w, x)", (30, 6), "double", "int64[n, 5] x"),
}


FORMS_OF = [(name, form) for name in CONVOLUTIONS for form in FORMS]
FORMS_OF += [(name, "low_rank") for name in (*PRODUCTS, "lookup")]


@pytest.mark.parametrize(("name", "form"), FORMS_OF)
def test_two_nodes_are_exactly_the_one_and_merge_to_it(name, form):
    model = CASES[name]()
    pairs = fxprune.factorise_onnx(model, form=form)
    (layer,) = pairs.layers
    (pair,) = pairs_of(pairs.model).values()
    assert (layer.name, layer.form) == ("w", form)
    assert layer.rank == FORMS[form].full_rank(pair.layer)
    merged = fxprune.merge_onnx(pairs.model)  # full rank never pays
    (before,), (after,) = model.graph.node, merged.model.graph
    assert before.op_type == after.op_type
    if "double" in str(onnx_ir.from_proto(model).graph.initializers["w"].dtype).lower():
        for verdict in (pairs.verdict, merged.verdict):
            assert {item.dtype for item in verdict.comparisons} == {"float64"}
            assert all(item.error <= 1e-10 for item in verdict.comparisons)
    weights = merged.model.graph.initializers["w"].const_value.numpy()
    stored = onnx.numpy_helper.to_array(model.graph.initializer[0])
    assert np.allclose(weights, stored, rtol=0, atol=1e-5)


def drawn():
    return st.one_of(*(onnx_models(max_nodes=4, dims=dims) for dims in (2, "sequence", 1)))


@examples(12)
@given(drawn(), st.sampled_from(list(FORMS)), st.data())
def test_random_models_as_pairs_with_random_ranks_and_merged(model, form, data):
    """All open it is the model; folded it is the masked one; merged it is the folded one."""
    try:
        with something_to_show():
            pairs = fxprune.factorise_onnx(model.proto, form=form)
    except NothingToPruneError:
        reject()
    analysis = fxprune.inspect_onnx(pairs.model)
    folded = fold(pairs.model, data.draw(keep_sets(analysis), "keep-set"))
    merged = fxprune.merge_onnx(folded.model)
    for pair in pairs_of(merged.model).values():
        assert pair.form.pays(pair.layer, pair.rank)
    if len(merged.model.graph) == len(folded.model.graph):
        assert_same_bits(
            all_outputs(folded.model, model.inputs), all_outputs(merged.model, model.inputs)
        )


def thin(rank=2):
    """The same with a layer of low rank in it."""
    model = residual()
    for tensor in model.graph.initializer:
        if tuple(tensor.dims) == (12, 8, 3, 3):
            matrix = np.linalg.svd(onnx.numpy_helper.to_array(tensor).reshape(12, -1))
            low = (matrix[0][:, :rank] * matrix[1][:rank]) @ matrix[2][:rank]
            array = low.reshape(12, 8, 3, 3).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            return model, tensor.name
    raise AssertionError("no such layer")


@pytest.mark.parametrize("data", [None, [images(16)]], ids=["weights", "data"])
@pytest.mark.parametrize("target", [0.4, {"bytes": 0.5}, {"bytes": 9_000, "macs": 0.45}])
def test_targets_are_met_to_one_position_and_pairs_pay(target, data):
    source, _ = thin()
    result = fxprune.prune_onnx(source, target=target, factorise=tuple(FORMS), data=data)
    analysis, before = result.analysis, result.costs_before
    asked = target if isinstance(target, dict) else {"macs": target}
    limits = {n: t * before[n] if t <= 1 else t for n, t in asked.items()}
    whole = fxprune.inspect_onnx(source).costs
    assert before == whole.at(whole.full)
    kept = {name: sum(flags) for name, flags in result.keep_set.items()}
    costs = {name: analysis.costs.polynomials[name] for name in limits}
    assert all(result.costs_after[name] <= limit for name, limit in limits.items())
    for name, size in analysis.costs.full.items():
        if kept[name] < size:
            more = {**kept, name: kept[name] + 1}
            assert any(cost(more) > limits[key] for key, cost in costs.items()), name
    counted = count_onnx_macs(onnx_ir.to_proto(result.model), {"x": images(1)})
    assert counted == result.costs_after["macs"]
    assert any(layer.form for layer in result.layers)
    for pair in pairs_of(result.model).values():
        assert pair.form.pays(pair.layer, pair.rank)


def test_what_is_there_twice_goes_first(tmp_path):
    model, name = thin()
    small = tmp_path / "small.onnx"
    result = fxprune.prune_onnx(model, small, target=0.85, factorise="low_rank")
    ((found, form, rank),) = [(x.name, x.form, x.rank) for x in result.layers if x.form]
    assert (found, form) == (name, "low_rank") and 2 <= rank <= 3
    left, right = outputs(model, images(4)), outputs(small, images(4))
    assert np.abs(left - right).max() <= 1e-4 * np.abs(left).max()
    said = fxprune.report(result, latency=False).summary()
    assert f"as two layers: {name} (low_rank, rank {rank})" in said


def test_forms_that_no_layer_can_have_are_no_error():
    model = network("MatMul (x, w)", (12, 12), inputs="float[n, 12] x")
    model.graph.node.add(op_type="Relu", input=["y"], output=["z"])
    model.graph.node.add(op_type="MatMul", input=["z", "w2"], output=["out"])
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.eye(12, dtype=np.float32)[:, ::-1].copy(), "w2")
    )
    model.graph.output[0].name = "out"
    data = [np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)]
    result = fxprune.prune_onnx(model, target=0.5, factorise="spatial", data=data)
    assert not any(layer.form for layer in result.layers)


def test_what_is_ignored_stays_whole():
    model, name = thin()
    result = fxprune.prune_onnx(model, target=0.7, factorise="low_rank", ignore=[name])
    assert name in {layer.name for layer in result.layers if not layer.form}
    shape = result.model.graph.initializers[name].const_value.shape
    assert shape[0] == 12


def test_a_pair_that_pays_stays_and_a_bias_between_is_none():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> two (float[n, 20] x, float[20, 2] a,'
        " float[2, 20] b, float[20, 18] c, float[18, 20] d, float[18] e) => (float[n, 20] y)"
        "{ h = MatMul (x, a) i = MatMul (h, b) j = Gemm (i, c, e) y = MatMul (j, d) }"
    )
    generator = np.random.default_rng(0)
    for value in list(model.graph.input)[1:]:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = generator.normal(size=sizes).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    merged = fxprune.merge_onnx(model)
    assert [node.op_type for node in merged.model.graph] == ["MatMul", "MatMul", "Gemm", "MatMul"]
    assert [(layer.name, layer.rank) for layer in merged.layers if layer.form] == [("a", 2)]


def test_positions_on_data_lose_less_than_those_of_weights():
    model = network("MatMul (x, w)", (6, 6), "double", "double[n, 6] x")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 6)) * np.array([9.0, 3, 1, 0.3, 0.1, 0.01])
    (weights,) = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer)
    lost = {}
    for name, data in (("weights", None), ("data", [x])):
        own = fxprune.factorise_onnx(model, data=data).model.graph.initializers
        first, second = (own[half].const_value.numpy() for half in halves_of("w"))
        lost[name] = np.linalg.norm(x @ first[:, :3] @ second[:3] - x @ weights)
    assert lost["data"] < 0.9 * lost["weights"]


def test_a_wrong_pair_leaves_no_file(tmp_path, monkeypatch):
    right = splitting.second_weight
    monkeypatch.setattr(splitting, "second_weight", lambda *given: 1.01 * right(*given))
    with pytest.raises(VerificationError, match="whole == pairs"):
        fxprune.factorise_onnx(residual(), tmp_path / "pairs.onnx")
    with pytest.raises(VerificationError, match="whole == pairs"):
        fxprune.prune_onnx(residual(), tmp_path / "small.onnx", factorise="low_rank")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "shape", "reason"),
    [
        ("Conv <group = 3> (x, w)", (6, 1, 3, 3), "it has 3 groups"),
        ("Conv (x, w)", (1, 3, 3, 3), "its rank is one already"),
        ("MatMul (x, w)", (12, 1), "its rank is one already"),
    ],
)
def test_layers_that_stay_whole_say_why(line, shape, reason):
    with pytest.raises(NothingToPruneError, match=reason):
        fxprune.factorise_onnx(network(line, shape))
    with pytest.raises(InputError, match=f"layers: w cannot be low_rank: {reason}"):
        fxprune.factorise_onnx(network(line, shape), layers=["w"])


def test_latency_of_files_does_not_go_with_forms():
    with pytest.raises(InputError, match="factorise= takes no target on the latency"):
        fxprune.prune_onnx(residual(), target={"latency": 0.5}, factorise="low_rank")
